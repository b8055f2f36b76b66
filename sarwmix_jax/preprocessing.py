"""From raw records in dB to the input of model and loss: resizing, flips, standardisation, weights; on the device.

Three published descriptions of the weights disagree (README, paper, code); every variant is a setting here. Source:
arXiv 2503.01181 for the paper's form. Weights lie in [1, e^exp_scale] and are large where the power is low.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from einops import rearrange, reduce
from jaxtyping import Array, Bool, Float, Shaped

from sarwmix_jax.facts.bands import BandStatistics
from sarwmix_jax.settings.model import CELL
from sarwmix_jax.settings.sections import AugmentSettings, WeightSettings

Images = Float[Array, "batch *dates band height width"]
Valid = Bool[Array, "batch *dates 1 height width"]
Keys = Array
"""One key, or one for each image of a batch."""


class Flips(NamedTuple):
    """Which images of a batch are mirrored: left-right, and top-bottom."""

    horizontal: Bool[Array, " batch"]
    vertical: Bool[Array, " batch"]


class Prepared(NamedTuple):
    """Images as input of the model and the loss.

    Attributes:
        db: Resized, flipped backscatter in dB.
        standardised: The same, standardised; 0 (the mean) where invalid.
        valid: Pixels that count, or None where all do.
    """

    db: Images
    standardised: Images
    valid: Valid | None


def prepare(
    batch: dict[str, Array], statistics: BandStatistics, *, side: int | None = None, flips: Flips | None = None
) -> Prepared:
    """Resizes, flips and standardises raw records.

    Args:
        batch: `image` (batch, [date,] band, height, width) in dB, any float type; optionally `valid_pixels` (the same
            without band), which selects the nodata-aware arithmetic.
        statistics: Band statistics that standardise the images.
        side: Height and width in pixels to resize to; by default images keep their size.
        flips: Which images to mirror.
    """
    db, valid = batch["image"].astype(jnp.float32), batch.get("valid_pixels")
    if valid is not None:
        valid = jnp.expand_dims(valid, -3)
    if side is not None:
        db, valid = resize(db, side), None if valid is None else resize_valid(valid, side)
    if flips is not None:
        db, valid = flip(db, flips), None if valid is None else flip(valid, flips)
    standardised = standardise(db, statistics)
    return Prepared(db, standardised if valid is None else jnp.where(valid, standardised, 0.0), valid)


def draw_flips(key: Keys | None, count: int, settings: AugmentSettings) -> Flips | None:
    """Draws the flips of a batch, from one key or from one key per image; without a key there are none."""
    if key is None:
        return None
    if key.ndim:
        horizontal, vertical = jax.vmap(lambda own: jax.random.uniform(own, (2,)))(key).T
    else:
        horizontal, vertical = jax.random.uniform(key, (2, count))
    return Flips(horizontal < settings.horizontal_flip, vertical < settings.vertical_flip)


def db_to_power(backscatter_db: Float[Array, "..."]) -> Float[Array, "..."]:
    """Converts backscatter in dB to linear power, 10^(x/10)."""
    return 10.0 ** (backscatter_db / 10.0)


def power_to_db(power_linear: Float[Array, "..."]) -> Float[Array, "..."]:
    """Converts linear power to backscatter in dB; 0 gives -inf."""
    return 10.0 * jnp.log10(power_linear)


def _per_band(values: tuple[float, ...]) -> Float[np.ndarray, "band 1 1"]:
    return np.asarray(values, np.float32).reshape(-1, 1, 1)


def standardise(images_db: Images, statistics: BandStatistics) -> Images:
    """Subtracts each band's mean and divides by its standard deviation, both in dB."""
    return (images_db - _per_band(statistics.mean_db)) / _per_band(statistics.std_db)


def unstandardise(images: Images, statistics: BandStatistics) -> Images:
    """Undoes `standardise`: back to dB."""
    return images * _per_band(statistics.std_db) + _per_band(statistics.mean_db)


