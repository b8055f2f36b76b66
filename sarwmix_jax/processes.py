"""What reaches this process from outside: signals, which its child processes do not get, and the end of its readers."""

import contextlib
import itertools
import multiprocessing
import multiprocessing.connection
import os
import select
import signal
import sys
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any, NoReturn

from sarwmix_jax.errors import INTERRUPTED, UserError

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2)
"""Ctrl-C, and what schedulers send before they end a job (SIGUSR1 and SIGUSR2 where a script asks for it) or a closed
terminal sends."""

GRACE_SECONDS = 1.0
"""Time from a second Ctrl-C until the process ends, if its main thread does not react."""

INTERRUPTED_LINE = "interrupted; the same command continues from what is finished"


_raised: list[str] = []
"""Names of the signals that raised an exception in this command. Python loses one that is raised in a finaliser or in
some callbacks, as JAX has one for each garbage collection."""

_left_to_libraries: set[int] = set()
"""Signals with a handler that is not Python's: to set another and to restore it would lose it."""

_to_release: list[Callable[[], None]] = []

_calls, _agreed = itertools.count(1), list[str]()

_UNSEEN = "ignore:resource_tracker"


class Terminated(BaseException):
    """A signal other than Ctrl-C, while there is nothing to save; the argument is its name."""


RAISED_BY_SIGNALS = (KeyboardInterrupt, Terminated)


@contextmanager
def _handled(handler: Callable[[int, FrameType | None], Any], numbers: Iterable[signal.Signals]) -> Iterator[None]:
    """Use a handler in this context. A signal that is ignored stays so (`nohup`), but not Ctrl-C (jobs with `&`)."""
    previous: dict[signal.Signals, Any] = {}
    try:
        if threading.current_thread() is threading.main_thread():  # Python allows handlers only there
            for number in set(numbers) - _left_to_libraries:
                if number == signal.SIGINT or signal.getsignal(number) != signal.SIG_IGN:
                    previous[number] = signal.signal(number, handler)
        yield
    finally:
        for number, before in previous.items():
            signal.signal(number, signal.SIG_DFL if before is None else before)


@contextmanager
def raised_signals() -> Iterator[None]:
    """In this context signals raise `Terminated`, and Ctrl-C `KeyboardInterrupt`."""

    def stop(number: int, _: FrameType | None) -> None:
        _raised.append(signal.Signals(number).name)
        raise KeyboardInterrupt if number == signal.SIGINT else Terminated(_raised[-1])

    def lost(found: Any) -> None:
        if not issubclass(found.exc_type, RAISED_BY_SIGNALS):
            shown(found)

    shown, sys.unraisablehook = sys.unraisablehook, lost  # which would print a traceback
    try:
        with _handled(stop, SIGNALS):
            yield
    finally:
        _raised.clear()
        if sys.unraisablehook is lost:  # else a command has set its own for all that follows
            sys.unraisablehook = shown


@contextmanager
def deferred_signals() -> Iterator[None]:
    """Signals in this context take effect at its end, even where it ends with an error; a second Ctrl-C at once.

    For libraries that work with asyncio: it loses the exception of a handler, and then waits for ever.
    """
    received: list[int] = []

    def defer(number: int, _: FrameType | None) -> None:
        if number == signal.SIGINT and number in received:
            raise KeyboardInterrupt
        received.append(number)

    try:
        with _handled(defer, SIGNALS):
            yield
    finally:
        for number in received:
            signal.raise_signal(number)


def leave_sigterm_to_jax() -> None:
    """From now on JAX's own handler of SIGTERM stays, by which the processes of a job agree on their last step."""
    _left_to_libraries.add(signal.SIGTERM)


@contextmanager
def noted_signals() -> Iterator[list[str]]:
    """Names of signals so far, with those before whose exception was lost: they are only noted.

    A second Ctrl-C raises `KeyboardInterrupt`. Where JAX handles SIGTERM, any other signal causes one.
    """
    received = [*_raised]

    def note(number: int, _: FrameType | None) -> None:
        if number == signal.SIGINT and "SIGINT" in received:
            raise KeyboardInterrupt
        received.append(signal.Signals(number).name)
        if signal.SIGTERM in _left_to_libraries:
            signal.raise_signal(signal.SIGTERM)

    if received and signal.SIGTERM in _left_to_libraries:
        signal.raise_signal(signal.SIGTERM)
    with _handled(note, SIGNALS):
        yield received


