"""GELU and LayerNorm against the libraries' own: values and gradients."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from sarwmix_jax.models.layers import gelu

EXACT = jax.jit(lambda x: jax.nn.gelu(x, approximate=False))
VALUES = np.concatenate([np.linspace(-12, 12, 4801), [-1e4, -40.0, 0.0, 1e-30, 40.0, 1e4]]).astype(np.float32)


def slope(function, x):
    return jax.jit(lambda x: jax.vjp(function, x)[1](jnp.ones_like(x))[0])(x)


def test_gelu_is_the_exact_one():
    np.testing.assert_allclose(jax.jit(gelu)(VALUES), EXACT(VALUES), rtol=0, atol=1e-5)
    np.testing.assert_allclose(slope(gelu, VALUES), slope(EXACT, VALUES), rtol=0, atol=3e-5)
    assert jax.jit(gelu)(1.0) == pytest.approx(0.8413447, abs=1e-6)  # the normal distribution function at 1


def test_gelu_in_bfloat16_is_rounded_once():
    x = jnp.asarray(VALUES, jnp.bfloat16)
    exact = EXACT(x.astype(jnp.float32))
    np.testing.assert_allclose(jax.jit(gelu)(x).astype(jnp.float32), exact, rtol=2**-8, atol=1e-5)
    exact = slope(EXACT, x.astype(jnp.float32))
    np.testing.assert_allclose(slope(gelu, x).astype(jnp.float32), exact, rtol=2**-8, atol=3e-5)


def test_gelu_keeps_only_its_input():
    pull = jax.vjp(gelu, jnp.ones((3, 5)))[1]
    assert [kept.shape for kept in jax.tree.leaves(pull)] == [(3, 5)]
