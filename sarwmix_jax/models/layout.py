"""The order of tokens inside the encoder, computed once with NumPy.

Outside the model tokens stand row by row. Inside they stand in Z-order: the four tokens of every 2x2 neighbourhood
are next to each other, recursively, in the order (0,0), (1,0), (0,1), (1,1) (row, column), which is that of
PatchMerging. Windows, mask cells and merge groups are then runs of consecutive tokens and need no transposition.
A grid side of q * 2^k (q odd) has q x q row-major blocks, each in Z-order.
"""

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from jaxtyping import Int


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
    """How one stage's tokens (in Z-order) fall into windows.

    Attributes:
        grid: Grid side in tokens.
        window: Window side in tokens.
        to_windows: Permutation that makes windows consecutive, or None where Z-order already does.
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
    """Z-order position of each token, windows one after the other, row by row inside each."""
    position = inverse(z_order(grid)).reshape(grid // window, window, grid // window, window)
    return position.transpose(0, 2, 1, 3).reshape(-1)
