"""Schedule, decay groups and AdamW, equal to those of the published recipes.

The learning rate is not part of the optax chain: the host computes it in float64 from the fractional epoch and
passes it to the compiled step, which multiplies the updates of the chain by its negative.
"""

import math
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from sarwmix_jax.settings.model import STAGES
from sarwmix_jax.settings.sections import (
    FinetuningOptimizerSettings,
    FinetuningSettings,
    OptimizerSettings,
    RunSettings,
)
from sarwmix_jax.tasks.gradients import gradient_norm

REFERENCE_BATCH = 256
"""Base learning rates refer to this global batch."""

DECAYED = frozenset({"kernel", "bias_table", "mask_token"})
NOT_DECAYED = frozenset({"bias", "scale"})
"""Last names of parameters without weight decay; bias tables and the mask token do have it."""


def absolute_rate(base_lr: float, global_batch: int) -> float:
    """Learning rate after warm-up: `base_lr` scaled by the global batch, accumulation included."""
    return base_lr * global_batch / REFERENCE_BATCH


def learning_rate(epoch: float, *, peak: float, minimum: float, warmup_epochs: float, schedule_epochs: float) -> float:
    """Learning rate at a fractional epoch, in double precision.

    Linear warm-up from 0 to `peak`, then half a cosine to `minimum` at `schedule_epochs`.

    Args:
        epoch: Epochs done, fractions included (steps done / steps per epoch).
        peak: Absolute learning rate at the end of the warm-up.
        minimum: Absolute learning rate at the end of the schedule.
        warmup_epochs: Length of the warm-up.
        schedule_epochs: Length of the schedule, warm-up included.

    Source: the recipes of the released runs.
    """
    if epoch < warmup_epochs:
        return peak * epoch / warmup_epochs
    done = min(1.0, (epoch - warmup_epochs) / (schedule_epochs - warmup_epochs))
    return minimum + (peak - minimum) * 0.5 * (1.0 + math.cos(math.pi * done))


def scheduled_rate(step: int, steps_per_epoch: int, global_batch: int, settings: OptimizerSettings) -> float:
    """Learning rate of one optimiser step (counted from 0): the schedule at the epoch where the step starts."""
    return learning_rate(
        step / steps_per_epoch,
        peak=absolute_rate(settings.base_lr, global_batch),
        minimum=settings.min_lr,
        warmup_epochs=settings.warmup_epochs,
        schedule_epochs=settings.schedule_epochs,
    )


def decay_mask(params: Any) -> Any:
    """Tree like `params`: True where weight decay applies, decided by the last name of the path.

    Not decayed: biases and LayerNorm scales. Decayed: kernels, relative position bias tables, the mask token.

    Raises:
        KeyError: The last name of a parameter is in neither list.
    """

    def decayed(path: tuple[Any, ...], _: Any) -> bool:
        name = jax.tree_util.keystr(path[-1:], simple=True)
        if name not in DECAYED | NOT_DECAYED:
            raise KeyError(f"no decay rule for parameter {jax.tree_util.keystr(path)}")
        return name in DECAYED

    return jax.tree_util.tree_map_with_path(decayed, params)


def clip_by_norm(limit: float) -> optax.GradientTransformation:
    """Scale gradients by min(1, limit / (norm + 1e-6)), as in the published system."""

    def update(updates: Any, state: Any, params: Any = None) -> tuple[Any, Any]:
        del params
        factor = jnp.minimum(1.0, limit / (gradient_norm(updates) + 1e-6))
        return jax.tree.map(lambda leaf: leaf * factor, updates), state

    return optax.GradientTransformation(lambda _: optax.EmptyState(), update)


@dataclass(frozen=True)
class Schedule:
    """When a run logs, validates, saves and ends; the number of a step is the number of steps done before it."""

    steps_per_epoch: int
    settings: RunSettings

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
        """Whether to log after `step` steps: the first since this start, at regular intervals, the last."""
        return step in (first, self.total_steps) or step % self.settings.log.every_steps == 0

    def checkpoint_due(self, step: int) -> bool:
        """Whether to save after `step` steps: at regular intervals, at milestones, at the end."""
        settings = self.settings.checkpoint
        return step == self.total_steps or self._every(step, settings.every_epochs) or step in self.milestones()

    def validation_due(self, step: int) -> bool:
        """Whether to validate after `step` steps; always before a run ends."""
        return step == self.total_steps or self._every(step, self.settings.validation.every_epochs)

    def probe_due(self, step: int) -> bool:
        """Whether to probe after `step` steps, in a run with a probe; always before it ends."""
        probe = getattr(self.settings, "probe", None)
        return probe is not None and (step == self.total_steps or self._every(step, probe.every_epochs))

    def milestones(self) -> frozenset[int]:
        """Steps whose checkpoints are kept: those of listed epochs, and of 1, 2, 4, ... epochs."""
        epochs = list(self.settings.checkpoint.at_epochs)
        if self.settings.checkpoint.powers_of_two:
            end = self.settings.optimizer.stop_after_epochs
            epochs += [2.0**power for power in range(math.floor(math.log2(max(end, 1.0))) + 1)]
        return frozenset(self.step_at(epoch) for epoch in epochs)


