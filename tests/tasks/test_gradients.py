"""The last steps of an update, for all arrays together."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from sarwmix_jax.tasks.gradients import SMALL, apply_updates, gradient_norm

SHAPES = {"norm": {"bias": (512,), "scale": (512,)}, "table": (15, 4), "stacked": (3, 7), "kernel": (300, 512)}


def arrays(seed: int):
    rng = np.random.default_rng(seed)
    shapes = jax.tree.leaves(SHAPES, is_leaf=lambda node: isinstance(node, tuple))
    leaves = [rng.normal(size=shape).astype(np.float32) for shape in shapes]
    assert {leaf.size > SMALL for leaf in leaves} == {True, False}
    return jax.tree.unflatten(jax.tree.structure(SHAPES, is_leaf=lambda node: isinstance(node, tuple)), leaves)


def test_the_norm_is_that_of_all_values():
    gradients = arrays(0)
    every = np.concatenate([leaf.ravel() for leaf in jax.tree.leaves(gradients)]).astype(np.float64)
    found = float(jax.jit(gradient_norm)(gradients))
    assert found == pytest.approx(np.linalg.norm(every), rel=1e-6)
    assert found == pytest.approx(float(optax.tree.norm(gradients)), rel=1e-6)


@pytest.mark.parametrize("value", [np.nan, np.inf])
@pytest.mark.parametrize("name", ["stacked", "kernel"])
def test_no_value_that_is_not_finite_is_lost_in_the_norm(name, value):
    gradients = arrays(0)
    gradients[name][1, 2] = value
    assert not np.isfinite(gradient_norm(gradients))


def test_the_update_is_that_of_each_array_to_the_last_bit():
    params, updates = arrays(1), arrays(2)
    found = jax.jit(apply_updates)(params, updates, jnp.float32(0.3))
    alone = jax.jit(lambda param, update, rate: param - rate * update)
    expected = jax.tree.map(lambda param, update: alone(param, update, jnp.float32(0.3)), params, updates)
    jax.tree.map(np.testing.assert_array_equal, found, expected)


def test_an_update_without_small_arrays():
    params = {"kernel": jnp.ones((300, 512))}
    assert float(apply_updates(params, params, jnp.float32(0.25))["kernel"][0, 0]) == 0.75
