"""Parameters of a model as arrays."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from sarwmix_jax.models.classifier import Classifier
from sarwmix_jax.models.mixmae import MixMAE
from sarwmix_jax.models.state import (
    abstract_model,
    converted_once,
    converted_together,
    flatten_names,
    merge_model,
    split_model,
)
from tests.support import TINY

NARROW = dataclasses.replace(TINY, dtype="bfloat16", image_size=64, depths=(1, 1, 1, 1), windows=(4, 4, 2, 2))


@pytest.mark.promotes("Flax's LayerNorm takes its statistics of bfloat16 in float32")
def test_logits_are_the_same_with_parameters_that_are_converted_once():
    graphdef, params, fixed = split_model(Classifier(NARROW, 3, rngs=nnx.Rngs(0)))
    shape = (2, 2, NARROW.image_size, NARROW.image_size)
    images = jnp.asarray(np.random.default_rng(0).normal(size=shape), jnp.float32)
    converted = converted_once(params, NARROW.dtype)
    logits = jax.jit(lambda params: merge_model(graphdef, params, fixed)(images))
    np.testing.assert_array_equal(logits(converted), logits(params))
    narrow = {name for name, leaf in flatten_names(converted).items() if leaf.dtype == jnp.bfloat16}
    assert narrow == {name for name in flatten_names(params) if name.endswith("kernel")} | {
        name for name in flatten_names(params) if name.endswith("bias") and "norm" not in name
    }


def test_parameters_of_another_kind_of_layer_are_not_converted():
    _, params, _ = abstract_model(MixMAE, NARROW)
    converted = jax.eval_shape(lambda params: converted_once(params, NARROW.dtype), params)
    wide = {name.rpartition("/")[2] for name, leaf in flatten_names(converted).items() if leaf.dtype == jnp.float32}
    assert wide == {"scale", "bias", "bias_table", "mask_token"}


def test_parameters_that_are_converted_together_are_the_same():
    dense = {"kernel": jnp.ones((3, 2)), "bias": jnp.array([-0.0, jnp.nan])}
    norm = {"scale": jnp.full(3, jnp.inf), "bias": jnp.arange(3.0)}
    params = {"blocks": {number: {"fc1": dense, "norm": norm} for number in (0, 1)}, "head": dense}
    found = jax.jit(converted_together)(params)
    assert jax.tree.structure(found) == jax.tree.structure(params)
    as_bits = jax.tree.map(lambda leaf: np.asarray(leaf).view(np.int32), (found, params))
    jax.tree.map(np.testing.assert_array_equal, *as_bits)
    assert str(jax.make_jaxpr(converted_together)(params)).count("name=_where") == 6  # of three dense layers
