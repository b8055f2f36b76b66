"""Learning-rate schedule, decay groups and AdamW, equal to the published recipe's.

The learning rate is not part of the optax chain: the host computes it in float64 from the fractional epoch and
hands it to the compiled step, which multiplies the chain's updates by minus that number.
"""

import math
from typing import Any

import jax
import jax.numpy as jnp
import optax

from sarwmix_jax.settings import OptimizerSettings

REFERENCE_BATCH = 256
"""Base learning rates are quoted for this global batch."""

DECAYED = frozenset({"kernel", "bias_table", "mask_token"})
NOT_DECAYED = frozenset({"bias", "scale"})
"""Last names of parameters: a bias table and the mask token are decayed, whatever their number of dimensions."""


def absolute_rate(base_lr: float, global_batch: int) -> float:
    """Learning rate after warm-up: `base_lr` scaled by the global batch, accumulation included."""
    return base_lr * global_batch / REFERENCE_BATCH


def learning_rate(epoch: float, *, peak: float, minimum: float, warmup_epochs: float, schedule_epochs: float) -> float:
    """Learning rate at a fractional epoch, in double precision.

    Linear warm-up from 0 to `peak`, then half a cosine to `minimum` at `schedule_epochs`.

    Args:
        epoch: epochs done, fractions included (steps done / steps per epoch).
        peak: absolute learning rate at the end of the warm-up.
        minimum: absolute learning rate at the end of the schedule.
        warmup_epochs: length of the warm-up.
        schedule_epochs: length of the schedule, warm-up included.

    Source: reference page section 3 (recipes of the released runs).
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
        KeyError: a parameter's last name is in neither list.
    """

    def decayed(path: tuple[Any, ...], _: Any) -> bool:
        name = jax.tree_util.keystr(path[-1:], simple=True)
        if name not in DECAYED | NOT_DECAYED:
            raise KeyError(f"no decay rule for parameter {jax.tree_util.keystr(path)}")
        return name in DECAYED

    return jax.tree_util.tree_map_with_path(decayed, params)


def clip_by_norm(limit: float) -> optax.GradientTransformation:
    """Scale gradients by min(1, limit / (norm + 1e-6)), as the published system does."""

    def update(updates: Any, state: Any, params: Any = None) -> tuple[Any, Any]:
        del params
        factor = jnp.minimum(1.0, limit / (optax.tree.norm(updates) + 1e-6))
        return jax.tree.map(lambda leaf: leaf * factor, updates), state

    return optax.GradientTransformation(lambda _: optax.EmptyState(), update)


def make_optimizer(settings: OptimizerSettings) -> optax.GradientTransformation:
    """AdamW without its learning rate: clipping (when set), Adam moments, decoupled weight decay by group.

    The caller applies `params - lr * update`.
    """
    return optax.chain(
        # always one part, so that a state fits whether clipping is set or not
        optax.identity() if settings.clip_grad is None else clip_by_norm(settings.clip_grad),
        optax.scale_by_adam(b1=settings.beta1, b2=settings.beta2, eps=settings.eps),
        optax.add_decayed_weights(settings.weight_decay, mask=decay_mask),
    )
