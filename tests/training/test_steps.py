"""Preparation on the device, mix groups, and the nodata-aware mode."""

from dataclasses import replace
from functools import cache

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from sarwmix_jax.models.mixmae import MixMAE
from sarwmix_jax.models.state import merge_model
from sarwmix_jax.tasks.pretraining import StepSettings, group_keys, group_mask, micro_loss, prepare
from sarwmix_jax.settings.sections import WeightSettings
from tests.support import V2, at_size, model_arrays

MODEL = at_size(64, depths=(1, 1, 1, 1), decoder_depth=1)
SETTINGS = StepSettings(MODEL, V2, WeightSettings(), 0.5, 0.0, True, 0.5, 0.5, mix_group=4, micro_batch=4, seed=7)


def records(count: int = 4, seed: int = 0) -> jnp.ndarray:
    rng = np.random.default_rng(seed)
    means = np.array([-18.0, -11.0]).reshape(1, 2, 1, 1)
    return jnp.asarray(means + rng.normal(0, 3, (count, 2, 60, 60)), jnp.float16)


@cache
def compiled(settings: StepSettings):
    graphdef, params, fixed = model_arrays(MixMAE, settings.model)

    def loss(params, batch, groups):
        return micro_loss(merge_model(graphdef, params, fixed), batch, jnp.int32(2), groups, settings)

    gradient = jax.jit(jax.value_and_grad(loss, has_aux=True))
    return lambda batch, groups: gradient(params, batch, groups)


def test_prepare_resizes_standardises_and_flips_weights_with_the_image():
    prepared = prepare({"image": records()}, SETTINGS, jax.random.key(0))
    still = prepare({"image": records()}, SETTINGS)
    assert prepared.db.shape == (4, 2, 64, 64)
    assert prepared.db.dtype == jnp.float32
    assert prepared.valid is None
    np.testing.assert_allclose(prepared.standardised[:, 1], (prepared.db[:, 1] + 12.5144) / 5.0019, atol=1e-4)
    flipped = 0
    for i in range(4):
        views = [still.db[i], still.db[i, :, :, ::-1], still.db[i, :, ::-1], still.db[i, :, ::-1, ::-1]]
        which = [bool((view == prepared.db[i]).all()) for view in views]
        assert sum(which) == 1
        flipped += which.index(True) > 0
        weights = [w[i] for w in (still.weights, still.weights[..., ::-1], still.weights[..., ::-1, :])]
        weights.append(still.weights[i, :, ::-1, ::-1])
        np.testing.assert_allclose(prepared.weights[i], weights[which.index(True)], rtol=1e-6)
    assert flipped > 0


def test_randomness_follows_from_seed_step_and_group():
    keys = {
        tuple(np.asarray(jax.random.key_data(key)).tolist())
        for seed, step, group in ((0, 0, 0), (1, 0, 0), (0, 1, 0), (0, 0, 1))
        for key in group_keys(seed, step, group)
    }
    assert len(keys) == 12
    mask = group_mask(group_keys(0, 5, 3).mask, SETTINGS)
    np.testing.assert_array_equal(mask, group_mask(group_keys(0, 5, 3).mask, SETTINGS))


@pytest.mark.slow
def test_groups_of_a_micro_batch_are_those_of_separate_ones():
    two = compiled(replace(SETTINGS, mix_group=2))
    (loss, metrics), grads = two({"image": records()}, jnp.array([4, 5]))
    parts = [two({"image": records()[2 * i : 2 * i + 2]}, jnp.array([4 + i])) for i in (0, 1)]
    np.testing.assert_allclose(loss, np.mean([part[0][0] for part in parts]), rtol=1e-6)
    np.testing.assert_allclose(metrics["loss_per_band"].mean(), loss, rtol=1e-6)
    means = jax.tree.map(lambda a, b: (a + b) / 2, parts[0][1], parts[1][1])
    for ours, mean in zip(jax.tree.leaves(grads), jax.tree.leaves(means), strict=True):
        np.testing.assert_allclose(ours, mean, rtol=0, atol=1e-6)


@pytest.mark.slow
def test_values_under_the_validity_mask_change_nothing():
    valid = jnp.asarray(np.random.default_rng(3).random((4, 1, 60, 60)) > 0.02).at[1, :, :20].set(False)
    image = records()
    other = jnp.where(valid, image, 60.0).astype(jnp.float16)
    run = compiled(SETTINGS)
    before, after = (run({"image": x, "valid": valid}, jnp.array([0])) for x in (image, other))
    for ours, theirs in zip(jax.tree.leaves(before), jax.tree.leaves(after), strict=True):
        np.testing.assert_array_equal(ours, theirs)
    (faithful, _), _ = run({"image": image}, jnp.array([0]))
    assert abs(before[0][0] - faithful) > 1e-4


@pytest.mark.slow
def test_all_valid_is_the_faithful_mode():
    run = compiled(SETTINGS)
    (faithful, _), _ = run({"image": records()}, jnp.array([0]))
    (aware, _), _ = run({"image": records(), "valid": jnp.ones((4, 1, 60, 60), bool)}, jnp.array([0]))
    np.testing.assert_allclose(aware, faithful, rtol=1e-6)


def test_an_image_without_a_valid_pixel_stays_finite():
    valid = jnp.ones((4, 1, 60, 60), bool).at[0].set(False)
    (loss, _), grads = compiled(SETTINGS)({"image": records(), "valid": valid}, jnp.array([0]))
    assert np.isfinite(loss)
    assert all(np.isfinite(g).all() for g in jax.tree.leaves(grads))
