"""What a report knows about one run."""

import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sarwmix_jax.reports.lines import Point

PRETRAINING, FINETUNING = "pretraining", "finetuning"


@dataclass(frozen=True)
class LoggedRun:
    """A run as its log shows it, whichever system wrote the log.

    Attributes:
        path: The log file.
        task: `pretraining`, `multilabel`, `single_label`, `flood`, or where the log does not state it what it seems.
        train: Logged means over training steps.
        validation: Scores on held-out samples.
        probe: Scores of frozen features.
        best: The validation that was selected.
        selected: The rule that selected it.
        status: Finished, interrupted, or without an end.
        notes: Sentences for the reader.
        steps: Optimiser steps done.
        datasets: Names of the data sets.
        label_fraction: Share of the training labels.
        origin: What the parameters were initialised from; None for random ones and where it is not known.
        random: Whether a finetuning run is known to start from random parameters.
        pretraining_epoch: Epochs of pretraining behind the first parameters.
        starts: How often the run was started.
        devices: The devices, such as `2 x cpu`.
        device_hours: Hours between first and last line of every start, times its devices, summed.
        goodput: Share of the time of all starts that was productive.
        name: Short name, different for every run of a report.
    """

    path: Path
    task: str
    train: Sequence[Point] = ()
    validation: Sequence[Point] = ()
    probe: Sequence[Point] = ()
    best: Point | None = None
    selected: str = ""
    status: str = ""
    notes: Sequence[str] = ()
    steps: int | None = None
    datasets: Sequence[str] = ()
    label_fraction: float = 1.0
    origin: str | None = None
    random: bool = False
    pretraining_epoch: float | None = None
    starts: int | None = None
    devices: str = ""
    device_hours: float | None = None
    goodput: float | None = None
    name: str = ""

    @property
    def stage(self) -> str:
        """`pretraining` or `finetuning`: their losses are not comparable."""
        return PRETRAINING if self.task == PRETRAINING else FINETUNING

    @property
    def epochs(self) -> float | None:
        """Epochs done."""
        return max((point["epoch"] for point in (*self.train, *self.validation)), default=None)

    def row(self) -> dict[str, Any]:
        """The run in one row of the table; values that the log does not have are None."""
        speeds = [point["images_per_second"] for point in self.train if "images_per_second" in point]
        waits = [point["data_wait"] for point in self.train if "data_wait" in point]
        row = {
            "run": self.name,
            "task": self.task,
            "data_set": ", ".join(self.datasets) or None,
            "epochs": self.epochs,
            "steps": self.steps,
            "pretraining_epoch": self.pretraining_epoch,
            "selected": f"{self.selected}, epoch {self.best['epoch']:g}" if self.best else None,
            "train/loss": next((point["loss"] for point in reversed(self.train) if "loss" in point), None),
        }
        for event, point in (("validation", self.best), ("probe", self.probe[-1] if self.probe else None)):
            row |= {
                f"{event}/{name}": value
                for name, value in (point or {}).items()
                if name not in ("epoch", "step", "time")
            }
        return row | {
            "images_per_second": statistics.median(speeds) if speeds else None,
            "data_wait": statistics.fmean(waits) if waits else None,
            "devices": self.devices or None,
            "device_hours": self.device_hours,
            "goodput": self.goodput,
            "starts": self.starts,
            "status": self.status or None,
            "log": str(self.path),
        }


def lowest_loss(validation: Sequence[Point]) -> Point | None:
    """The validation of the lowest loss, the first of equal ones; None where none has a loss."""
    return min((point for point in validation if "loss" in point), key=lambda point: point["loss"], default=None)
