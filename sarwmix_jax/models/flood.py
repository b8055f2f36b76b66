"""Flood detection from a pair of dates: tiles, feature differences, pooling, two logits."""

import jax
import jax.numpy as jnp
from einops import rearrange
from jaxtyping import Array, Bool, Float

from sarwmix_jax.errors import UserError
from sarwmix_jax.models.classifier import Classifier
from sarwmix_jax.models.layers import Key, dense
from sarwmix_jax.settings.sections import FloodSettings, PatchOp, Tiling

Images = Float[Array, "batch band height width"]
Pairs = Float[Array, "batch 2 band height width"]


def cut_tiles(images: Images, side: int, tiling: Tiling) -> Float[Array, "batch tiles band side side"]:
    """Cuts images into tiles; incomplete tiles at the right and bottom are dropped.

    Args:
        images: Height and width are at least `side` and may differ.
        side: Side of a tile in pixels.
        tiling: "two_band": a tile is one place in both bands. "released": as in the released code, and as needed by the
            released flood checkpoint: all blocks in the order (band, tile row, tile column), in pairs.

    Raises:
        UserError: No tile fits, or the tiling is unknown.
    """
    height, width = images.shape[-2:]
    if min(height, width) < side:
        raise UserError(f"images of {height} x {width} pixels are smaller than a tile of {side}; give larger ones")
    cropped = images[..., : height // side * side, : width // side * side]
    if tiling == "two_band":
        return rearrange(cropped, "b c (r y) (q x) -> b (r q) c y x", y=side, x=side)
    if tiling == "released":
        blocks = rearrange(cropped, "b c (r y) (q x) -> b (c r q) y x", y=side, x=side)
        return rearrange(blocks, "b (tile pair) y x -> b tile pair y x", pair=images.shape[1])
    raise UserError(f"tiling {tiling!r} is unknown; use released or two_band")


def pooled_difference(
    before: Float[Array, "batch tiles features"],
    after: Float[Array, "batch tiles features"],
    patch_op: PatchOp,
    weights: Float[Array, "batch tiles"] | None = None,
) -> Float[Array, "batch features"]:
    """Mean ("avg") or maximum ("max") over tiles of the absolute difference of their features.

    With weights the mean is weighted, and the maximum is over tiles with a weight above 0 (0 where there are none).

    Raises:
        UserError: `patch_op` is unknown.
    """
    difference = jnp.abs(before - after)
    if weights is not None and patch_op == "avg":
        total = jnp.maximum(weights.sum(axis=1, keepdims=True), 1e-6)
        return (difference * weights[..., None]).sum(axis=1) / total
    if weights is not None:
        difference = jnp.where(weights[..., None] > 0, difference, 0.0)
    if patch_op == "avg":
        return difference.mean(axis=1)
    if patch_op == "max":
        return difference.max(axis=1)
    raise UserError(f"patch_op {patch_op!r} is unknown; use avg or max")


def tile_weights(
    valid: Bool[Array, "batch 2 1 height width"], side: int, tiling: Tiling
) -> Float[Array, "batch tiles"]:
    """Share of each tile's pixels that are valid at both dates.

    Raises:
        UserError: The tiling is "released": such tiles hold two places of one band and have no single validity.
    """
    if tiling != "two_band":
        raise UserError("nodata-aware pooling needs tiling two_band; released tiles hold two places each")
    both = valid.all(axis=1)
    return cut_tiles(both.astype(jnp.float32), side, tiling).mean(axis=(2, 3, 4))


def flood_logits(
    model: Classifier,
    pairs: Pairs,
    side: int,
    settings: FloodSettings,
    *,
    valid: Bool[Array, "batch 2 1 height width"] | None = None,
    key: Key | None = None,
    frozen: bool = False,
) -> Float[Array, "batch classes"]:
    """Logits (no flood, flood) of pairs of standardised images of the same place.

    The tiles of both dates pass the encoder as one batch.

    Args:
        model: The classifier.
        pairs: Earlier and later date; height and width at least `side`.
        side: Side of a tile in pixels.
        settings: Tiling and pooling.
        valid: Pixels that count; the weight of a tile is then its share of pixels that are valid at both dates. By
            default all tiles have equal weight, as in the published system.
        key: Random keys of dropout and drop path, one per pair; without them there are none.
        frozen: Whether to stop the gradient at the encoder.
    """
    tiles = jnp.stack([cut_tiles(pairs[:, date], side, settings.tiling) for date in (0, 1)], axis=1)
    shape = tiles.shape[:3]
    if key is not None:
        numbers = jnp.arange(shape[1] * shape[2])
        key = jax.vmap(jax.vmap(jax.random.fold_in, (None, 0)), (0, None))(key, numbers).reshape(-1)
    features = model.features(tiles.reshape(-1, *tiles.shape[3:]), key=key).reshape(*shape, -1)
    features = jax.lax.stop_gradient(features) if frozen else features
    weights = None if valid is None else tile_weights(valid, side, settings.tiling)
    pooled = pooled_difference(features[:, 0], features[:, 1], settings.patch_op, weights)
    return dense(model.head, pooled).astype(jnp.float32)
