"""Progress of long work on standard error: bars on a terminal, elsewhere a line at least every minute.

Nested work (a validation in a training run) has a separate bar on a terminal; elsewhere the innermost work has the
line. Short work prints nothing elsewhere, so that the log of a job stays short.
"""

import faulthandler
import math
import sys
import threading
import time
from collections.abc import Iterable, Iterator, Sized
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from typing import Any, TypeVar

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.table import Column

from sarwmix_jax.errors import LOST
from sarwmix_jax.processes import end_now

FIRST_SECONDS = 10.0
"""Shorter work has no line in a log."""
INTERVAL_SECONDS = 60.0
"""Longest silence in a log."""
_TICK_SECONDS = 1.0
T = TypeVar("T")


@dataclass(eq=False)
class Advance:
    """Progress of some work; call it with a number of items to count them as done.

    Attributes:
        what: Name of the work, for the user.
        total: Number of items; None where it is not known.
        unit: Name of the items in the plural.
        done: Number of items done.
        remark: Text beside the bar on a terminal.
        announced: Whether a line has named the work.
    """

    what: str
    total: int | None = None
    unit: str = "records"
    done: int = 0
    remark: str = ""
    announced: bool = False
    _started: float = field(default_factory=lambda: now())
    _line_shown: bool = False
    _row: Any = None

    def __post_init__(self) -> None:
        self._before = self.done

    def __call__(self, count: int = 1) -> None:
        """Count items as done."""
        _board.advance(self, count)

    def restart(self, done: int) -> None:
        """Count time from now on, with `done` items done."""
        self.done = self._before = done
        self._started = now()

    @property
    def seconds(self) -> float:
        """Time since the start."""
        return now() - self._started

    @property
    def rate(self) -> float:
        """Items per second since the start; 0 before the first."""
        return (self.done - self._before) / max(self.seconds, 1e-9)

    @property
    def seconds_left(self) -> float | None:
        """Estimated time until all items are done; None where it is not known."""
        return None if self.total is None or not self.rate else max(self.total - self.done, 0) / self.rate

    def line(self) -> str:
        """The progress in one line."""
        count = f"{self.done:,}" if self.total is None else f"{self.done:,}/{self.total:,}"
        text = self.what if self.total is None and not self.done else f"{self.what}: {count} {self.unit}"
        if self.rate:
            text += f", {self.rate:.3g} {self.unit}/s" if self.rate < 999.5 else f", {self.rate:,.0f} {self.unit}/s"
        if self.total is not None and self.done >= self.total:
            return f"{text}, done in {duration(self.seconds)}"
        left = self.seconds_left
        return f"{text}, {duration(self.seconds)} so far" if left is None else f"{text}, about {duration(left)} left"


@contextmanager
def progress(what: str, total: int | None = None, unit: str = "records", *, done: int = 0) -> Iterator[Advance]:
    """Show the progress of some work while it lasts.

    Args:
        what: Name of the work.
        total: Number of items; None where it is not known.
        unit: Name of the items in the plural.
        done: Number of items that are done already.

    Yields:
        The progress: call it with a number of items to count them as done, from any thread.
    """
    with shown(Advance(what, total, unit, done)) as work:
        yield work


@contextmanager
def shown(work: Advance) -> Iterator[Advance]:
    """Show the progress of `work` while it lasts."""
    _board.add(work)
    try:
        yield work
    finally:
        _board.remove(work)


def track(items: Iterable[T], what: str, total: int | None = None, unit: str = "records") -> Iterator[T]:
    """The items, counted as they are used.

    Args:
        items: Items of the work.
        what: Name of the work.
        total: Number of items, if `items` has no length.
        unit: Name of the items in the plural.
    """
    if total is None and isinstance(items, Sized):
        total = len(items)
    with progress(what, total, unit) as advance:
        for item in items:
            yield item
            advance(1)


def show(text: str) -> None:
    """Print lines on standard error, above any bars."""
    _board.show(text)


@contextmanager
def silent(wanted: bool = True) -> Iterator[None]:
    """Show nothing in this context if `wanted`: of processes that do the same work, only the first one prints."""
    _board.silent += int(wanted)
    try:
        yield
    finally:
        _board.silent -= int(wanted)


def alive() -> None:
    """Note that the work goes on, where nothing else shows it; see `ended_when_stuck`."""
    _board.alive = now()