def asked_to_stop(signals: list[str]) -> str | None:
    """Name of the signal because of which a run stops after this step; all processes of a run stop after the same one.

    Args:
        signals: Names of the signals that this process got; see `noted_signals`.
    """
    import jax
    from jax.experimental import multihost_utils

    if jax.process_count() == 1:
        return next(iter(signals), None)
    # JAX counts calls: for a signal before the first one, as in a restore, it waits for number 1, whatever the step is.
    if not _agreed and multihost_utils.reached_preemption_sync_point(next(_calls)):
        _agreed.append((signals or ["SIGTERM"])[0])  # JAX states it once, and the run may yet go back to a checkpoint
    return next(iter(_agreed), None)


@contextmanager
def ended_by_second_ctrl_c() -> Iterator[None]:
    """A second Ctrl-C in this context soon ends the process, whatever its main thread does.

    Python calls handlers in the main thread alone, which a program on a device or a write can occupy for minutes.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    reader, writer = os.pipe()
    os.set_blocking(writer, False)
    previous = signal.set_wakeup_fd(writer, warn_on_full_buffer=False)
    threading.Thread(target=_end_at_second_ctrl_c, args=(reader,), daemon=True, name="signals").start()
    try:
        yield
    finally:
        signal.set_wakeup_fd(previous)
        os.close(writer)


def _end_at_second_ctrl_c(reader: int) -> None:
    """Read numbers of signals until there are two of Ctrl-C; then end the process, unless the context is left."""
    with open(reader, "rb", buffering=0) as numbers:
        left = 2
        while left and (number := numbers.read(1)):
            left -= number[0] == signal.SIGINT
        if left or (select.select([numbers], [], [], GRACE_SECONDS)[0] and not numbers.read(1)):
            return
    with contextlib.suppress(OSError):
        os.write(2, f"{INTERRUPTED_LINE}\n".encode())
    os._exit(INTERRUPTED)


@contextmanager
def signals_kept_from_children(wanted: bool = True) -> Iterator[None]:
    """Processes that start in this context never get these signals, which reach all of a terminal or a job."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS if wanted else ())  # which they inherit
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def silence_resource_tracker() -> None:
    """To be called before child processes start: what frees the memory that a killed one shared does so silently."""
    if _UNSEEN not in sys.warnoptions:
        sys.warnoptions.append(_UNSEEN)  # Python starts that process with them


def end_now(code: int) -> NoReturn:
    """End this process whatever its other threads do; releases what `release_at_end` names.

    Args:
        code: The exit code.
    """
    for release in list(_to_release):
        release()
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError, ValueError, AttributeError):
            stream.flush()
    os._exit(code)


@contextmanager
def release_at_end(release: Callable[[], None]) -> Iterator[None]:
    """Call a function, which must not raise, if `end_now` ends the process in this context."""
    _to_release.append(release)
    try:
        yield
    finally:
        _to_release.remove(release)


def end_with_parent(*_: Any) -> None:
    """To be called in a child process: it ends when its parent was killed, and does not wait or write for ever."""
    threading.Thread(target=_wait_for_parent, daemon=True).start()


def _wait_for_parent() -> None:
    parent = multiprocessing.parent_process()
    if parent is not None:
        multiprocessing.connection.wait([parent.sentinel])
        os._exit(1)


def flush_output() -> None:
    """Write the buffered output.

    Raises:
        BrokenPipeError: Nobody reads it.
        UserError: It cannot be written, as on a full disk.
    """
    try:
        if sys.stdout is not None:
            sys.stdout.flush()
    except BrokenPipeError:
        raise
    except OSError as error:
        drop_output(sys.stdout)
        raise UserError(f"cannot write the output: {error.strerror}") from error


def drop_output(stream: Any) -> None:
    """Discard buffered output; Python would report an error for it at its end, and end with an exit code of its own."""
    with contextlib.suppress(OSError, ValueError):  # the output is not a file, as in a notebook
        os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())


def nobody_reads() -> bool:
    """Whether standard output is a pipe whose other end is closed, as after `| head`."""
    poll = select.poll()
    with contextlib.suppress(OSError, AttributeError):  # the output is not a file, as in a notebook, or there is none
        poll.register(sys.stdout.fileno(), 0)
    return any(event & (select.POLLERR | select.POLLHUP) for _, event in poll.poll(0))
