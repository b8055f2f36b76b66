"""Metrics and times between two log lines; the device is asked for its numbers only when a line is due."""

import time
from dataclasses import dataclass, field
from typing import Any

import jax
import numpy as np


class NonFiniteLoss(Exception):
    """The loss or the gradient norm of a step is not a number.

    Attributes:
        step: the step, counted from 0.
        records: numbers of the records of this process's part of its batch.
        values: the step's metrics.
    """

    def __init__(self, step: int, records: np.ndarray, values: dict[str, Any]) -> None:
        super().__init__(f"loss {values['loss']}, gradient norm {values['grad_norm']} at step {step}")
        self.step, self.records, self.values = step, records, values


@dataclass
class Meter:
    """Collects steps since the last log line."""

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
                raise NonFiniteLoss(
                    step, records, {name: np.asarray(value).tolist() for name, value in metrics.items()}
                )
        means = {name: np.mean([metrics[name] for _, metrics, _ in steps], axis=0).tolist() for name in steps[0][1]}
        speed = {"compile_time": elapsed} if self._cold else self._speed(len(steps), elapsed)
        self._pending, self._cold = [], False
        self.restart()
        return means | speed

    def _speed(self, steps: int, elapsed: float) -> dict[str, float]:
        images_per_second = steps * self.global_batch / elapsed
        speed = {
            "images_per_second": images_per_second,
            "step_time": elapsed / steps,
            "data_wait": self._waited / elapsed,
        }
        if self.flops_per_image and self.peak_flops:
            speed["mfu"] = images_per_second * self.flops_per_image / (self.peak_flops * self.devices)
        return speed
