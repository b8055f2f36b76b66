"""Stacked blocks in a loop against blocks one by one, with and without recomputation."""

from dataclasses import replace

import jax
import numpy as np
import pytest
from flax import nnx

from sarwmix_jax.models.mixmae import MixMAE, draw_mask
from sarwmix_jax.models.state import flatten_names, merge_model, split_model, stack_blocks, unstack_blocks
from tests.support import TINY, model_arrays

DEEP = replace(TINY, depths=(1, 1, 3, 1), decoder_depth=2, drop_path=0.3)
IMAGES = jax.random.normal(jax.random.key(5), (3, 2, 128, 128))
MASK = draw_mask(jax.random.key(6), 16, 0.5)


def loss_and_gradients(settings):
    # drawn one by one: compiled as a whole, stacked and single blocks may be rounded otherwise
    structure, params, fixed = split_model(MixMAE(settings, rngs=nnx.Rngs(0)))

    def loss(params):
        model = merge_model(structure, params, fixed)
        return (model.reconstruct(IMAGES, MASK, masked_count=8, key=jax.random.key(1)) ** 2).mean()

    return params, *jax.jit(jax.value_and_grad(loss))(params)


@pytest.fixture(scope="module")
def one_by_one():
    return loss_and_gradients(DEEP)


@pytest.mark.slow
@pytest.mark.parametrize(
    "changes",
    [{"scan": True}, {"scan": True, "recompute": "elementwise"}],
    ids=["scan", "scan and recompute"],
)
def test_a_loop_over_stacked_blocks_computes_the_same(one_by_one, changes):
    params, loss, gradients = one_by_one
    stacked_params, stacked_loss, stacked_gradients = loss_and_gradients(replace(DEEP, **changes))
    assert (len(jax.tree.leaves(params)), len(jax.tree.leaves(stacked_params))) == (124, 86)
    jax.tree.map(np.testing.assert_array_equal, unstack_blocks(stacked_params), params)
    np.testing.assert_allclose(stacked_loss, loss, rtol=1e-6)
    for (name, actual), other in zip(
        flatten_names(unstack_blocks(stacked_gradients)).items(), flatten_names(gradients).values(), strict=True
    ):
        np.testing.assert_allclose(actual, other, rtol=0, atol=1e-5 * max(np.abs(other).max(), 1e-3), err_msg=name)


def test_stacking_is_undone_by_unstacking_also_inside_other_trees():
    params = jax.tree.map(np.asarray, model_arrays(MixMAE, DEEP)[1])
    both = (params, {"count": np.float32(3), "mu": params})
    stacked = jax.jit(stack_blocks)(both)
    assert stacked[1]["mu"]["encoder"]["stages"][2]["blocks"]["norm1"]["scale"].shape == (3, 32)
    again = jax.jit(unstack_blocks)(stacked)
    assert list(flatten_names(again[0])) == list(flatten_names(params))
    jax.tree.map(np.testing.assert_array_equal, again, both)
    assert jax.tree.structure(unstack_blocks(both)) == jax.tree.structure(both)
