"""Errors of dark and bright areas apart, on predictions whose errors are known."""

import dataclasses

import numpy as np
import pytest

from sarwmix_jax.evaluation.brightness import BandErrors, errors_by_brightness
from sarwmix_jax.settings.sections import WeightSettings
from tests.evaluation.conftest import small_model


def test_errors_of_dark_middle_and_bright_pixels_are_those_that_were_made():
    """A third of the pixels each: predicted 3 dB too bright, exactly, and 2 dB too dark."""
    truth = np.repeat([-25.005, -15.005, -5.005], 100).reshape(1, 3, 100)
    wrong = np.array([3.0, 0.0, -2.0]).reshape(1, 3, 1)
    errors = BandErrors()
    errors.add(truth, truth + wrong, np.ones_like(truth))
    for sums in (errors.by_pixel, errors.by_cell):
        for part, expected in {"dark": (9, 3, 100), "middle": (0, 0, 100), "bright": (4, -2, 100)}.items():
            assert sums.parts[part] == pytest.approx(expected)
        assert -25.005 < sums.thresholds_db[0] < -15.005 < sums.thresholds_db[1] < -5.005
    assert errors.cells.mean_squared_error == pytest.approx(13 / 3)


def test_pixels_and_cells_sort_differently():
    """In every cell half of the pixels are 10 dB brighter: by pixel these are bright, by cell they are not."""
    levels = np.array([-20.0, -19.0, -18.0]).reshape(1, 3, 1)
    pattern = np.where(np.arange(100) % 2, 10.0, 0.0)
    truth = levels + pattern
    errors = BandErrors()
    errors.add(truth, np.broadcast_to(levels, truth.shape), np.ones_like(truth))  # flat: the pattern is missed
    assert errors.by_pixel.parts["dark"] == (0.0, 0.0, 100)
    assert errors.by_pixel.parts["bright"] == (100.0, -10.0, 100)
    for part in ("dark", "middle", "bright"):
        assert errors.by_cell.parts[part] == (50.0, -5.0, 100)


def test_pixels_that_are_not_used_change_nothing():
    rng = np.random.default_rng(0)
    truth, prediction = rng.normal(-15, 4, size=(2, 5, 4, 64))
    used = np.broadcast_to(np.arange(64) < 40, truth.shape).astype(np.float32)
    some, part = BandErrors(), BandErrors()
    some.add(np.where(used, truth, 30.0), np.where(used, prediction, -30.0), used)
    part.add(truth[..., :40], prediction[..., :40], np.ones((5, 4, 40)))
    for name in ("by_pixel", "by_cell"):
        assert getattr(some, name).parts == getattr(part, name).parts
    assert some.cells.inside_correlation == pytest.approx(part.cells.inside_correlation)


def test_thirds_are_those_of_the_values_to_a_hundredth_of_a_db():
    rng = np.random.default_rng(1)
    truth = rng.normal(-15, 4, size=(20, 4, 256))
    errors = BandErrors()
    for part in np.split(truth, 5):
        errors.add(part, part + 1.0, np.ones_like(part))
    np.testing.assert_allclose(errors.by_pixel.thresholds_db, np.quantile(truth, (1 / 3, 2 / 3)), atol=0.011)
    assert sum(count for _, _, count in errors.by_pixel.parts.values()) == truth.size


@pytest.mark.slow
@pytest.mark.parametrize("norm_pix", [False, True])
def test_the_weights_of_a_model_have_no_influence_on_the_measure(held_out_scenes, norm_pix):
    """The same parameters with another loss give the same errors; their mean is that of all hidden cells in dB."""
    model = small_model(norm_pix=norm_pix)
    found = errors_by_brightness(model, held_out_scenes, 1024)
    assert [errors.cells.count for errors in found] == [6 * 64 * 64] * 2
    unweighted = dataclasses.replace(model.task.settings, weighting=WeightSettings(mode="off"))
    other = dataclasses.replace(model, task=dataclasses.replace(model.task, settings=unweighted))
    for errors, same in zip(found, errors_by_brightness(other, held_out_scenes, 1024), strict=True):
        for part, values in errors.by_pixel.parts.items():  # another program may round otherwise
            assert values == pytest.approx(same.by_pixel.parts[part], rel=1e-6)
    for errors in found:
        parts = errors.by_pixel.parts.values()
        assert sum(count for _, _, count in parts) == errors.cells.count
        mean = sum(squared * count for squared, _, count in parts) / errors.cells.count
        assert mean == pytest.approx(errors.cells.mean_squared_error, rel=1e-6)
