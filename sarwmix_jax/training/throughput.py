"""Means, speed and faults of the steps between two lines of the log, and its first line."""

import dataclasses
import time
from collections import deque
from dataclasses import dataclass, field
from itertools import takewhile
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np

from sarwmix_jax.settings.config import as_json
from sarwmix_jax.training import resources
from sarwmix_jax.training.logs import RunLog
from sarwmix_jax.training.run import Run, describe_sources
from sarwmix_jax.version import __version__


class NonFiniteLoss(Exception):
    """The loss or the gradient norm of a step, or a validation loss, is not finite.

    Attributes:
        step: The step, counted from 0; for a validation the number of steps done.
        records: Numbers of the records in this process's part of the batch; empty for a validation.
        values: Metrics of the step.
    """

    def __init__(self, step: int, records: np.ndarray, values: dict[str, Any]) -> None:
        super().__init__(f"loss {values['loss']} at step {step}")
        self.step, self.records, self.values = step, records, values


STARTED = time.time()
"""When this file was loaded: soon after the command line was read."""

LEAST_DEVIATION = 0.01
"""Losses that hardly vary are taken to have this standard deviation, relative to their mean."""


class Spike(NamedTuple):
    """A loss far above those before it.

    Attributes:
        step: The step, counted from 0.
        loss: Its loss.
        mean: Mean of the window's losses.
        deviations: Distance of the loss from the mean in their standard deviations.
        records: Numbers of the records in this process's part of the batch.
    """

    step: int
    loss: float
    mean: float
    deviations: float
    records: np.ndarray


@dataclass
class Spikes:
    """Looks for spikes: losses more than `factor` standard deviations above the mean of the last `window` steps.

    None is found before there are so many steps since the start.
    """

    window: int = 0
    factor: float = 0.0

    def __post_init__(self) -> None:
        self._losses: deque[float] = deque(maxlen=self.window)

    def add(self, step: int, loss: float, records: np.ndarray) -> Spike | None:
        """Take the next loss; gives it back if it is a spike."""
        found = None
        if self.window and len(self._losses) == self.window:
            mean = float(np.mean(self._losses))
            deviation = max(float(np.std(self._losses)), LEAST_DEVIATION * abs(mean), 1e-30)
            if loss > mean + self.factor * deviation:
                found = Spike(step, loss, mean, (loss - mean) / deviation, records)
        self._losses.append(loss)
        return found


SPENT = ("productive", "initialisation", "compilation", "data", "checkpoint", "evaluation", "lost_work")
"""What the time of a start goes to, in the classes of MaxText's goodput; all but the first are overhead."""


