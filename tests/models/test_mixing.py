"""Masks and mixing."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from sarwmix_jax.models.mixmae import draw_mask, fixed_masked_count, mix, swap_partners, unmix
from sarwmix_jax.models.tokens import image_to_vectors, sine_cosine_positions, vectors_to_image


@pytest.mark.parametrize(("ratio", "count"), [(0.5, 8), (5 / 16, 5), (0.6, 9)])
def test_masks_have_exactly_that_many_cells(ratio, count):
    masks = jax.vmap(lambda key: draw_mask(key, 16, ratio))(jax.random.split(jax.random.key(0), 200))
    assert fixed_masked_count(16, ratio, 0.0) == count
    assert (masks.sum(axis=1) == count).all()
    np.testing.assert_allclose(masks.mean(axis=0), count / 16, atol=0.12)


def test_masks_with_a_range_of_ratios():
    masks = jax.vmap(lambda key: draw_mask(key, 16, 0.25, 0.5))(jax.random.split(jax.random.key(0), 400))
    counts = np.bincount(np.asarray(masks.sum(axis=1)).astype(int), minlength=17)
    assert fixed_masked_count(16, 0.25, 0.5) is None
    assert counts[:4].sum() == 0
    assert counts[12:].sum() == 0
    assert (counts[4:12] > 25).all()  # eight counts, each with probability 1/8


@pytest.mark.parametrize("batch", [4, 5])
def test_mixing_takes_masked_cells_from_the_partner(batch):
    images = jnp.broadcast_to(jnp.arange(batch * 1.0).reshape(-1, 1, 1, 1), (batch, 2, 128, 128))
    mask = draw_mask(jax.random.key(1), 16, 0.5)
    cells = image_to_vectors(mix(images, mask))
    for i in range(batch):
        expected = np.where(np.asarray(mask) == 1, batch - 1 - i, i)
        np.testing.assert_array_equal(cells[i], np.broadcast_to(expected[:, None], (16, 2048)))


def test_unmix_reads_each_cell_where_it_was_missing():
    mask = jnp.array([1.0, 0.0])
    reconstruction = jnp.arange(2 * 3 * 2.0).reshape(2, 3, 2, 1)
    out = unmix(reconstruction, mask)[..., 0]
    np.testing.assert_array_equal(out, [[0, 11], [2, 9], [4, 7]])
    half = jnp.where(mask[:, None] == 1, reconstruction[0], reconstruction[1])
    np.testing.assert_array_equal(swap_partners(half, mask)[..., 0], out)


def test_cell_vectors_are_row_column_band():
    images = jnp.arange(2 * 64 * 64.0).reshape(1, 2, 64, 64)
    vectors = image_to_vectors(images)
    assert vectors.shape == (1, 4, 2048)
    np.testing.assert_array_equal(
        vectors[0, 1, :4], [images[0, 0, 0, 32], images[0, 1, 0, 32], images[0, 0, 0, 33], images[0, 1, 0, 33]]
    )
    np.testing.assert_array_equal(vectors_to_image(vectors, 2), images)


def test_positions_encode_column_first():
    table = sine_cosine_positions(4, 8)
    row, column = 2, 3
    expected = np.concatenate(
        [
            np.sin(column * np.array([1, 0.01])),
            np.cos(column * np.array([1, 0.01])),
            np.sin(row * np.array([1, 0.01])),
            np.cos(row * np.array([1, 0.01])),
        ]
    )
    np.testing.assert_allclose(table[row * 4 + column], expected, atol=1e-6)
