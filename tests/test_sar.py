"""Backscatter arithmetic and image preparation."""

import jax.numpy as jnp
import numpy as np
import pytest

from sarwmix_jax import preprocessing as sar
from sarwmix_jax.facts.bands import STATISTICS
from tests.support import golden


@pytest.mark.smoke
def test_resize_120_to_128_is_the_published_bilinear_one():
    stored = golden("resize_120_to_128")
    np.testing.assert_allclose(sar.resize(jnp.asarray(stored["db"]), 128), stored["resized"], rtol=0, atol=1e-4)


def test_shrinking_is_antialiased():
    stripes = np.tile(np.array([0.0, 1.0], np.float32), (1, 2, 64, 32))
    assert np.abs(np.asarray(sar.resize(jnp.asarray(stripes), 16))[..., 1:-1] - 0.5).max() < 0.05


def test_dB_and_power():
    np.testing.assert_allclose(sar.db_to_power(jnp.array([-20.0, 0.0, 3.0])), [0.01, 1.0, 1.9952623], rtol=1e-5)
    db = jnp.linspace(-35, 5, 50)
    np.testing.assert_allclose(sar.power_to_db(sar.db_to_power(db)), db, atol=1e-4)


def test_standardise_by_band():
    statistics = STATISTICS["bigearthnet_v2"]
    images = jnp.broadcast_to(jnp.asarray(statistics.mean_db).reshape(1, 2, 1, 1), (1, 2, 4, 4))
    np.testing.assert_allclose(sar.standardise(images, statistics), 0, atol=1e-6)
    one_above = images + jnp.asarray(statistics.std_db).reshape(1, 2, 1, 1)
    np.testing.assert_allclose(sar.standardise(one_above, statistics), 1, atol=1e-6)
    np.testing.assert_allclose(sar.unstandardise(jnp.ones_like(images), statistics), one_above, atol=1e-5)


def test_flips_mirror_only_marked_images():
    images = jnp.arange(3 * 2 * 2 * 2.0).reshape(3, 2, 2, 2)
    flipped = sar.flip(images, sar.Flips(jnp.array([True, False, False]), jnp.array([False, True, False])))
    np.testing.assert_array_equal(flipped[0], images[0, :, :, ::-1])
    np.testing.assert_array_equal(flipped[1], images[1, :, ::-1])
    np.testing.assert_array_equal(flipped[2], images[2])


@pytest.mark.parametrize(("side", "wanted"), [(120, 128), (100, 128), (128, 64)])
def test_resized_pixels_are_valid_when_all_that_went_into_them_are(side, wanted):
    rng = np.random.default_rng(1)
    valid = rng.random((1, 1, side, side)) > 0.05
    resized_valid = np.asarray(sar.resize_valid(jnp.asarray(valid), wanted))
    assert 0 < resized_valid.mean() < valid.mean()
    image = rng.normal(-15, 3, (1, 1, side, side)).astype(np.float32)
    changed = np.where(valid, image, 1e4).astype(np.float32)
    before, after = sar.resize(jnp.asarray(image), wanted), sar.resize(jnp.asarray(changed), wanted)
    same = np.abs(np.asarray(before) - np.asarray(after)) < 1e-3
    np.testing.assert_array_equal(same, resized_valid)
