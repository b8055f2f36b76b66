"""Backscatter power weights of the reconstruction loss.

Three published descriptions of the method disagree (README, paper, code); every variant is a setting here. Source:
arXiv 2503.01181 for the paper's form. Weights lie in [1, e^exp_scale], large where the power is low.
"""

from dataclasses import dataclass
from typing import Literal

import jax.numpy as jnp
from einops import rearrange, reduce
from jaxtyping import Array, Bool, Float

from sarwmix_jax.errors import UserError
from sarwmix_jax.sar import db_to_power

Images = Float[Array, "batch band height width"]
CHOICES = {
    "mode": ("per_channel", "shared_power", "shared_weight", "off"),
    "power_of": ("backscatter", "standardised"),
    "granularity": ("pixel", "token"),
}


@dataclass(frozen=True)
class WeightSettings:
    """How pixels are weighted.

    Attributes:
        mode: `per_channel`: each band by its own power. `shared_power`: both bands by the mean of their powers (paper
            and released code). `shared_weight`: both bands by the mean of their weights (published README). `off`: 1.
        power_of: Power is 10^(x/10) of the `backscatter` in dB (README, paper), or of the `standardised` values
            (released code).
        granularity: `pixel`, or `token`: the mean over each 32-pixel cell, per band (README).
        exp_scale: s in exp(s * (1 - normalised power)); the released runs use 1.

    Raises:
        UserError: If a value is not one of these.
    """

    mode: Literal["per_channel", "shared_power", "shared_weight", "off"] = "per_channel"
    power_of: Literal["backscatter", "standardised"] = "backscatter"
    granularity: Literal["pixel", "token"] = "pixel"
    exp_scale: float = 1.0

    def __post_init__(self) -> None:
        for name, allowed in CHOICES.items():
            if getattr(self, name) not in allowed:
                raise UserError(f"weighting.{name} is {getattr(self, name)!r}; use one of {', '.join(allowed)}")


def backscatter_weights(
    images_db: Images,
    images_standardised: Images,
    settings: WeightSettings,
    *,
    cell: int,
    valid: Bool[Array, "batch 1 height width"] | None = None,
) -> Images:
    """Weight of every pixel of resized, flipped images.

    Args:
        images_db: Backscatter in dB.
        images_standardised: The same, standardised; used with `power_of="standardised"`.
        settings: The variant.
        cell: Side of a token's cell in pixels, for `granularity="token"`.
        valid: Pixels that count; the others take no part in any minimum, maximum or mean, and weigh 0.
    """
    if settings.mode == "off":
        weights = jnp.ones_like(images_db)
    else:
        power = db_to_power(images_db if settings.power_of == "backscatter" else images_standardised)
        weights = _weights_of_power(power, settings, valid)
    if settings.granularity == "token":
        weights = _cell_means(weights, cell, valid)
    return weights if valid is None else weights * valid


def _weights_of_power(
    power: Images, settings: WeightSettings, valid: Bool[Array, "batch 1 height width"] | None
) -> Images:
    shape = power.shape
    if settings.mode == "shared_power":
        power = power.mean(axis=1, keepdims=True)
    weights = jnp.exp(settings.exp_scale * (1.0 - _min_max_normalised(power, valid)))
    if settings.mode == "shared_weight":
        weights = weights.mean(axis=1, keepdims=True)
    return jnp.broadcast_to(weights, shape)


def _min_max_normalised(power: Images, valid: Bool[Array, "batch 1 height width"] | None) -> Images:
    """Power of each image and band brought to [0, 1]; a flat image gives 0 everywhere."""
    used = True if valid is None else valid
    low = jnp.min(power, axis=(2, 3), keepdims=True, where=used, initial=jnp.inf)
    high = jnp.max(power, axis=(2, 3), keepdims=True, where=used, initial=-jnp.inf)
    normalised = (power - low) / (high - low + 1e-6)
    return normalised if valid is None else jnp.where(valid, normalised, 0.0)


def _cell_means(weights: Images, cell: int, valid: Bool[Array, "batch 1 height width"] | None) -> Images:
    """The mean weight of each cell's valid pixels, at every pixel of the cell."""
    used = jnp.ones_like(weights[:, :1]) if valid is None else valid.astype(weights.dtype)
    total = reduce(weights * used, "b c (r y) (q x) -> b c r 1 q 1", "sum", y=cell, x=cell)
    count = reduce(used, "b c (r y) (q x) -> b c r 1 q 1", "sum", y=cell, x=cell)
    cells = rearrange(weights, "b c (r y) (q x) -> b c r y q x", y=cell, x=cell)
    means = jnp.broadcast_to(total / jnp.maximum(count, 1), cells.shape)
    return rearrange(means, "b c r y q x -> b c (r y) (q x)")