def resize(images: Images, side: int) -> Float[Array, "batch *dates band {side} {side}"]:
    """Resizes bilinearly to side x side pixels: half-pixel centres, antialiased when shrinking; float32."""
    images = images.astype(jnp.float32)
    if images.shape[-2:] == (side, side):
        return images
    return jax.image.resize(images, (*images.shape[:-2], side, side), "linear", antialias=True)


def resize_valid(valid: Valid, side: int) -> Bool[Array, "batch *dates 1 {side} {side}"]:
    """Validity after `resize`: a pixel is valid when all pixels that contribute to it are."""
    return resize(1.0 - valid.astype(jnp.float32), side) == 0


def flip(images: Shaped[Array, "batch *axes"], flips: Flips) -> Shaped[Array, "batch *axes"]:
    """Mirrors the images that are marked."""
    horizontal, vertical = (marked.reshape(-1, *(1,) * (images.ndim - 1)) for marked in flips)
    images = jnp.where(horizontal, images[..., ::-1], images)
    return jnp.where(vertical, images[..., ::-1, :], images)


def backscatter_weights(
    images_db: Images,
    images_standardised: Images,
    settings: WeightSettings,
    *,
    cell: int = CELL,
    valid: Valid | None = None,
) -> Images:
    """Weight of every pixel of resized, flipped images.

    Args:
        images_db: Backscatter in dB.
        images_standardised: The same, standardised; used with `power_of="standardised"`.
        settings: The variant.
        cell: Side of a cell in pixels, for `granularity="token"`.
        valid: Pixels that count; the others are left out of every minimum, maximum and mean, and have weight 0.
    """
    if settings.mode == "off":
        weights = jnp.ones_like(images_db)
    else:
        power = db_to_power(images_db if settings.power_of == "backscatter" else images_standardised)
        weights = _weights_of_power(power, settings, valid)
    if settings.granularity == "token":
        weights = _cell_means(weights, cell, valid)
    return weights if valid is None else weights * valid.astype(weights.dtype)


def _weights_of_power(power: Images, settings: WeightSettings, valid: Valid | None) -> Images:
    shape = power.shape
    if settings.mode == "shared_power":
        power = power.mean(axis=1, keepdims=True)
    weights = jnp.exp(settings.exp_scale * (1.0 - _min_max_normalised(power, valid)))
    if settings.mode == "shared_weight":
        weights = weights.mean(axis=1, keepdims=True)
    return jnp.broadcast_to(weights, shape)


def _min_max_normalised(power: Images, valid: Valid | None) -> Images:
    """Power of each image and band, scaled to [0, 1]; a constant image gives 0 everywhere."""
    used = True if valid is None else valid
    low = jnp.min(power, axis=(2, 3), keepdims=True, where=used, initial=jnp.inf)
    high = jnp.max(power, axis=(2, 3), keepdims=True, where=used, initial=-jnp.inf)
    normalised = (power - low) / (high - low + 1e-6)
    return normalised if valid is None else jnp.where(valid, normalised, 0.0)


def _cell_means(weights: Images, cell: int, valid: Valid | None) -> Images:
    """The mean weight of each cell's valid pixels, at every pixel of the cell."""
    used = jnp.ones_like(weights[:, :1]) if valid is None else valid.astype(weights.dtype)
    total = reduce(weights * used, "b c (r y) (q x) -> b c r 1 q 1", "sum", y=cell, x=cell)
    count = reduce(used, "b c (r y) (q x) -> b c r 1 q 1", "sum", y=cell, x=cell)
    cells = rearrange(weights, "b c (r y) (q x) -> b c r y q x", y=cell, x=cell)
    means = jnp.broadcast_to(total / jnp.maximum(count, 1), cells.shape)
    return rearrange(means, "b c r y q x -> b c (r y) (q x)")
