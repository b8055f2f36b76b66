"""What a run tells: JSON lines in its work directory, and a progress line on the terminal."""

import json
import logging
import math
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Any, Self, TextIO

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from sarwmix_jax.facts.bands import BANDS

FILE_NAME = "log.jsonl"


def quiet_libraries() -> None:
    """Keep off the terminal what Orbax tells of its every step, and of failures that this package tells in one line."""
    for name in ("absl", "asyncio"):
        logging.getLogger(name).setLevel(logging.CRITICAL + 1)
    sys.unraisablehook = _unraisable


def _unraisable(told: "sys.UnraisableHookArgs") -> None:
    # After a failed write tensorstore's threads report to an event loop that Orbax has closed by then.
    if not (told.exc_type is RuntimeError and str(told.exc_value) == "Event loop is closed"):
        sys.__unraisablehook__(told)


class RunLog:
    """JSON lines, and a progress bar on a terminal or plain lines elsewhere; silent where `quiet`.

    Every line has `event` and `time` (seconds since 1970). Numbers that are not finite become text: JSON has none.
    """

    def __init__(self, workdir: Path, total_steps: int, *, quiet: bool = False, stream: TextIO | None = None):
        """Open the log of a run of `total_steps`; processes other than the first are `quiet` and write nothing."""
        self._file = None if quiet else (workdir / FILE_NAME).open("a", buffering=1)
        self._board = None if quiet else tensorboard_writer(workdir)
        self._stream = sys.stderr if stream is None else stream
        self._quiet = quiet
        self._total = total_steps
        self._bar = _progress_bar(self._stream) if self._stream.isatty() and not quiet else None
        self._task: TaskID | None = None

    def __enter__(self) -> Self:
        if self._bar is not None:
            self._bar.start()
            self._task = self._bar.add_task("", total=self._total)
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        if self._bar is not None:
            self._bar.stop()
        if self._file is not None:
            self._file.close()
        if self._board is not None:
            self._board.close()

    def write(self, event: str, **values: Any) -> None:
        """One JSON line; its numbers also go to TensorBoard where that is installed."""
        if self._file is not None:
            self._file.write(json.dumps({"event": event, "time": round(time.time(), 3)} | _finite(values)) + "\n")
        if self._board is not None and event in ("train", "validation"):
            for name, value in scalars(values):
                self._board.add_scalar(f"{event}/{name}", value, values["step"])

    def say(self, text: str) -> None:
        """One line for the reader at the terminal."""
        if self._quiet:
            return
        if self._bar is not None:
            self._bar.console.print(text, highlight=False, markup=False)
        else:
            print(text, file=self._stream, flush=True)

    @contextmanager
    def task(self, what: str, total: int) -> Iterator[Callable[[int], None]]:
        """A bar of its own, on a terminal, for work before the steps; gives a function that moves it on."""
        if self._bar is None:
            yield lambda count: None
            return
        bar, row = self._bar, self._bar.add_task(what, total=total)
        try:
            yield lambda count: bar.advance(row, count)
        finally:
            bar.remove_task(row)

    def advance(self, step: int, values: dict[str, Any] | None = None) -> None:
        """Move the progress bar; `values` (on logged steps) are shown, and on no terminal printed as a line."""
        text = "" if values is None else progress_text(values)
        if self._bar is not None and self._task is not None:
            changes: dict[str, Any] = {"description": text} if text else {}
            self._bar.update(self._task, completed=step, **changes)
        elif text:
            self.say(f"step {step}/{self._total}  {text}")


def scalars(values: dict[str, Any]) -> Iterator[tuple[str, float]]:
    """Finite numbers of a log line by name; those per band with the band's name."""
    for name, value in values.items():
        if name.endswith("_per_band"):
            yield from scalars({f"{name}/{band}": part for band, part in zip(BANDS, value, strict=True)})
        elif isinstance(value, int | float) and name != "step" and math.isfinite(value):
            yield name, value


def tensorboard_writer(workdir: Path) -> Any | None:
    """A TensorBoard writer, where tensorboardX is installed (the extra `tensorboard`)."""
    try:
        from tensorboardX import SummaryWriter
    except ImportError:
        return None
    return SummaryWriter(str(workdir / "tensorboard"))


def progress_text(values: dict[str, Any]) -> str:
    """The few numbers that tell how a run does."""
    if "images_per_second" in values:
        speed = f"{values['images_per_second']:.0f} images/s"
    else:
        speed = f"compiled in {values['compile_time']:.0f} s"
    return f"epoch {values['epoch']:.2f}  loss {values['loss']:.4f}  lr {values['learning_rate']:.2e}  {speed}"


def read_log(workdir: Path) -> list[dict[str, Any]]:
    """All lines of a run's log; a line cut off by a crash is left out."""
    entries = []
    for line in (workdir / FILE_NAME).read_text().splitlines():
        try:
            entries.append(json.loads(line))
        except json.JSONDecodeError:
            continue
    return entries


def training_curve(entries: list[dict[str, Any]], event: str = "train") -> list[dict[str, Any]]:
    """Entries of one kind by step; where a restart went back, the later ones count."""
    by_step: dict[int, dict[str, Any]] = {}
    for entry in entries:
        if entry["event"] == "start":
            by_step = {step: value for step, value in by_step.items() if step <= entry["step"]}
        elif entry["event"] == event:
            by_step[entry["step"]] = entry
    return [by_step[step] for step in sorted(by_step)]


def _progress_bar(stream: TextIO) -> Progress:
    columns = (BarColumn(), TextColumn("{task.completed:.0f}/{task.total:.0f}"), TimeElapsedColumn())
    return Progress(*columns, TimeRemainingColumn(), TextColumn("{task.description}"), console=Console(file=stream))


def _finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _finite(part) for name, part in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(part) for part in value]
    return str(value) if isinstance(value, float) and not math.isfinite(value) else value
