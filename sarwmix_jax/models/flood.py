"""Flood detection from a pair of dates: tiles, feature differences, pooling, two logits."""

from typing import Literal

import jax.numpy as jnp
from einops import rearrange
from jaxtyping import Array, Float

from sarwmix_jax.errors import UserError
from sarwmix_jax.models.classifier import Classifier
from sarwmix_jax.models.layers import dense

Images = Float[Array, "batch band height width"]
Tiling = Literal["released", "two_band"]
PatchOp = Literal["avg", "max"]


def cut_tiles(images: Images, side: int, tiling: Tiling) -> Float[Array, "batch tiles band side side"]:
    """Cuts images into tiles; what is left over at the right and bottom is dropped.

    Args:
        images: Height and width at least `side`; they may differ.
        side: Side of a tile in pixels.
        tiling: "two_band": a tile is one place in both bands. "released": as the released code cuts and as the released
            flood checkpoint must be used: all blocks in the order (band, tile row, tile column), two by two.

    Raises:
        UserError: If no tile fits, or the tiling is unknown.
    """
    height, width = images.shape[-2:]
    if min(height, width) < side:
        raise UserError(f"images of {height} x {width} pixels hold no tile of {side}; give larger ones")
    cropped = images[..., : height // side * side, : width // side * side]
    if tiling == "two_band":
        return rearrange(cropped, "b c (r y) (q x) -> b (r q) c y x", y=side, x=side)
    if tiling == "released":
        blocks = rearrange(cropped, "b c (r y) (q x) -> b (c r q) y x", y=side, x=side)
        return rearrange(blocks, "b (tile pair) y x -> b tile pair y x", pair=images.shape[1])
    raise UserError(f"tiling {tiling!r} is unknown; use released or two_band")


def pooled_difference(
    before: Float[Array, "batch tiles features"], after: Float[Array, "batch tiles features"], patch_op: PatchOp
) -> Float[Array, "batch features"]:
    """Mean ("avg") or maximum ("max") over tiles of the absolute difference of their features.

    Raises:
        UserError: If `patch_op` is unknown.
    """
    difference = jnp.abs(before - after)
    if patch_op == "avg":
        return difference.mean(axis=1)
    if patch_op == "max":
        return difference.max(axis=1)
    raise UserError(f"patch_op {patch_op!r} is unknown; use avg or max")


def flood_logits(
    model: Classifier, before: Images, after: Images, *, side: int, tiling: Tiling, patch_op: PatchOp = "avg"
) -> Float[Array, "batch classes"]:
    """Logits (no flood, flood) of pairs of standardised images of the same place.

    Source: reference page section 2, flood path.
    """
    dates = [cut_tiles(images, side, tiling) for images in (before, after)]
    batch, tiles = dates[0].shape[:2]
    both = jnp.concatenate([rearrange(date, "b tile c y x -> (b tile) c y x") for date in dates])
    first, second = model.features(both).reshape(2, batch, tiles, -1)
    return dense(model.head, pooled_difference(first, second, patch_op)).astype(jnp.float32)
