"""What a run writes down: means and speed of its steps, JSON lines in its work directory, progress on a terminal."""

import json
import logging
import math
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any, Self, TextIO

import jax
import numpy as np
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

FILE_NAME = "log.jsonl"

SHOWN = ("loss", "ap_macro", "f1_macro", "accuracy", "accuracy_percent", "f1")


def quiet_libraries() -> None:
    """Keep off the terminal what Orbax tells of its every step, and of failures that this package tells in one line."""
    for name in ("absl", "asyncio"):
        logging.getLogger(name).setLevel(logging.CRITICAL + 1)
    sys.unraisablehook = _unraisable


def _unraisable(told: "sys.UnraisableHookArgs") -> None:
    # After a failed write tensorstore's threads report to an event loop that Orbax has closed by then.
    if not (told.exc_type is RuntimeError and str(told.exc_value) == "Event loop is closed"):
        sys.__unraisablehook__(told)


class NonFiniteLoss(Exception):
    """The loss or the gradient norm of a step, or the loss of a validation, is not a number.

    Attributes:
        step: the step, counted from 0; of a validation, the number of steps done.
        records: numbers of the records of this process's part of its batch; none of a validation.
        values: the step's metrics.
    """

    def __init__(self, step: int, records: np.ndarray, values: dict[str, Any]) -> None:
        super().__init__(f"loss {values['loss']} at step {step}")
        self.step, self.records, self.values = step, records, values


@dataclass
class Throughput:
    """Means and speed of the steps between two log lines.

    The device is asked for its numbers only when a line is due.
    """

    global_batch: int
    devices: int
    flops_per_image: float | None = None
    peak_flops: float | None = None
    _pending: list[tuple[int, dict[str, Any], np.ndarray]] = field(default_factory=list)
    _cold: bool = True
    _waited: float = 0.0
    _since: float = field(default_factory=time.perf_counter)

    def waited(self, seconds: float) -> None:
        """Add time spent waiting for data."""
        self._waited += seconds

    def add(self, step: int, metrics: dict[str, Any], records: np.ndarray) -> None:
        """Note a step that was started."""
        self._pending.append((step, metrics, records))

    def restart(self) -> None:
        """Leave out the time since the last line, after a checkpoint, a validation or a compilation."""
        self._waited, self._since = 0.0, time.perf_counter()

    def flush(self) -> dict[str, Any]:
        """Means over the noted steps, with speed; empty when there are none.

        The first result of a start has no speed: its time, `compile_time`, is mostly that of the compiler.

        Raises:
            NonFiniteLoss: one of them went wrong.
        """
        if not self._pending:
            return {}
        steps = [(step, jax.device_get(metrics), records) for step, metrics, records in self._pending]
        elapsed = max(time.perf_counter() - self._since, 1e-9)
        for step, metrics, records in steps:
            if not (np.isfinite(metrics["loss"]) and np.isfinite(metrics["grad_norm"])):
                values = {name: np.asarray(value).tolist() for name, value in metrics.items()}
                raise NonFiniteLoss(step, records, values)
        means = {name: np.mean([metrics[name] for _, metrics, _ in steps], axis=0).tolist() for name in steps[0][1]}
        speed = {"compile_time": elapsed} if self._cold else self._speed(len(steps), elapsed)
        self._pending, self._cold = [], False
        self.restart()
        return means | speed

    def _speed(self, steps: int, elapsed: float) -> dict[str, float]:
        rate = steps * self.global_batch / elapsed
        speed = {"images_per_second": rate, "step_time": elapsed / steps, "data_wait": self._waited / elapsed}
        if self.flops_per_image and self.peak_flops:
            speed["mfu"] = rate * self.flops_per_image / (self.peak_flops * self.devices)
        return speed


