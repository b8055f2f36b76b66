"""Backscatter arithmetic and image preparation; runs on the device inside the compiled step."""

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float

from sarwmix_jax.facts.bands import BandStatistics

Images = Float[Array, "batch band height width"]
Valid = Bool[Array, "batch 1 height width"]


def db_to_power(backscatter_db: Float[Array, "..."]) -> Float[Array, "..."]:
    """Linear power 10^(x/10) of backscatter in dB."""
    return 10.0 ** (backscatter_db / 10.0)


def power_to_db(power_linear: Float[Array, "..."]) -> Float[Array, "..."]:
    """Backscatter in dB of linear power; 0 gives -inf."""
    return 10.0 * jnp.log10(power_linear)


def _per_band(values: tuple[float, ...]) -> Float[np.ndarray, "band 1 1"]:
    return np.asarray(values, np.float32).reshape(-1, 1, 1)


def standardise(images_db: Images, statistics: BandStatistics) -> Images:
    """Subtracts each band's mean and divides by its deviation, both in dB."""
    return (images_db - _per_band(statistics.mean_db)) / _per_band(statistics.std_db)


def unstandardise(images: Images, statistics: BandStatistics) -> Images:
    """Undoes `standardise`: back to dB."""
    return images * _per_band(statistics.std_db) + _per_band(statistics.mean_db)


def resize(images: Images, side: int) -> Images:
    """Bilinear resize to side x side pixels: half-pixel centres, antialiased when shrinking; float32."""
    images = images.astype(jnp.float32)
    if images.shape[-2:] == (side, side):
        return images
    return jax.image.resize(images, (*images.shape[:-2], side, side), "linear", antialias=True)


def resize_valid(valid: Valid, side: int) -> Valid:
    """Validity after `resize`: a pixel is valid when all that went into it are."""
    return resize(1.0 - valid, side) == 0


def flip(
    images: Float[Array, "batch *axes"], horizontal: Bool[Array, " batch"], vertical: Bool[Array, " batch"]
) -> Array:
    """Mirrors the images that are marked: left-right where `horizontal`, top-bottom where `vertical`."""
    images = jnp.where(horizontal[:, None, None, None], images[..., ::-1], images)
    return jnp.where(vertical[:, None, None, None], images[..., ::-1, :], images)
