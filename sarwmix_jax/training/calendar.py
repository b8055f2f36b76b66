"""When a run does what: steps and epochs of the schedule, checkpoints, validations and the end."""

import math
from dataclasses import dataclass

from sarwmix_jax.settings import CheckpointSettings, PretrainingSettings
from sarwmix_jax.training.optimizer import scheduled_rate


@dataclass(frozen=True)
class Calendar:
    """Steps and epochs of one run; a step's number is the count of steps done before it."""

    steps_per_epoch: int
    settings: PretrainingSettings

    @property
    def total_steps(self) -> int:
        """Steps at which the run ends."""
        optimizer = self.settings.optimizer
        by_epochs = max(1, math.ceil(round(optimizer.stop_after_epochs * self.steps_per_epoch, 6)))
        return by_epochs if optimizer.stop_after_steps is None else min(by_epochs, optimizer.stop_after_steps)

    def epoch(self, step: int) -> float:
        """Epochs done after `step` steps, with fraction."""
        return step / self.steps_per_epoch

    def rate(self, step: int) -> float:
        """Learning rate of the step that follows `step` steps."""
        batch = self.settings.batch.global_batch
        return scheduled_rate(step, self.steps_per_epoch, batch, self.settings.optimizer)

    def step_at(self, epoch: float) -> int:
        """Steps done after `epoch` epochs, at least 1."""
        return max(1, round(epoch * self.steps_per_epoch))

    def _every(self, step: int, epochs: float) -> bool:
        count = round(self.epoch(step) / epochs)
        return any(number >= 1 and self.step_at(number * epochs) == step for number in (count, count + 1))

    def log_due(self, step: int, first: int) -> bool:
        """Whether to log after `step` steps: the first of this start, every so many, the last."""
        return step in (first, self.total_steps) or step % self.settings.log.every_steps == 0

    def checkpoint_due(self, step: int) -> bool:
        """Whether to save after `step` steps: periodic ones, milestones, the last."""
        settings = self.settings.checkpoint
        return step == self.total_steps or self._every(step, settings.every_epochs) or step in self.milestones(settings)

    def validation_due(self, step: int) -> bool:
        """Whether to validate after `step` steps; always before a run ends."""
        return step == self.total_steps or self._every(step, self.settings.log.validate_every_epochs)

    def milestones(self, settings: CheckpointSettings) -> frozenset[int]:
        """Steps whose checkpoints stay: listed epochs, and 1, 2, 4, ... epochs."""
        epochs = list(settings.at_epochs)
        if settings.powers_of_two:
            end = self.settings.optimizer.stop_after_epochs
            epochs += [2.0**power for power in range(math.floor(math.log2(max(end, 1.0))) + 1)]
        return frozenset(self.step_at(epoch) for epoch in epochs)