def make_optimizer(
    settings: OptimizerSettings, depths: tuple[int, ...] = (), *, frozen_encoder: bool = False
) -> optax.GradientTransformation:
    """AdamW without its learning rate: clipping (when set), Adam moments, decoupled weight decay by group, layer decay.

    The caller applies `params - lr * update`.

    Args:
        settings: The optimiser's settings.
        depths: Blocks per stage of the encoder, for layer decay.
        frozen_encoder: Whether the encoder is not trained.
    """
    parts = [
        # always one part, so that a state fits with and without clipping
        optax.identity() if settings.clip_grad is None else clip_by_norm(settings.clip_grad),
        optax.scale_by_adam(b1=settings.beta1, b2=settings.beta2, eps=settings.eps),
        optax.add_decayed_weights(settings.weight_decay, mask=decay_mask),
    ]
    if isinstance(settings, FinetuningOptimizerSettings):
        parts.append(scale_by_layer(depths, settings.layer_decay))
    if frozen_encoder:
        parts.append(optax.masked(optax.set_to_zero(), lambda params: {name: name == "encoder" for name in params}))
    return optax.chain(*parts)


def optimizer_of(settings: RunSettings) -> optax.GradientTransformation:
    """The optimiser of a run; see `make_optimizer`."""
    frozen = isinstance(settings, FinetuningSettings) and settings.head.frozen_encoder
    return make_optimizer(settings.optimizer, settings.model.depths, frozen_encoder=frozen)


def layer_of(name: str, depths: tuple[int, ...]) -> int:
    """Layer number of a classifier's parameter: 0 for the patch embedding, k for block k counted from 1.

    A PatchMerging belongs to the first block of the next stage, the final norm and the head to the last block. Stacked
    blocks (`model.scan`) have the number of the first one.

    Args:
        name: Name of the parameter, such as `encoder/stages/0/blocks/1/norm1/scale`.
        depths: Blocks per stage.

    Raises:
        KeyError: The name is not a classifier's.
    """
    part, *rest = name.removeprefix("encoder/").split("/")
    if part == "patch_embed":
        return 0
    if part in ("norm", "head"):
        return sum(depths)
    if part != "stages" or not 0 <= int(rest[0]) < STAGES:
        raise KeyError(f"no layer is known for parameter {name}")
    stage, inside = int(rest[0]), rest[1]
    number = depths[stage] if inside != "blocks" else int(rest[2]) if rest[2].isdigit() else 0
    return sum(depths[:stage]) + number + 1


def layer_factors(params: Any, depths: tuple[int, ...], decay: float) -> Any:
    """Tree like `params` with the factor of each parameter's learning rate, decay^(blocks + 1 - layer).

    Stacked blocks have an array of factors, one per block. As in the published recipe, the head's factor is `decay`,
    so that no parameter has the full learning rate.
    """
    layers = sum(depths) + 1

    def factor(path: tuple[Any, ...], leaf: Any) -> Any:
        name = jax.tree_util.keystr(path, simple=True, separator="/")
        first = layer_of(name, depths)
        if "/blocks/" not in name or name.split("/blocks/")[1][0].isdigit():
            return decay ** (layers - first)
        numbers = first + np.arange(leaf.shape[0], dtype=np.float32)
        return (decay ** (layers - numbers)).reshape(-1, *(1,) * (leaf.ndim - 1))

    return jax.tree_util.tree_map_with_path(factor, params)


def scale_by_layer(depths: tuple[int, ...], decay: float) -> optax.GradientTransformation:
    """Multiplies every update, weight decay included, by its layer's factor."""

    def update(updates: Any, state: Any, params: Any = None) -> tuple[Any, Any]:
        del params
        return jax.tree.map(lambda u, f: u * f, updates, layer_factors(updates, depths, decay)), state

    return optax.GradientTransformation(lambda _: optax.EmptyState(), update)
