"""Tiles of flood pairs: which pixels stand together, by hand."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from sarwmix_jax.errors import UserError
from sarwmix_jax.facts.bands import STATISTICS
from sarwmix_jax.models.classifier import Classifier
from sarwmix_jax.models.flood import cut_tiles, flood_logits, pooled_difference
from sarwmix_jax.models.state import merge_model
from sarwmix_jax.preprocessing import standardise
from sarwmix_jax.settings.sections import FloodSettings
from tests.support import TINY, golden, model_arrays, published_weights


def numbered(rows: int, columns: int, extra: tuple[int, int] = (0, 0)) -> jax.Array:
    """An image whose pixels encode (band, tile row, tile column) as band*100 + row*10 + column; tiles of side 4."""
    band, row, column = np.indices((2, rows * 4 + extra[0], columns * 4 + extra[1]))
    return jnp.asarray((band * 100 + row // 4 * 10 + column // 4)[None], jnp.float32)


def labels(tiles) -> list[list[float]]:
    tiles = np.asarray(tiles)[0]
    assert all(len(np.unique(band)) == 1 for tile in tiles for band in tile)
    return [[float(band[0, 0]) for band in tile] for tile in tiles]


def test_two_band_tiles_are_places():
    expected = [[0, 100], [1, 101], [2, 102], [10, 110], [11, 111], [12, 112]]
    assert labels(cut_tiles(numbered(2, 3), 4, "two_band")) == expected


def test_released_tiles_pair_neighbours_of_one_band():
    assert labels(cut_tiles(numbered(2, 2), 4, "released")) == [[0, 1], [10, 11], [100, 101], [110, 111]]


def test_an_odd_number_of_released_tiles_mixes_the_bands_once():
    assert labels(cut_tiles(numbered(1, 3), 4, "released")) == [[0, 1], [2, 100], [101, 102]]


@pytest.mark.parametrize("tiling", ["released", "two_band"])
def test_the_rest_is_dropped(tiling):
    assert labels(cut_tiles(numbered(2, 1, (3, 2)), 4, tiling)) == labels(cut_tiles(numbered(2, 1), 4, tiling))


def test_pixels_keep_their_places():
    image = jnp.arange(2 * 8 * 4, dtype=jnp.float32).reshape(1, 2, 8, 4)
    np.testing.assert_array_equal(cut_tiles(image, 4, "two_band")[0, 1, 1], image[0, 1, 4:])
    np.testing.assert_array_equal(cut_tiles(image, 4, "released")[0, 1, 0], image[0, 1, :4])


def test_pooling():
    before, after = jnp.array([[[1.0, 2], [3, 4]]]), jnp.array([[[2.0, 0], [3, 9]]])
    np.testing.assert_array_equal(pooled_difference(before, after, "avg"), [[0.5, 3.5]])
    np.testing.assert_array_equal(pooled_difference(before, after, "max"), [[1, 5]])


@pytest.mark.smoke
def test_golden_logits():
    numbers = golden("flood_tiny")
    model = merge_model(*model_arrays(Classifier, TINY, 2, weights=published_weights("flood_tiny")))
    linear = numbers["pair_linear"]
    pairs_db = jnp.asarray(10 * np.log10(np.where(linear == 0, np.float32(1e-6), linear)))
    pairs = standardise(pairs_db, STATISTICS["bigearthnet_v1"])
    logits = jax.jit(lambda pairs: flood_logits(model, pairs, 128, FloodSettings("released", "max")))(pairs)
    np.testing.assert_allclose(logits, numbers["logits_max"], rtol=0, atol=2e-5)


@pytest.mark.usefixtures("unchecked")
def test_errors():
    with pytest.raises(UserError, match="smaller than a tile of 4"):
        cut_tiles(numbered(1, 1)[..., :3], 4, "two_band")
    with pytest.raises(UserError, match="unknown"):
        cut_tiles(numbered(1, 1), 4, "other")
    with pytest.raises(UserError, match="unknown"):
        pooled_difference(jnp.zeros((1, 1, 1)), jnp.zeros((1, 1, 1)), "sum")
