"""The hierarchical encoder with window attention (Swin without shifts), with or without a mask."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from einops import rearrange
from flax import nnx
from jaxtyping import Array, Float, Int

from sarwmix_jax.models.layers import (
    Attention,
    Key,
    LayerNorm,
    Mlp,
    Rate,
    dense,
    drop_path,
    dropout,
    linear,
    numbered,
)
from sarwmix_jax.models.state import FORBIDDEN, Execution, Fixed, Stream, add, added, make_blocks, run_blocks
from sarwmix_jax.models.tokens import (
    PatchEmbed,
    StageLayout,
    inverse,
    sine_cosine_positions,
    stage_layout,
    z_order,
)
from sarwmix_jax.settings.model import STAGES, ModelSettings


class TokenPairs(NamedTuple):
    """The (query, key) pairs in the windows of a stage: the same for all its blocks.

    Attributes:
        rows: Row of the bias table for each pair, (windows, n, n), or (n, n) for all windows.
        forbidden: Bias that separates the two images, (windows, 1, n, n), or None where it is not needed.
    """

    rows: Int[Array, "*windows n n"]
    forbidden: Float[Array, "windows 1 n n"] | None


class WindowAttention(Attention):
    """Attention within windows, with a trained bias for every relative position."""

    def __init__(self, stage: int, settings: ModelSettings, *, rngs: nnx.Rngs):
        heads, window = settings.num_heads[stage], settings.window_sides[stage]
        super().__init__(settings.widths[stage], heads, f"stage {stage + 1}", settings, rngs=rngs)
        # The published initialisation truncates at +-2, a hundred standard deviations.
        draw = jax.random.truncated_normal(rngs.params(), -100, 100, ((2 * window - 1) ** 2, heads))
        self.bias_table = nnx.Param(0.02 * draw)

    def bias(self, pairs: TokenPairs) -> Float[Array, "*windows heads n n"]:
        """The bias of this block, the same for a whole step: relative position and mask."""
        relative = rearrange(self.bias_table[...][pairs.rows], "... q k head -> ... head q k")
        return relative if pairs.forbidden is None else relative + pairs.forbidden


class CellMask(NamedTuple):
    """A mask over the cells, prepared for the stages.

    Attributes:
        bits: 0/1 per cell in Z-order.
        groups: Z-order positions of the cells with 0 (first row) and with 1 (second row); None unless exactly half are
            masked.
    """

    bits: Float[Array, " cells"]
    groups: Int[Array, "2 half"] | None


def cell_mask(mask: Float[Array, " cells"], masked_count: int | None) -> CellMask:
    """Prepares a row-major mask; `masked_count` is the number of its ones where this is fixed, else None."""
    bits = mask[z_order(round(mask.size**0.5))]
    halves = masked_count is not None and 2 * masked_count == mask.size
    return CellMask(bits, jnp.argsort(bits, stable=True).reshape(2, -1) if halves else None)


class Block(nnx.Module):
    """Pre-norm window attention and MLP, each with a residual connection."""

    def __init__(self, stage: int, settings: ModelSettings, *, rngs: nnx.Rngs):
        width = settings.widths[stage]
        self.norm1 = LayerNorm(width, settings, rngs=rngs)
        self.attention = WindowAttention(stage, settings, rngs=rngs)
        self.norm2 = LayerNorm(width, settings, rngs=rngs)
        self.mlp = Mlp(width, settings, rngs=rngs)

    def __call__(self, x: Stream, pairs: TokenPairs, key: Key | None, rate: Rate) -> Stream:
        """Transforms tokens that are already sorted into windows; `rate` is that of drop path."""
        keys = [numbered(key, part) for part in range(4)]
        normed, x = self.norm1.beside(x)
        branch = self.attention(normed, self.attention.bias(pairs), keys[0])
        normed, x = self.norm2.beside(add(x, drop_path(branch, rate, keys[1])))
        return add(x, drop_path(self.mlp(normed, keys[2]), rate, keys[3]))


class PatchMerging(nnx.Module):
    """Four neighbours, consecutive in Z-order, become one token of twice the width."""

    def __init__(self, width: int, settings: ModelSettings, *, rngs: nnx.Rngs):
        self.norm = LayerNorm(4 * width, settings, rngs=rngs)
        self.reduction = linear(4 * width, 2 * width, settings, bias=False, rngs=rngs)

    def __call__(self, x: Float[Array, "batch tokens width"]) -> Float[Array, "batch merged doubled"]:
        """Merges tokens to a quarter of their number."""
        merged = x.reshape(x.shape[0], -1, 4 * x.shape[-1])
        return dense(self.reduction, self.norm(merged))


class Stage(nnx.Module):
    """The blocks of one resolution, then PatchMerging except after the last."""

    def __init__(self, stage: int, rates: list[float], settings: ModelSettings, *, rngs: nnx.Rngs):
        self.execution = Execution(settings.recompute, bool(settings.scan))
        self.blocks = make_blocks(lambda rngs: Block(stage, settings, rngs=rngs), len(rates), self.execution, rngs=rngs)
        self.rates: tuple[float | None, ...] = tuple(rates) if any(rates) else (None,) * len(rates)
        last = stage == STAGES - 1
        self.merge = None if last else PatchMerging(settings.widths[stage], settings, rngs=rngs)
        self.grid, self.window = settings.grids[stage], settings.window_sides[stage]
        self.cell_side = 2 ** (STAGES - 1 - stage)
        self.shortcuts = settings.attention == "auto"

    @property
    def layout(self) -> StageLayout:
        """The order of this stage's tokens and their windows."""
        return stage_layout(self.grid, self.window)

    def gathers(self, mask: CellMask | None) -> bool:
        """Whether attention within the two groups is exact: one window covers the grid and half of it is masked."""
        return self.shortcuts and mask is not None and mask.groups is not None and self.layout.whole

    def __call__(
        self, x: Float[Array, "batch tokens width"], mask: CellMask | None, keys: list[Key | None]
    ) -> Float[Array, "batch tokens width"]:
        """Runs the blocks; tokens are given and returned in Z-order, or sorted into groups where `gathers`."""
        pairs, gathers = self._pairs(mask), self.gathers(mask)
        reorder = None if gathers else self.layout.to_windows
        if reorder is not None:
            x = x[:, reorder]
        windows = 2 if gathers else self.layout.windows
        shape, x = x.shape, x.reshape(x.shape[0], windows, -1, x.shape[-1])
        own = list(zip(keys, self.rates, strict=True))
        x = added(run_blocks(self.blocks, x, (pairs,), own, self.execution)).reshape(shape)
        return x if reorder is None else x[:, inverse(reorder)]

    def _pairs(self, mask: CellMask | None) -> TokenPairs:
        """Bias-table rows and forbidden pairs, once for all blocks of the stage."""
        index = jnp.asarray(self.layout.index, jnp.int32)
        if mask is None or (self.shortcuts and self.cell_side % self.window == 0):
            return TokenPairs(index, None)  # every window lies within one cell, so there is nothing to separate
        if self.gathers(mask) and mask.groups is not None:
            tokens = expand_cells(mask.groups, self.cell_side**2)
            return TokenPairs(index[tokens[:, :, None], tokens[:, None, :]], None)
        bits = jnp.repeat(mask.bits, self.cell_side**2)
        bits = (bits if self.layout.to_windows is None else bits[self.layout.to_windows]).reshape(
            self.layout.windows, 1, -1
        )
        return TokenPairs(index, jnp.where(bits[..., :, None] == bits[..., None, :], 0.0, FORBIDDEN))


