"""The error for a user's mistake, text made printable in one line, and the exit codes of all commands."""

import re

FAILED = 1
"""Exit code when the work was done, but its result is not good enough."""

MISTAKE = 2
"""Exit code after a `UserError`."""

STOPPED = 75
"""Exit code of a run that a signal ended: it is saved, and the same command resumes it; launch scripts requeue it."""

LOST = 76
"""Exit code of a run that ended itself: another process of its job was lost, or no step was finished in time."""

INTERRUPTED = 130
"""Exit code after Ctrl-C."""

CLOSED = 141
"""Exit code when the output is no longer read, as after `| head`."""

# Characters that would move a terminal's cursor, and bytes of file names that are not UTF-8.
UNPRINTABLE = re.compile("[\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]")


class UserError(Exception):
    """A mistake in settings, files or data, described in one line: what, where, what to do.

    Commands print it without a traceback and end with exit code 2.
    """


def one_line(text: object) -> str:
    """A message as one line that can be printed: white space joined, other control characters and odd bytes escaped."""
    return UNPRINTABLE.sub(_escaped, " ".join(str(text).split()))


def _escaped(found: re.Match[str]) -> str:
    code = ord(found[0])
    if 0xDC80 <= code <= 0xDCFF:  # as Python reads a byte that is not UTF-8 in a file name
        code -= 0xDC00
    return f"\\x{code:02x}" if code < 0x100 else f"\\u{code:04x}"
