"""The classifier's training against the golden numbers of the published system."""

import json
from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from sarwmix_jax.conversion.table import Extent, entries
from sarwmix_jax.models.classifier import Classifier
from sarwmix_jax.models.state import flatten_names, stack_blocks, unflatten_names, unstack_blocks
from sarwmix_jax.settings.sections import OptimizerSettings
from sarwmix_jax.tasks.gradients import TrainState, make_mesh, replicate, shard_batch
from sarwmix_jax.tasks.multilabel import (
    ClassifierStepSettings,
    make_classifier_step,
    make_logits_step,
    multilabel_loss,
)
from sarwmix_jax.training.optimizer import layer_factors, layer_of, make_optimizer, scale_by_layer
from tests.support import GOLDEN, TINY, V2, at_size, golden, golden_classifier, model_arrays

FINETUNE = golden("finetune_tiny")
STILL = ClassifierStepSettings(TINY, V2, horizontal_flip=0.0, vertical_flip=0.0)


def one_device():
    return make_mesh(jax.devices()[:1])


def start(optimizer):
    graphdef, params, fixed = golden_classifier()
    params = jax.tree.map(jnp.array, params)
    state = TrainState(params, fixed, optimizer.init(params), jnp.zeros((), jnp.int32))
    return graphdef, replicate(state, one_device())


def recipe():
    adamw = make_optimizer(OptimizerSettings(beta2=0.999))
    return optax.chain(adamw, scale_by_layer(TINY.depths, 0.7))


@pytest.mark.slow
def test_eight_steps_have_the_published_losses():
    graphdef, state = start(recipe())
    step, images = make_classifier_step(graphdef, STILL, recipe(), one_device()), golden("pretrain_tiny")["train_x_db"]
    for number in range(8):
        batch = {"image": images[number % 3], "labels": FINETUNE["train_y"][number % 3]}
        state, metrics = step(state, shard_batch(batch, one_device()), np.float32(FINETUNE["train_lr"][number]))
        assert abs(metrics["loss"] - FINETUNE["train_loss"][number]) < 1e-5
    logits = make_logits_step(graphdef, STILL, one_device())(state.params, state.fixed, {"image": FINETUNE["x_db"]})
    np.testing.assert_allclose(logits, FINETUNE["final_logits"], rtol=0, atol=1e-4)


def test_loss_of_given_logits_is_golden():
    loss = multilabel_loss(jnp.asarray(FINETUNE["logits"]), jnp.asarray(FINETUNE["y"]))
    assert abs(loss - FINETUNE["loss"]) < 1e-6


@pytest.mark.slow
def test_drop_path_draws_anew_at_every_step_and_repeats_from_the_seed():
    model = replace(at_size(32), embed_dim=4, depths=(1, 1, 1, 1), num_heads=(1, 1, 1, 1), drop_path=0.5)
    graphdef, params, fixed = model_arrays(Classifier, model, 19)
    batch = {"image": FINETUNE["x_db"][..., :32, :32], "labels": FINETUNE["y"]}
    still = optax.set_to_zero()
    step = make_classifier_step(graphdef, replace(STILL, model=model), still, one_device())

    def losses():
        copy = jax.tree.map(jnp.array, (params, fixed))
        state, found = replicate(TrainState(*copy, still.init(params), jnp.zeros((), jnp.int32)), one_device()), []
        for _ in range(3):
            state, metrics = step(state, shard_batch(batch, one_device()), np.float32(0))
            found.append(float(metrics["loss"]))
        return found

    first = losses()
    assert len(set(first)) == 3
    assert losses() == first


def test_layer_factors_of_base_are_the_published_ones():
    groups = json.loads((GOLDEN / "schedules_and_groups.json").read_text())["finetune_groups_base_layer_decay_0.7"]
    ours = {row.published: row.ours for row in entries(Extent((2, 2, 18, 2), None))}
    tree = unflatten_names({ours[name]: 0.0 for name in groups})
    factors = flatten_names(layer_factors(tree, (2, 2, 18, 2), 0.7))
    for name, (factor, _) in groups.items():
        assert factors[ours[name]] == pytest.approx(factor, rel=1e-12), name


def test_stacked_blocks_have_the_factors_of_their_blocks():
    depths = (1, 2, 3, 1)
    model = at_size(32, embed_dim=4, num_heads=(1, 1, 1, 1), depths=depths)
    one_by_one = model_arrays(Classifier, model, 19)[1]
    factors = layer_factors(stack_blocks(one_by_one), depths, 0.7)
    spread = jax.tree.map(lambda leaf, factor: jnp.broadcast_to(factor, leaf.shape), stack_blocks(one_by_one), factors)
    expected = flatten_names(layer_factors(one_by_one, depths, 0.7))
    for name, leaf in flatten_names(unstack_blocks(spread)).items():
        np.testing.assert_allclose(leaf, expected[name], rtol=1e-6, err_msg=name)


def test_a_parameter_without_a_layer_is_refused():
    with pytest.raises(KeyError, match="decoder/mask_token"):
        layer_of("decoder/mask_token", (1, 1, 1, 1))
