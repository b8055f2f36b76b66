"""Token order and windows."""

import numpy as np
import pytest
from einops import rearrange

from sarwmix_jax.models.tokens import inverse, relative_index, stage_layout, z_order


def test_z_order_of_a_four_by_four_grid():
    expected = [0, 4, 1, 5, 8, 12, 9, 13, 2, 6, 3, 7, 10, 14, 11, 15]
    assert z_order(4).tolist() == expected


@pytest.mark.parametrize("side", [1, 3, 6, 20, 32, 96])
def test_z_order_is_a_permutation_and_merges_in_the_published_order(side):
    order = z_order(side)
    assert sorted(order) == list(range(side * side))
    if side % 2 == 0:
        rows, columns = order // side, order % side
        assert (rows.reshape(-1, 4) % 2 == [0, 1, 0, 1]).all()
        assert (columns.reshape(-1, 4) % 2 == [0, 0, 1, 1]).all()
        merged = (rows // 2 * (side // 2) + columns // 2)[::4]
        assert (merged == z_order(side // 2)).all()


@pytest.mark.parametrize(
    ("grid", "window"), [(32, 8), (16, 8), (8, 8), (4, 4), (96, 16), (24, 24), (20, 5), (10, 5), (6, 3)]
)
def test_windows_hold_the_right_tokens_and_positions(grid, window):
    layout = stage_layout(grid, window)
    order = z_order(grid)
    tokens = order if layout.to_windows is None else order[layout.to_windows]
    published = rearrange(np.arange(grid * grid).reshape(grid, grid), "(r y) (q x) -> (r q) (y x)", y=window, x=window)
    found = tokens.reshape(layout.windows, -1)
    assert {frozenset(w) for w in found.tolist()} == {frozenset(w) for w in published.tolist()}
    rows, columns = found // grid, found % grid
    for window_rows, window_columns in zip(rows, columns, strict=True):
        assert (relative_index(window_rows, window_columns, window) == layout.index).all()


def test_only_windows_that_z_order_cannot_hold_are_reordered():
    assert stage_layout(32, 8).to_windows is None
    assert stage_layout(96, 16).to_windows is None
    assert stage_layout(24, 24).to_windows is None
    assert stage_layout(20, 5).to_windows is not None


def test_inverse():
    order = z_order(6)
    assert (order[inverse(order)] == np.arange(36)).all()
