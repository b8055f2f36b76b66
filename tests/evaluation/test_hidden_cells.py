import jax.numpy as jnp
import numpy as np
import pytest

from sarwmix_jax.evaluation.held_out import EvaluatedGroup, best_constant, evaluate_held_out, groups
from sarwmix_jax.evaluation.hidden_cells import CellErrors, harmonic_prediction
from sarwmix_jax.models.tokens import image_to_vectors
from tests.evaluation.conftest import small_model


def test_inside_cells_only_the_pattern_counts():
    rng = np.random.default_rng(0)
    truth, noise = rng.normal(size=(2, 3, 4, 100))
    level = rng.normal(size=(3, 4, 1)) * 10
    errors, shifted = CellErrors(), CellErrors()
    for each, prediction in ((errors, truth + noise), (shifted, truth + noise + level)):
        each.add(truth[:2], prediction[:2], np.ones((2, 4, 100)))
        each.add(truth[2:], prediction[2:], np.ones((1, 4, 100)))
    inside = [(x - x.mean(axis=-1, keepdims=True)).ravel() for x in (truth, truth + noise)]
    assert errors.inside_correlation == pytest.approx(np.corrcoef(*inside)[0, 1])
    assert shifted.inside_correlation == pytest.approx(errors.inside_correlation)
    assert errors.mean_squared_error == pytest.approx(np.mean(noise**2))
    assert shifted.mean_squared_error == pytest.approx(np.mean((noise + level) ** 2))


def test_the_right_level_of_every_cell_is_no_correlation_inside():
    levels = np.arange(12.0).reshape(3, 4, 1)
    truth = levels + np.random.default_rng(0).normal(size=(3, 4, 100))
    errors = CellErrors()
    errors.add(truth, np.broadcast_to(levels, truth.shape), np.ones(truth.shape))
    assert errors.inside_correlation == 0.0
    assert errors.mean_squared_error == pytest.approx(np.mean((truth - levels) ** 2))


def test_values_that_are_not_used_change_nothing():
    rng = np.random.default_rng(0)
    truth, prediction = rng.normal(size=(2, 3, 4, 100))
    used = np.broadcast_to(np.arange(100) < 60, truth.shape).astype(np.float32)
    some, part = CellErrors(), CellErrors()
    some.add(np.where(used, truth, 50.0), np.where(used, prediction, -50.0), used)
    part.add(truth[..., :60], prediction[..., :60], np.ones((3, 4, 60)))
    assert some.inside_correlation == pytest.approx(part.inside_correlation)
    assert some.mean_squared_error == pytest.approx(part.mean_squared_error)


def test_every_cell_comes_from_cells_of_the_other_kind():
    """Cells in a chequered mask: a plane comes back where cells have visible neighbours on all sides, no own value."""
    rows, columns = np.indices((96, 96))
    image = np.stack([rows + 2.0 * columns, 100.0 - rows])[None] / 100
    mask = (np.indices((3, 3)).sum(axis=0) % 2).reshape(1, 9).astype(np.float32)
    target = np.asarray(image_to_vectors(jnp.asarray(image)))
    found = harmonic_prediction(target, mask, np.ones_like(target))
    np.testing.assert_allclose(found[0, 4], target[0, 4], atol=1e-5)
    changed = target.copy()
    changed[0, mask[0] == 0] += np.random.default_rng(0).normal(size=(5, 2048))
    again = harmonic_prediction(changed, mask, np.ones_like(target))
    np.testing.assert_array_equal(again[0, mask[0] == 0], found[0, mask[0] == 0])
    assert np.abs(again - found)[0, mask[0] == 1].max() > 0.1


def test_invalid_pixels_are_no_boundary():
    image = np.ones((1, 2, 64, 64))
    used = np.ones_like(image)
    used[:, :, :, 30:32] = 0
    given = np.where(used, image, 7.0)
    mask = np.array([[0.0, 1.0, 0.0, 1.0]])
    target, valid = (np.asarray(image_to_vectors(jnp.asarray(images))) for images in (given, used))
    found = harmonic_prediction(target, mask, valid)
    np.testing.assert_allclose(found, 1.0, atol=1e-5)


@pytest.mark.parametrize("norm_pix", [False, True])
def test_held_out_figures_are_those_of_all_hidden_cells(training_scenes, held_out_scenes, norm_pix):
    model = small_model(norm_pix=norm_pix)
    constant = best_constant(model.task, training_scenes)
    result = evaluate_held_out(model, held_out_scenes, constant)
    assert result.compared == 6
    assert set(result.cells) == ({"model", "constant"} if norm_pix else {"model", "harmonic", "constant"})
    kept = [
        EvaluatedGroup(*(np.asarray(part)[valid] for part in group)) for group, valid in groups(model, held_out_scenes)
    ]
    target, guess = (np.concatenate([getattr(group, name) for group in kept]) for name in ("target", "prediction"))
    for band in range(2):
        x, y = target[..., band::2], guess[..., band::2]
        centred = [(values - values.mean(axis=-1, keepdims=True)).ravel() for values in (x, y)]
        found = result.cells["model"][band]
        assert found.inside_correlation == pytest.approx(np.corrcoef(*centred)[0, 1], abs=1e-5)
        assert found.mean_squared_error == pytest.approx(np.mean((x - y) ** 2), rel=1e-5)
        at_constant = np.mean((x - constant.plain[band::2]) ** 2)
        assert result.cells["constant"][band].mean_squared_error == pytest.approx(at_constant, rel=1e-5)