@contextmanager
def ended_when_stuck(limit_seconds: float) -> Iterator[None]:
    """End the process where nothing advances for so long in this context, with the stacks of all threads."""
    left = threading.Event()

    def watch() -> None:
        while not left.wait(min(limit_seconds / 4, _TICK_SECONDS)):
            if (silence := now() - _board.alive) > limit_seconds:
                print(f"error: nothing has advanced for {silence:.0f} s; stacks of all threads:", file=sys.__stderr__)
                faulthandler.dump_traceback(sys.__stderr__ or 2)
                end_now(LOST)

    alive()
    threading.Thread(target=watch, daemon=True, name="watchdog").start()
    try:
        yield
    finally:
        left.set()


def on_terminal() -> bool:
    """Whether bars can be shown."""
    return bool(sys.stderr and not sys.stderr.closed and sys.stderr.isatty())


def duration(seconds: float) -> str:
    """A time as text: 45 s, 12 min, 3 h 20 min, 2 d 4 h."""
    if seconds < 99.5:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    if minutes < 100:
        return f"{minutes} min"
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes:02d} min" if hours < 48 else f"{hours // 24} d {hours % 24} h"


def now() -> float:
    """Seconds of a clock that never goes back."""
    return time.monotonic()


class _Board:
    """All current work of this process, outermost first."""

    def __init__(self) -> None:
        self.silent = 0
        self.alive = now()
        self._works: list[Advance] = []
        self._lock = threading.RLock()
        self._bars: Progress | None = None
        self._last = -math.inf
        self._active = threading.Event()
        self._thread: threading.Thread | None = None

    def add(self, work: Advance) -> None:
        alive()
        if self.silent:
            return
        with self._lock:
            self._works.append(work)
            if len(self._works) == 1:
                self._begin()
            if self._bars is not None:
                with suppress(OSError, ValueError):  # a terminal that was closed does not end the work
                    row = self._bars.add_task(work.what, total=work.total, completed=work.done, remark=work.remark)
                    work._row = row

    def _begin(self) -> None:
        self._last = now()
        if on_terminal():
            self._bars = _bars()
            with suppress(OSError, ValueError):
                self._bars.start()
            return
        # A thread, because a call that takes minutes (of the compiler, of a fit) counts nothing meanwhile. It is kept:
        # short work is frequent, and the address space of a new thread is large.
        self._active.set()
        if self._thread is None or not self._thread.is_alive():  # a forked process has no such thread
            self._thread = threading.Thread(target=self._watch, daemon=True, name="progress")
            self._thread.start()

    def _watch(self) -> None:
        while self._active.wait():
            time.sleep(_TICK_SECONDS)
            self._line_if_due()

    def advance(self, work: Advance, count: int) -> None:
        alive()
        with self._lock:
            work.done += count
            if self._bars is not None and work._row is not None:
                self._bars.update(work._row, completed=work.done, remark=work.remark)
        self._line_if_due()

    def _line_if_due(self) -> None:
        with self._lock:
            if self._bars is None and self._works and not self.silent:
                work = self._works[-1]
                if now() - self._last >= (INTERVAL_SECONDS if work.announced else FIRST_SECONDS):
                    work.announced = work._line_shown = True
                    self.show(work.line())

    def remove(self, work: Advance) -> None:
        with self._lock:
            if work not in self._works:
                return
            self._works.remove(work)
            if self._bars is not None and work._row is not None:
                self._bars.remove_task(work._row)
            elif work._line_shown and work.done == work.total:
                self.show(work.line())
            if self._works:
                return
            self._active.clear()
            bars, self._bars = self._bars, None
        if bars is not None:
            with suppress(OSError, ValueError):
                bars.stop()

    def show(self, text: str) -> None:
        if self.silent:
            return
        with self._lock, suppress(OSError, ValueError):  # a closed output does not end the work
            self._last = now()
            if self._bars is not None:
                self._bars.console.print(text, highlight=False, markup=False)
            elif sys.stderr:
                print(text, file=sys.stderr, flush=True)


def _bars() -> Progress:
    # Output of a command to a file or a pipe must not be redirected to the terminal because of the bars.
    to_terminal = bool(sys.stdout and not sys.stdout.closed and sys.stdout.isatty())
    rest = Column(ratio=1, no_wrap=True, overflow="ellipsis")  # on a narrow terminal only the remark is shortened
    remark = TextColumn("{task.fields[remark]}", markup=False, table_column=rest)
    columns = (TextColumn("{task.description}", markup=False), BarColumn(16), MofNCompleteColumn())
    times, console = (TimeElapsedColumn(), TimeRemainingColumn()), Console(file=sys.stderr)
    return Progress(*columns, *times, remark, console=console, transient=True, redirect_stdout=to_terminal, expand=True)


_board = _Board()
