"""Preparation on the device, mix groups, and the nodata-aware mode."""

from functools import cache

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from sarwmix_jax.models.mixmae import MixMAE
from sarwmix_jax.models.state import merge_model
from sarwmix_jax.preprocessing import backscatter_weights, draw_flips, prepare
from sarwmix_jax.settings.sections import AugmentSettings, WeightSettings
from sarwmix_jax.tasks.pretraining import Pretraining, group_keys
from tests.support import V2, at_size, model_arrays, pretraining_task

MODEL = at_size(64, depths=(1, 1, 1, 1), decoder_depth=1)
TASK = pretraining_task(MODEL, seed=7)


def records(count: int = 4, seed: int = 0) -> jnp.ndarray:
    rng = np.random.default_rng(seed)
    means = np.array([-18.0, -11.0]).reshape(1, 2, 1, 1)
    return jnp.asarray(means + rng.normal(0, 3, (count, 2, 60, 60)), jnp.float16)


@cache
def compiled(task: Pretraining):
    """(batch, place of its first image) -> ((loss, metrics), gradients)."""
    graphdef, params, fixed = model_arrays(MixMAE, task.settings.model)

    def loss(params, batch, first):
        return task.loss(merge_model(graphdef, params, fixed), batch, jnp.int32(2), first)

    gradient = jax.jit(jax.value_and_grad(loss, has_aux=True))
    return lambda batch, first: gradient(params, batch, jnp.int32(first))


def test_prepare_resizes_standardises_and_flips_weights_with_the_image():
    flips = draw_flips(jax.random.key(0), 4, AugmentSettings())
    prepared = prepare({"image": records()}, V2, side=64, flips=flips)
    still = prepare({"image": records()}, V2, side=64)
    flipped_weights, own = (backscatter_weights(x.db, x.standardised, WeightSettings()) for x in (prepared, still))
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
        weights = [w[i] for w in (own, own[..., ::-1], own[..., ::-1, :])]
        weights.append(own[i, :, ::-1, ::-1])
        np.testing.assert_allclose(flipped_weights[i], weights[which.index(True)], rtol=1e-6)
    assert flipped > 0


def test_randomness_follows_from_seed_step_and_group():
    keys = {
        tuple(np.asarray(jax.random.key_data(key)).tolist())
        for seed, step, group in ((0, 0, 0), (1, 0, 0), (0, 1, 0), (0, 0, 1))
        for key in group_keys(seed, step, group)
    }
    assert len(keys) == 12
    np.testing.assert_array_equal(TASK.draw_mask(group_keys(0, 5, 3).mask), TASK.draw_mask(group_keys(0, 5, 3).mask))


@pytest.mark.slow
def test_groups_of_a_micro_batch_are_those_of_separate_ones():
    two = compiled(pretraining_task(MODEL, seed=7, mix_group=2))
    (loss, metrics), grads = two({"image": records()}, 8)
    parts = [two({"image": records()[2 * i : 2 * i + 2]}, 8 + 2 * i) for i in (0, 1)]
    np.testing.assert_allclose(loss, np.mean([part[0][0] for part in parts]), rtol=1e-6)
    np.testing.assert_allclose(metrics["loss_per_band"].mean(), loss, rtol=1e-6)
    means = jax.tree.map(lambda a, b: (a + b) / 2, parts[0][1], parts[1][1])
    for gradient, mean in zip(jax.tree.leaves(grads), jax.tree.leaves(means), strict=True):
        np.testing.assert_allclose(gradient, mean, rtol=0, atol=1e-6)


@pytest.mark.slow
def test_values_under_the_validity_mask_change_nothing():
    valid = jnp.asarray(np.random.default_rng(3).random((4, 1, 60, 60)) > 0.02).at[1, :, :20].set(False)
    image = records()
    other = jnp.where(valid, image, 60.0).astype(jnp.float16)
    run = compiled(TASK)
    before, after = (run({"image": x, "valid_pixels": valid[:, 0]}, 0) for x in (image, other))
    for first, second in zip(jax.tree.leaves(before), jax.tree.leaves(after), strict=True):
        np.testing.assert_array_equal(first, second)
    (faithful, _), _ = run({"image": image}, 0)
    assert abs(before[0][0] - faithful) > 1e-4


@pytest.mark.slow
def test_all_valid_is_the_faithful_mode():
    run = compiled(TASK)
    (faithful, _), _ = run({"image": records()}, 0)
    (aware, _), _ = run({"image": records(), "valid_pixels": jnp.ones((4, 60, 60), bool)}, 0)
    np.testing.assert_allclose(aware, faithful, rtol=1e-6)


def test_an_image_without_a_valid_pixel_stays_finite():
    valid = jnp.ones((4, 1, 60, 60), bool).at[0].set(False)
    (loss, _), grads = compiled(TASK)({"image": records(), "valid_pixels": valid[:, 0]}, 0)
    assert np.isfinite(loss)
    assert all(np.isfinite(g).all() for g in jax.tree.leaves(grads))
