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
from sarwmix_jax.models.state import flatten_names, merge_model, stack_blocks, unflatten_names, unstack_blocks
from sarwmix_jax.settings.sections import (
    AugmentSettings,
    BatchSettings,
    FinetuningOptimizerSettings,
    FinetuningSettings,
)
from sarwmix_jax.tasks.gradients import TrainState, make_mesh, make_train_step, replicate, shard_batch
from sarwmix_jax.tasks.multilabel import Multilabel
from sarwmix_jax.training.optimizer import layer_factors, layer_of, make_optimizer
from tests.support import GOLDEN, TINY, V2, at_size, golden, golden_classifier, model_arrays

FINETUNE = golden("finetune_tiny")
CLASSES = tuple(map(str, range(19)))


def still(model=TINY) -> Multilabel:
    """The task without flips."""
    settings = FinetuningSettings(model=model, augment=AugmentSettings(0.0, 0.0), batch=BatchSettings(4, 4))
    return Multilabel(settings, V2, CLASSES)


def one_device():
    return make_mesh(jax.devices()[:1])


def start(optimizer):
    graphdef, params, fixed = golden_classifier()
    params = jax.tree.map(np.array, params)
    state = TrainState(params, fixed, jax.jit(optimizer.init)(params), jnp.zeros((), jnp.int32))
    return graphdef, replicate(state, one_device())


def recipe():
    return make_optimizer(FinetuningOptimizerSettings(), TINY.depths)


@pytest.mark.promotes("optax raises a float to the power of the whole number of steps")
@pytest.mark.smoke
@pytest.mark.slow
def test_eight_steps_have_the_published_losses():
    graphdef, state = start(recipe())
    step = make_train_step(still(), graphdef, recipe(), one_device())
    images = golden("pretrain_tiny")["train_x_db"]
    for number in range(8):
        batch = {"image": images[number % 3], "labels": FINETUNE["train_y"][number % 3]}
        state, metrics = step(state, shard_batch(batch, one_device()), np.float32(FINETUNE["train_lr"][number]))
        assert abs(metrics["loss"] - FINETUNE["train_loss"][number]) < 1e-5
    model = merge_model(graphdef, state.params, state.fixed)
    logits = jax.jit(lambda db: still().logits(model, {"image": db}))(FINETUNE["x_db"])
    np.testing.assert_allclose(logits, FINETUNE["final_logits"], rtol=0, atol=1e-4)


@pytest.mark.smoke
def test_loss_of_given_logits_is_golden():
    loss = still().losses(jnp.asarray(FINETUNE["logits"]), jnp.asarray(FINETUNE["y"])).mean()
    assert abs(loss - FINETUNE["loss"]) < 1e-6


@pytest.mark.slow
def test_drop_path_differs_at_every_step_and_repeats_from_the_seed():
    model = replace(at_size(32), embed_dim=4, depths=(1, 1, 1, 1), num_heads=(1, 1, 1, 1), drop_path=0.5)
    graphdef, params, fixed = model_arrays(Classifier, model, 19)
    batch = {"image": FINETUNE["x_db"][..., :32, :32], "labels": FINETUNE["y"]}
    nothing = optax.set_to_zero()
    step = make_train_step(still(model), graphdef, nothing, one_device())

    def losses():
        copy = jax.tree.map(np.array, (params, fixed))
        state, found = replicate(TrainState(*copy, nothing.init(params), jnp.zeros((), jnp.int32)), one_device()), []
        for _ in range(3):
            state, metrics = step(state, shard_batch(batch, one_device()), np.float32(0))
            found.append(float(metrics["loss"]))
        return found

    first = losses()
    assert len(set(first)) == 3
    assert losses() == first


def test_layer_factors_of_base_are_the_published_ones():
    groups = json.loads((GOLDEN / "schedules_and_groups.json").read_text())["finetune_groups_base_layer_decay_0.7"]
    renamed = {row.published: row.name for row in entries(Extent((2, 2, 18, 2), None))}
    tree = unflatten_names({renamed[name]: 0.0 for name in groups})
    factors = flatten_names(layer_factors(tree, (2, 2, 18, 2), 0.7))
    for name, (factor, _) in groups.items():
        assert factors[renamed[name]] == pytest.approx(factor, rel=1e-12), name


def test_stacked_blocks_have_the_factors_of_their_blocks():
    depths = (1, 2, 3, 1)
    model = at_size(32, embed_dim=4, num_heads=(1, 1, 1, 1), depths=depths)
    one_by_one = model_arrays(Classifier, model, 19)[1]
    stacked = jax.jit(stack_blocks)(one_by_one)
    factors = layer_factors(stacked, depths, 0.7)
    spread = jax.tree.map(lambda leaf, factor: np.broadcast_to(factor, leaf.shape), stacked, factors)
    expected = flatten_names(layer_factors(one_by_one, depths, 0.7))
    for name, leaf in flatten_names(unstack_blocks(spread)).items():
        np.testing.assert_allclose(leaf, expected[name], rtol=1e-6, err_msg=name)


def test_a_parameter_without_a_layer_is_refused():
    with pytest.raises(KeyError, match="decoder/mask_token"):
        layer_of("decoder/mask_token", (1, 1, 1, 1))