def expand_cells(cells: Int[Array, "... cells"], tokens: int) -> Int[Array, "... all_tokens"]:
    """Positions of all tokens of these cells; a cell has `tokens` consecutive ones."""
    positions = cells[..., None] * tokens + np.arange(tokens)
    return positions.reshape(*cells.shape[:-1], -1)


def take_cells(
    x: Float[Array, "batch tokens width"], cells: Int[Array, " cells"]
) -> Float[Array, "batch tokens width"]:
    """Takes all tokens of these cells, in this order."""
    runs = x.reshape(x.shape[0], cells.size, -1, x.shape[-1])
    return jnp.take(runs, cells, axis=1).reshape(x.shape)


class Encoder(nnx.Module):
    """Patch embedding, position, four stages, LayerNorm."""

    def __init__(self, settings: ModelSettings, *, rngs: nnx.Rngs):
        self.patch_embed = PatchEmbed(settings, rngs=rngs)
        self.position = Fixed(jnp.asarray(sine_cosine_positions(settings.grids[0], settings.embed_dim)))
        blocks = sum(settings.depths)
        rates = [settings.drop_path * k / max(blocks - 1, 1) for k in range(blocks)]
        starts = np.cumsum((0, *settings.depths))
        self.stages = nnx.List([Stage(s, rates[starts[s] : starts[s + 1]], settings, rngs=rngs) for s in range(STAGES)])
        self.norm = LayerNorm(settings.features, settings, rngs=rngs)
        self.dropout = settings.dropout
        self.starts = tuple(int(start) for start in starts)

    def __call__(
        self,
        images: Float[Array, "batch band height width"],
        mask: Float[Array, " cells"] | None = None,
        *,
        masked_count: int | None = None,
        key: Key | None = None,
    ) -> Float[Array, "batch cells features"]:
        """Encodes standardised images, already mixed where a mask is given; cells are returned row by row.

        Args:
            images: Standardised backscatter.
            mask: 0/1 per cell, row-major, shared by the batch; tokens attend only to tokens with the same bit.
            masked_count: The number of ones in `mask` where it is fixed; allows attention within gathered groups.
            key: Random key of dropout and drop path; without it there are none.
        """
        x = dropout(self._embed(images), self.dropout, numbered(key, self.starts[-1]))
        prepared = None if mask is None else cell_mask(mask, masked_count)
        gathered = False
        for stage, start, stop in zip(self.stages, self.starts, self.starts[1:], strict=False):
            if stage.gathers(prepared) != gathered:
                x, gathered = self._regroup(x, prepared, gathered), not gathered
            x = stage(x, prepared, [numbered(key, block) for block in range(start, stop)])
            x = x if stage.merge is None else stage.merge(x)
        x = self._regroup(x, prepared, gathered) if gathered else x
        return self.norm(x)[:, inverse(z_order(round(x.shape[1] ** 0.5)))]

    def pyramid(
        self, images: Float[Array, "batch band height width"]
    ) -> tuple[Float[Array, "batch _rows _columns _width"], ...]:
        """Feature maps of the four stages for images that are not mixed: strides of 4, 8, 16 and 32 pixels.

        Each one is the output of a stage before merging; the last one has passed the final LayerNorm.
        """
        x, maps = self._embed(images), []
        for stage in self.stages:
            x = stage(x, None, [None] * len(stage.rates))
            rows = (self.norm(x) if stage.merge is None else x)[:, inverse(z_order(stage.grid))]
            maps.append(rows.reshape(x.shape[0], stage.grid, stage.grid, -1))
            x = x if stage.merge is None else stage.merge(x)
        return tuple(maps)

    def _embed(self, images: Float[Array, "batch band height width"]) -> Float[Array, "batch tokens channels"]:
        x = self.patch_embed(images)
        return x + self.position[...][self.patch_embed.order].astype(x.dtype)

    def _regroup(
        self, x: Float[Array, "batch tokens width"], mask: CellMask | None, gathered: bool
    ) -> Float[Array, "..."]:
        """Sorts cells into the two groups of the mask, or back into Z-order."""
        assert mask is not None and mask.groups is not None
        order = mask.groups.reshape(-1)
        return take_cells(x, jnp.argsort(order) if gathered else order)