@dataclass
class Throughput:
    """Means and speed of the steps between two log lines.

    The device's numbers are read only when a line is due.

    Attributes:
        global_batch: Images of a step.
        devices: Number of devices.
        flops_per_image: Operations per image in training.
        peak_flops: Operations per second that a device can do.
        skipping: Whether steps that are not finite change nothing, and are collected in `skipped`.
        spikes: Looks for spikes, which are collected in `found`.
        skipped: Steps since the last `flush` that are not finite.
        found: Spikes since then.
        seconds: Time since the start, by `SPENT`.
    """

    global_batch: int
    devices: int
    flops_per_image: float | None = None
    peak_flops: float | None = None
    skipping: bool = False
    spikes: Spikes = field(default_factory=Spikes)
    skipped: list[NonFiniteLoss] = field(default_factory=list)
    found: list[Spike] = field(default_factory=list)
    seconds: dict[str, float] = field(default_factory=lambda: dict.fromkeys(SPENT, 0.0))
    _pending: list[tuple[int, dict[str, Any], np.ndarray]] = field(default_factory=list)
    _cold: bool = True
    _waited: float = 0.0
    _since: float = field(default_factory=time.perf_counter)

    def waited(self, seconds: float) -> None:
        """Add time of waiting for data."""
        self._waited += seconds

    def add(self, step: int, metrics: dict[str, Any], records: np.ndarray) -> None:
        """Note a step that was started."""
        self._pending.append((step, metrics, records))

    @property
    def in_flight(self) -> int:
        """Steps that were started but are not finished yet; does not wait for the device."""
        losses = (metrics["loss"] for _, metrics, _ in reversed(self._pending))
        return sum(1 for _ in takewhile(lambda loss: not loss.is_ready(), losses))

    def drop(self) -> None:
        """Forget the noted steps, which are repeated."""
        self._pending = []
        self.restart("lost_work")

    def restart(self, spent: str = "productive") -> None:
        """Leave the time since the last line out of the speed: it was spent on a checkpoint, a validation and so on."""
        now = time.perf_counter()
        self.seconds[spent] += now - self._since
        self._waited, self._since = 0.0, now

    @property
    def rounded_seconds(self) -> dict[str, float]:
        """Time since the start by what it was spent on, for the log."""
        return {name: round(value, 3) for name, value in self.seconds.items()}

    def flush(self) -> dict[str, Any]:
        """Means over the noted steps that are finite, with speed; empty when there are none.

        The first result of a start has no speed: its time, `compile_time`, is mostly that of the compiler.

        Raises:
            NonFiniteLoss: The loss or the gradient norm of a step is not finite, and steps are not skipped.
        """
        self.skipped, self.found = [], []
        if not self._pending:
            return {}
        steps = [(step, jax.device_get(metrics), records) for step, metrics, records in self._pending]
        elapsed = max(time.perf_counter() - self._since, 1e-9)
        finite = [metrics for step, metrics, records in steps if self._is_finite(step, metrics, records)]
        names = finite[0] if finite else ()
        means = {name: np.mean([metrics[name] for metrics in finite], axis=0).tolist() for name in names}
        speed = {"compile_time": elapsed} if self._cold else self._speed(len(steps), elapsed)
        waited = 0.0 if self._cold else min(self._waited, elapsed)
        self.seconds["data"] += waited
        self.seconds["productive"] -= waited
        self.restart("compilation" if self._cold else "productive")
        self._pending, self._cold = [], False
        return means and means | speed

    def _is_finite(self, step: int, metrics: dict[str, Any], records: np.ndarray) -> bool:
        if np.isfinite(metrics["loss"]) and np.isfinite(metrics["grad_norm"]):
            if spike := self.spikes.add(step, float(metrics["loss"]), records):
                self.found.append(spike)
            return True
        values = {name: np.asarray(value).tolist() for name, value in metrics.items()}
        self.skipped.append(NonFiniteLoss(step, records, values))
        if not self.skipping:
            raise self.skipped[0]
        return False

    def _speed(self, steps: int, elapsed: float) -> dict[str, float]:
        rate = steps * self.global_batch / elapsed
        speed = {"images_per_second": rate, "step_time": elapsed / steps, "data_wait": self._waited / elapsed}
        if self.flops_per_image and self.peak_flops:
            speed["mfu"] = rate * self.flops_per_image / (self.peak_flops * self.devices)
        return speed


def log_start(run: Run, log: RunLog, workdir: Path, start: int) -> Throughput:
    """Log settings, devices and cost of the model; returns what measures the steps from `start` on."""
    parts = resources.parts_of(run.task)
    log.show(resources.table(parts))
    log.write(
        "start",
        step=start,
        devices=[device.device_kind for device in jax.devices()],
        versions={"sarwmix_jax": __version__, "jax": jax.__version__},
        mix_group=run.task.group,
        parts=[dataclasses.asdict(part) for part in parts],
        source=describe_sources(run),
        settings=as_json(run.settings),
    )
    log.track(run.settings, workdir, start)
    settings = run.settings
    found = Throughput(
        settings.batch.global_batch,
        run.mesh.size,
        resources.training_flops(parts),
        resources.peak_flops(jax.devices()[0]),
        skipping=settings.optimizer.on_divergence == "skip",
        spikes=Spikes(settings.log.spike_window, settings.log.spike_factor),
    )
    found.seconds["initialisation"] = time.time() - STARTED
    return found