class RunLog:
    """JSON lines, and a progress bar on a terminal or plain lines elsewhere; silent where `quiet`.

    Every line has `event` and `time` (seconds since 1970). Numbers that are not finite become text: JSON has none.
    """

    def __init__(
        self,
        workdir: Path,
        total_steps: int,
        *,
        quiet: bool = False,
        bands: Sequence[str] = (),
        stream: TextIO | None = None,
    ):
        """Open the log of a run.

        Args:
            workdir: Folder of the run.
            total_steps: Where it ends.
            quiet: Write nothing, as processes other than the first.
            bands: Names of the values of figures per band.
            stream: Where progress goes; the standard error unless given.
        """
        self._file = None if quiet else (workdir / FILE_NAME).open("a", buffering=1)
        self._board = None if quiet else tensorboard_writer(workdir)
        self._bands = bands
        self._stream = sys.stderr if stream is None else stream
        self._total = total_steps
        self._bar = _progress_bar(self._stream, hidden=quiet or not self._stream.isatty())

    def __enter__(self) -> Self:
        self._bar.start()
        self._task = self._bar.add_task("", total=self._total)
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        self._bar.stop()
        for output in (self._file, self._board):
            if output is not None:
                output.close()

    def write(self, event: str, **values: Any) -> None:
        """One JSON line; its numbers also go to TensorBoard where that is installed."""
        if self._file is not None:
            self._file.write(json.dumps({"event": event, "time": round(time.time(), 3)} | _finite(values)) + "\n")
        if self._board is not None and event in ("train", "validation", "probe"):
            for name, value in scalars(values, self._bands):
                self._board.add_scalar(f"{event}/{name}", value, values["step"])

    def say(self, text: str) -> None:
        """One line for the reader at the terminal."""
        if not self._bar.disable:
            self._bar.console.print(text, highlight=False, markup=False)
        elif self._file is not None:
            print(text, file=self._stream, flush=True)

    @contextmanager
    def task(self, what: str, total: int) -> Iterator[Callable[[int], None]]:
        """A bar of its own, on a terminal, for work before the steps; gives a function that moves it on."""
        row = self._bar.add_task(what, total=total)
        try:
            yield lambda count: self._bar.advance(row, count)
        finally:
            self._bar.remove_task(row)

    def advance(self, step: int, values: dict[str, Any] | None = None) -> None:
        """Move the progress bar; `values` (on logged steps) are shown, and on no terminal printed as a line."""
        text = "" if values is None else progress_text(values)
        if not self._bar.disable:
            self._bar.update(self._task, completed=step, description=text or None)
        elif text:
            self.say(f"step {step}/{self._total}  {text}")


def scalars(values: dict[str, Any], bands: Sequence[str]) -> Iterator[tuple[str, float]]:
    """Finite numbers of a log line by name; those per band with the band's name."""
    for name, value in values.items():
        if name.endswith("_per_band"):
            yield from scalars({f"{name}/{band}": part for band, part in zip(bands, value, strict=True)}, bands)
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


def scores_text(scores: dict[str, float]) -> str:
    """The few scores of a validation that a line on the terminal shows; the log has all."""
    return ", ".join(f"{name} {scores[name]:.4f}" for name in SHOWN if name in scores)


def read_log(workdir: Path) -> list[dict[str, Any]]:
    """All lines of a run's log; a line cut off by a crash is left out."""
    entries = []
    for line in (workdir / FILE_NAME).read_text().splitlines():
        with suppress(json.JSONDecodeError):
            entries.append(json.loads(line))
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


def _progress_bar(stream: TextIO, *, hidden: bool) -> Progress:
    done, what = (TextColumn(form) for form in ("{task.completed:.0f}/{task.total:.0f}", "{task.description}"))
    columns = (BarColumn(), done, TimeElapsedColumn(), TimeRemainingColumn(), what)
    return Progress(*columns, console=Console(file=stream), disable=hidden)


def _finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _finite(part) for name, part in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(part) for part in value]
    return str(value) if isinstance(value, float) and not math.isfinite(value) else value
