"""Tokens: their order inside the encoder, images cut into patches and cells, and the fixed position tables.

Outside the model tokens are in row-major order. Inside they are in Z-order: the four tokens of every 2x2 neighbourhood
are next to each other, recursively, in the order (0,0), (1,0), (0,1), (1,1) (row, column), which is that of
PatchMerging. Windows, mask cells and merge groups are then consecutive tokens and need no transposition.
A grid side of q * 2^k (q odd) has q x q row-major blocks, each in Z-order.
"""

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from einops import rearrange
from flax import nnx
from jaxtyping import Array, Float, Int

from sarwmix_jax.models.layers import LayerNorm, dense, linear
from sarwmix_jax.settings.model import CELL, PATCH, ModelSettings


@lru_cache
def z_order(side: int) -> Int[np.ndarray, " tokens"]:
    """Row-major index of the token at each position of the Z-order, for a grid of side x side tokens."""
    levels = (side & -side).bit_length() - 1
    blocks = side >> levels
    rows, columns = (axis.reshape(-1) for axis in np.indices((blocks, blocks)))
    for _ in range(levels):
        rows = (2 * rows[:, None] + np.array([0, 1, 0, 1])).reshape(-1)
        columns = (2 * columns[:, None] + np.array([0, 0, 1, 1])).reshape(-1)
    return rows * side + columns


def inverse(order: Int[np.ndarray, " tokens"]) -> Int[np.ndarray, " tokens"]:
    """The permutation that undoes `x[order]`."""
    return np.argsort(order)


def relative_index(rows: Int[np.ndarray, " n"], columns: Int[np.ndarray, " n"], window: int) -> Int[np.ndarray, "n n"]:
    """Row of the relative position bias table for every (query, key) pair of a window's tokens."""
    dy = rows[:, None] - rows[None, :] + window - 1
    dx = columns[:, None] - columns[None, :] + window - 1
    return dy * (2 * window - 1) + dx


@dataclass(frozen=True)
class StageLayout:
    """How the tokens of a stage (in Z-order) are divided into windows.

    Attributes:
        grid: Grid side in tokens.
        window: Window side in tokens.
        to_windows: Permutation that makes windows consecutive, or None where they already are in Z-order.
        index: Row of the bias table for each (query, key) pair of one window, (window^2, window^2).
    """

    grid: int
    window: int
    to_windows: Int[np.ndarray, " tokens"] | None
    index: Int[np.ndarray, "n n"]

    @property
    def windows(self) -> int:
        """Number of windows."""
        return (self.grid // self.window) ** 2

    @property
    def whole(self) -> bool:
        """Whether one window covers the grid."""
        return self.window == self.grid


@lru_cache
def stage_layout(grid: int, window: int) -> StageLayout:
    """Layout of a stage; `window` divides `grid`."""
    powers_of_two = grid & -grid
    contiguous = window == grid or (window & (window - 1) == 0 and window <= powers_of_two)
    within = z_order(window) if contiguous else np.arange(window * window)
    index = relative_index(within // window, within % window, window)
    return StageLayout(grid, window, None if contiguous else _windows_from_z_order(grid, window), index)


def _windows_from_z_order(grid: int, window: int) -> Int[np.ndarray, " tokens"]:
    """Z-order position of each token, window by window, row-major inside each window."""
    position = inverse(z_order(grid)).reshape(grid // window, window, grid // window, window)
    return position.transpose(0, 2, 1, 3).reshape(-1)


def image_to_vectors(
    images: Float[Array, "batch band height width"], side: int = CELL
) -> Float[Array, "batch cells values"]:
    """Cuts images into side x side cells, row by row; values ordered (row, column, band), band fastest."""
    return rearrange(images, "b c (r y) (q x) -> b (r q) (y x c)", y=side, x=side)


def vectors_to_image(
    vectors: Float[Array, "batch cells values"], bands: int, side: int = CELL
) -> Float[Array, "batch band height width"]:
    """Undoes `image_to_vectors` for square images."""
    rows = round(vectors.shape[1] ** 0.5)
    return rearrange(vectors, "b (r q) (y x c) -> b c (r y) (q x)", r=rows, y=side, x=side, c=bands)


def sine_cosine_positions(grid: int, width: int) -> Float[np.ndarray, "tokens width"]:
    """Fixed 2-D sine-cosine table, row-major; the first half of the channels encodes the column, the second the row."""
    omega = 10000.0 ** (-np.arange(width // 4) / (width / 4))
    rows, columns = (axis.reshape(-1, 1) * omega for axis in np.indices((grid, grid)))
    return np.concatenate([np.sin(columns), np.cos(columns), np.sin(rows), np.cos(rows)], axis=1).astype(np.float32)


class PatchEmbed(nnx.Module):
    """4x4 patches to tokens: a dense layer over a patch's values (the published convolution), then LayerNorm."""

    def __init__(self, settings: ModelSettings, *, rngs: nnx.Rngs):
        values = PATCH**2 * len(settings.bands)
        self.proj = linear(values, settings.embed_dim, settings, bound=values**-0.5, rngs=rngs)
        self.norm = LayerNorm(settings.embed_dim, settings, rngs=rngs)
        self.grid = settings.grids[0]

    @property
    def order(self) -> Int[np.ndarray, " tokens"]:
        """Row-major index of each token."""
        return z_order(self.grid)

    def __call__(self, images: Float[Array, "batch band height width"]) -> Float[Array, "batch tokens channels"]:
        """Tokens in Z-order."""
        patches = image_to_vectors(images, PATCH)[:, self.order]
        return self.norm(dense(self.proj, patches))
