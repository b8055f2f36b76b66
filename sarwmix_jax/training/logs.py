"""Logs of a run: JSON lines in its work directory, and lines for the reader."""

import json
import logging
import math
import os
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import Any, Self, TextIO

from sarwmix_jax import progress
from sarwmix_jax.errors import UserError
from sarwmix_jax.processes import RAISED_BY_SIGNALS
from sarwmix_jax.progress import Advance, duration, shown
from sarwmix_jax.settings.sections import RunSettings

FILE_NAME = "log.jsonl"

STEP_LINE_SECONDS = 10.0
"""Shortest time between two lines of steps without a terminal; the JSON lines have all."""

SHOWN = ("loss", "ap_macro", "f1_macro", "accuracy", "accuracy_percent", "f1")


def quiet_libraries() -> None:
    """Keep off the terminal Orbax' reports of its steps, and failures that are reported in one line anyway."""
    for name in ("absl", "asyncio"):
        logging.getLogger(name).setLevel(logging.CRITICAL + 1)
    # Where a font is missing another draws the text; a picture has twenty such lines.
    logging.getLogger("matplotlib.font_manager").setLevel(logging.ERROR)
    sys.unraisablehook = _unraisable


def _unraisable(raised: "sys.UnraisableHookArgs") -> None:
    # After a failed write, tensorstore's threads report to an event loop that Orbax has already closed.
    closed = raised.exc_type is RuntimeError and str(raised.exc_value) == "Event loop is closed"
    if not (closed or issubclass(raised.exc_type, RAISED_BY_SIGNALS)):  # a run notes the signals
        sys.__unraisablehook__(raised)


class RunLog:
    """JSON lines, and a progress bar on a terminal or plain lines elsewhere; silent where `quiet`.

    Every line has `event` and `time` (seconds since 1970). Numbers that are not finite become text, as JSON has none.
    """

    def __init__(self, workdir: Path, total_steps: int, *, quiet: bool = False, bands: Sequence[str] = ()):
        """Open the log of a run.

        Args:
            workdir: Folder of the run.
            total_steps: Number of steps of the run.
            quiet: Write nothing, as in all processes but the first.
            bands: Names of the bands, for values per band.

        Raises:
            UserError: The log cannot be written.
        """
        self._file = None if quiet else _to_append(workdir / FILE_NAME)
        self._trackers: list[Any] = []
        self._bands, self._total = bands, total_steps
        self._work, self._steps = ExitStack(), Advance("training", total_steps, "steps", announced=True)
        self._begun, self._last_line = False, -math.inf

    def __enter__(self) -> Self:
        if self._file is not None:
            self._work.enter_context(shown(self._steps))
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        self._work.close()
        if self._file is not None:
            self._file.close()
        for tracker in self._trackers:
            tracker.close(failed=kind is not None)

    def track(self, settings: RunSettings, workdir: Path, step: int) -> None:
        """Also write numbers and pictures from `step` on to the trackers that are asked for.

        Raises:
            UserError: One of them cannot start.
        """
        if self._file is not None and settings.log.trackers:
            from sarwmix_jax.training.trackers import open_trackers

            self._trackers = open_trackers(settings, workdir, step)

    def picture(self, name: str, step: int, draw: Callable[[], Any | None]) -> None:
        """A picture for the trackers, which is not drawn where there are none; `draw` gives None for no picture."""
        if self._trackers and (image := draw()) is not None:
            for tracker in self._trackers:
                tracker.picture(name, step, image)

    def write(self, event: str, **values: Any) -> None:
        """Write one JSON line; numbers of steps, validations and probes also go to the trackers."""
        if self._file is not None:
            self._file.write(json.dumps({"event": event, "time": round(time.time(), 3)} | _finite(values)) + "\n")
        if self._trackers and event in ("train", "validation", "probe"):
            numbers = dict(scalars(values, self._bands))
            for tracker in self._trackers:
                tracker.scalars(event, values["step"], numbers)

    def write_probe(self, step: int, epoch: float, scores: dict[str, float]) -> None:
        """Log the scores of frozen features."""
        self.write("probe", step=step, epoch=epoch, **scores)
        self.show(f"step {step}: probe, {scores['neighbours']:.0f} nearest neighbours: {scores_text(scores)}")

    def show(self, *texts: str) -> None:
        """Print lines for the reader on standard error."""
        if self._file is not None:
            for text in texts:
                progress.show(text)

    def advance(self, step: int, values: dict[str, Any] | None = None) -> None:
        """Move the progress to `step`; `values` (of logged steps) are shown beside the bar, or as a line.

        Time is counted from the first step on, without that of the compiler.
        """
        progress.alive()
        if self._file is None:
            return
        if not self._begun:
            self._begun = True
            self._steps.restart(step)
        if values is not None:
            self._steps.remark = progress_text(values)
        self._steps(step - self._steps.done)
        if values is not None and not progress.on_terminal():
            self._show_step()

    def _show_step(self) -> None:
        now, steps = progress.now(), self._steps
        if now - self._last_line >= STEP_LINE_SECONDS or steps.done == self._total:
            self._last_line, left = now, steps.seconds_left
            known = f"  about {duration(left)} left" if left else ""
            self.show(f"step {steps.done}/{self._total}  {steps.remark}{known}")


def scalars(values: dict[str, Any], bands: Sequence[str]) -> Iterator[tuple[str, float]]:
    """Finite numbers of a log line by name; values per band are named by band."""
    for name, value in values.items():
        if name.endswith("_per_band"):
            yield from scalars({f"{name}/{band}": part for band, part in zip(bands, value, strict=True)}, bands)
        elif isinstance(value, int | float) and name != "step" and math.isfinite(value):
            yield name, value


def progress_text(values: dict[str, Any]) -> str:
    """The main numbers of a step as text; the first step has no speed."""
    speed = f"  {values['images_per_second']:.0f} images/s" if "images_per_second" in values else ""
    return f"epoch {values['epoch']:.2f}  loss {values['loss']:.4f}  lr {values['learning_rate']:.2e}{speed}"


def scores_text(scores: dict[str, float]) -> str:
    """The main scores of a validation as text; the log has all."""
    return ", ".join(f"{name} {scores[name]:.4f}" for name in SHOWN if name in scores)


def _to_append(path: Path) -> TextIO:
    """The log, to write further lines; a line that a kill has cut off is ended, so that the next one is not lost."""
    try:
        with path.open("ab+") as file:
            if path.stat().st_size and (file.seek(-1, os.SEEK_END), file.read())[1] != b"\n":
                file.write(b"\n")
                progress.show(f"{path}: its last line is cut off, as by a kill, and is left out from now on")
        return path.open("a", buffering=1)
    except OSError as error:
        raise UserError(f"cannot write {path}: {error.strerror}; choose another --workdir") from error


def _finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _finite(part) for name, part in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(part) for part in value]
    return str(value) if isinstance(value, float) and not math.isfinite(value) else value
