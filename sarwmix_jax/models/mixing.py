"""Masks, and mixing and un-mixing a batch with its reverse.

Image i of a mix group of B images is mixed with image B-1-i; the middle one of an odd group is its own partner.
Mixing pixels is the same as mixing embedded tokens, since the mask is constant in a cell and the patch embedding
acts on each patch alone, and it moves far less memory.
"""

import math

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from sarwmix_jax.models.layers import Key
from sarwmix_jax.models.settings import CELL

Mask = Float[Array, " cells"]


def fixed_masked_count(cells: int, ratio: float, range_mask_ratio: float) -> int | None:
    """The number of masked cells where every mask has the same, else None."""
    return math.floor(cells * ratio) if range_mask_ratio == 0 else None


def draw_mask(key: Key, cells: int, ratio: float, range_mask_ratio: float = 0.0) -> Mask:
    """Draws a 0/1 mask with exactly floor(cells * (ratio + u)) ones, u uniform in [0, range_mask_ratio]."""
    count_key, order_key = jax.random.split(key)
    count: int | Array | None = fixed_masked_count(cells, ratio, range_mask_ratio)
    if count is None:
        count = jnp.floor(cells * (ratio + range_mask_ratio * jax.random.uniform(count_key)))
    return (jax.random.permutation(order_key, cells) < count).astype(jnp.float32)


def mix(images: Float[Array, "batch band height width"], mask: Mask) -> Float[Array, "batch band height width"]:
    """Image i where the mask is 0, its partner where it is 1."""
    side = round(mask.size**0.5)
    pixels = jnp.repeat(jnp.repeat(mask.reshape(side, side), CELL, axis=0), CELL, axis=1)
    return jnp.where(pixels == 1, images[::-1], images)


def unmix(reconstruction: Float[Array, "2 batch cells values"], mask: Mask) -> Float[Array, "batch cells values"]:
    """Every cell of every image, each from the sequence in which it was missing."""
    return jnp.where(mask[:, None] == 1, reconstruction[0], reconstruction[1][::-1])


def swap_partners(x: Float[Array, "batch cells values"], mask: Mask) -> Float[Array, "batch cells values"]:
    """Keeps masked cells and exchanges the others with the partner; its own inverse.

    Brings per-image cells into the order of the half decoder's output and back.
    """
    return jnp.where(mask[:, None] == 1, x, x[::-1])
