"""Every variant of the weights, against golden numbers where they exist and the formula elsewhere."""

import jax.numpy as jnp
import numpy as np
import pytest

from sarwmix_jax.errors import UserError
from sarwmix_jax.preprocessing import backscatter_weights
from sarwmix_jax.settings.sections import WeightSettings
from tests.support import golden

STORED = golden("weighting")


def weights(
    settings: WeightSettings, db=STORED["sar_db"], standardised=STORED["normalised"], cell: int = 32, valid=None
):
    return np.asarray(backscatter_weights(jnp.asarray(db), jnp.asarray(standardised), settings, cell=cell, valid=valid))


@pytest.mark.smoke
@pytest.mark.parametrize(
    ("key", "settings"),
    [
        ("per_channel", WeightSettings()),
        ("shared_avg", WeightSettings(mode="shared_power")),
        ("per_channel_half", WeightSettings(exp_scale=0.5)),
        ("per_channel_on_normalised", WeightSettings(power_of="standardised")),
        ("shared_avg_on_normalised", WeightSettings(mode="shared_power", power_of="standardised")),
    ],
)
def test_golden(key, settings):
    expected = np.broadcast_to(STORED[key], STORED["sar_db"].shape)
    np.testing.assert_allclose(weights(settings), expected, rtol=0, atol=1e-5)


def test_shared_weight_is_the_mean_of_both_bands():
    expected = np.broadcast_to(weights(WeightSettings()).mean(axis=1, keepdims=True), STORED["sar_db"].shape)
    np.testing.assert_allclose(weights(WeightSettings(mode="shared_weight")), expected, rtol=0, atol=1e-6)


def test_token_granularity_is_the_mean_of_each_cell():
    pixel, token = weights(WeightSettings()), weights(WeightSettings(granularity="token"), cell=16)
    for row in (0, 16):
        for column in (0, 16):
            cell = np.s_[:, :, row : row + 16, column : column + 16]
            means = pixel[cell].mean(axis=(2, 3), keepdims=True)
            np.testing.assert_allclose(token[cell], np.broadcast_to(means, pixel[cell].shape), rtol=0, atol=1e-5)


def test_range_flat_image_and_off():
    inside = weights(WeightSettings())
    assert inside.min() >= 1 - 1e-5
    assert inside.max() <= np.e + 1e-5
    flat = np.full((1, 2, 32, 32), -12.0, np.float32)
    np.testing.assert_allclose(weights(WeightSettings(), flat, flat), np.e, rtol=1e-6)
    np.testing.assert_array_equal(weights(WeightSettings(mode="off")), 1)


@pytest.mark.parametrize("mode", ["per_channel", "shared_power", "shared_weight", "off"])
@pytest.mark.parametrize("granularity", ["pixel", "token"])
def test_values_under_the_mask_change_nothing(mode, granularity):
    rng = np.random.default_rng(0)
    valid = rng.random((2, 1, 32, 32)) > 0.3
    other = np.where(valid, STORED["sar_db"], 60.0).astype(np.float32)
    settings = WeightSettings(mode=mode, granularity=granularity)
    found = weights(settings, cell=8, valid=jnp.asarray(valid))
    np.testing.assert_array_equal(found, weights(settings, db=other, cell=8, valid=jnp.asarray(valid)))
    assert (found[~np.broadcast_to(valid, found.shape)] == 0).all()
    assert np.isfinite(found).all()


def test_all_valid_is_the_faithful_mode():
    valid = jnp.ones((2, 1, 32, 32), bool)
    for settings in (WeightSettings(), WeightSettings(granularity="token"), WeightSettings(mode="shared_power")):
        np.testing.assert_allclose(weights(settings, valid=valid), weights(settings), rtol=1e-6)


def test_unknown_variant():
    with pytest.raises(UserError, match=r"weighting\.mode is 'shared'; use one of per_channel, shared_power"):
        WeightSettings(mode="shared")  # type: ignore[arg-type]
