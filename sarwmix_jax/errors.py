"""The one error that a user is meant to read, and the exit codes of all commands."""

import re

FAILED = 1
"""Exit code when the work was done and its result is not good enough."""

MISTAKE = 2
"""Exit code after a `UserError`."""

STOPPED = 75
"""Exit code of a run that a signal ended: saved; the same command goes on. Launch scripts requeue on it."""

INTERRUPTED = 130
"""Exit code after Ctrl-C."""

CLOSED = 141
"""Exit code when nobody reads the output any more, as after `| head`."""

# What would move a terminal's cursor, or is the byte of a file name that is not UTF-8.
UNPRINTABLE = re.compile("[\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]")


class UserError(Exception):
    """A mistake in settings, files or data, told in one line: what, where, what to do.

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
