import numpy as np
import pytest

from sarwmix_jax.evaluation.held_out import (
    BandMoments,
    Constant,
    EvaluatedGroup,
    best_constant,
    evaluate_held_out,
    groups,
)
from sarwmix_jax.tasks.gradients import make_mesh
from tests.evaluation.conftest import small_model
from tests.support import V2


def kept_groups(model, source):
    for group, valid in groups(model, source):
        yield EvaluatedGroup(*(np.asarray(part)[valid] for part in group))


@pytest.mark.slow
@pytest.mark.parametrize("norm_pix", [False, True])
def test_held_out_loss_is_the_validation_loss(held_out_scenes, norm_pix):
    model = small_model(norm_pix=norm_pix)
    validate = model.task.make_validation(model.graphdef, make_mesh(), (held_out_scenes,))
    in_training = validate(model.params, model.fixed)
    result = evaluate_held_out(model, held_out_scenes, None)
    assert result.records == 6
    assert result.loss == pytest.approx(in_training["loss"], rel=1e-6)
    assert result.loss_per_band == pytest.approx(in_training["loss_per_band"], rel=1e-6)


@pytest.mark.parametrize("norm_pix", [False, True])
def test_no_other_constant_is_better_on_the_records_it_was_fitted_on(training_scenes, norm_pix):
    model = small_model(norm_pix=norm_pix)
    constant = best_constant(model.task, training_scenes).weighted
    assert constant.shape == (2048,)
    loss = evaluate_held_out(model, training_scenes, Constant(constant, constant)).constant_loss
    rng = np.random.default_rng(0)
    others = [np.zeros(2048), constant + 0.01, constant * 0.98, constant + 0.05 * rng.normal(size=2048)]
    for other in others:
        other = other.astype(np.float32)
        assert evaluate_held_out(model, training_scenes, Constant(other, other)).constant_loss > loss


def test_constant_is_the_weighted_mean_of_every_entry(training_scenes):
    model = small_model()
    stacked = list(kept_groups(model, training_scenes))
    target, weights = (np.concatenate([getattr(group, name) for group in stacked]) for name in ("target", "weights"))
    expected = (weights * target).sum(axis=(0, 1)) / weights.sum(axis=(0, 1))
    found = best_constant(model.task, training_scenes)
    np.testing.assert_allclose(found.weighted, expected, atol=1e-5)
    np.testing.assert_allclose(found.plain, target.mean(axis=(0, 1)), atol=1e-5)


def test_margin_is_the_share_below_the_constant(training_scenes, held_out_scenes):
    model = small_model()
    result = evaluate_held_out(model, held_out_scenes, best_constant(model.task, training_scenes))
    assert result.margin == pytest.approx(1 - result.loss / result.constant_loss)


def test_correlation_is_that_of_numpy(held_out_scenes):
    model = small_model(norm_pix=True)
    result = evaluate_held_out(model, held_out_scenes, None)
    stacked = list(kept_groups(model, held_out_scenes))
    for band, found in enumerate(result.correlations):
        truth, guess = (
            np.concatenate([getattr(group, name)[..., band::2].ravel() for group in stacked])
            for name in ("target", "prediction")
        )
        assert found == pytest.approx(np.corrcoef(truth, guess)[0, 1], abs=1e-5)


def test_a_prediction_that_does_not_vary_has_no_correlation():
    moments = BandMoments()
    moments.add(np.arange(5.0), np.ones(5))
    assert moments.correlation == 0.0
    moments = BandMoments()
    moments.add(np.arange(5.0), -np.arange(5.0))
    assert moments.correlation == pytest.approx(-1.0)


@pytest.mark.parametrize("norm_pix", [False, True])
def test_predictions_in_decibels(held_out_scenes, norm_pix):
    """With norm_pix a cell gets the mean and unbiased deviation of the true cell, all bands together."""
    model = small_model(norm_pix=norm_pix)
    group = next(iter(kept_groups(model, held_out_scenes)))
    mean_db, std_db = (np.tile(getattr(V2, name), 32 * 32) for name in ("mean_db", "std_db"))
    standardised = (vectors(group.original_db) - mean_db) / std_db
    expected = group.prediction
    if norm_pix:
        deviation = np.sqrt(standardised.var(axis=-1, ddof=1, keepdims=True) + 1e-6)
        expected = expected * deviation + standardised.mean(axis=-1, keepdims=True)
    np.testing.assert_allclose(vectors(group.prediction_db), expected * std_db + mean_db, atol=1e-3)


def vectors(images):
    batch, bands, side, _ = images.shape
    cells = images.reshape(batch, bands, side // 32, 32, side // 32, 32)
    return cells.transpose(0, 2, 4, 3, 5, 1).reshape(batch, -1, 32 * 32 * bands)


def test_mixed_input_shows_the_partner_where_the_mask_is_one(held_out_scenes):
    model = small_model()
    group, _ = next(iter(groups(model, held_out_scenes)))
    own = np.isclose(vectors(group.mixed_db), vectors(group.original_db)).all(axis=-1)
    partner = np.isclose(vectors(group.mixed_db), vectors(group.original_db[::-1])).all(axis=-1)
    assert (own != partner).all()
    assert own.sum(axis=1).tolist() == [2] * 8
