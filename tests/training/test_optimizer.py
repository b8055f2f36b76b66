import json
import math
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from sarwmix_jax.conversion.table import Extent, entries
from sarwmix_jax.models.state import flatten_names, unflatten_names
from sarwmix_jax.settings.sections import OptimizerSettings
from sarwmix_jax.training.optimizer import (
    absolute_rate,
    clip_by_norm,
    decay_mask,
    learning_rate,
    make_optimizer,
    scheduled_rate,
)

GOLDEN = json.loads((Path(__file__).parents[1] / "golden/schedules_and_groups.json").read_text())


@pytest.mark.parametrize("name", ["pretrain_lr", "finetune_lr"])
def test_published_learning_rates(name):
    recipe = GOLDEN[name]["settings"]
    for epoch, expected in GOLDEN[name]["epoch_lr"]:
        rate = learning_rate(
            epoch,
            peak=recipe["lr"],
            minimum=recipe["min_lr"],
            warmup_epochs=recipe["warmup_epochs"],
            schedule_epochs=recipe["epochs"],
        )
        assert rate == pytest.approx(expected, abs=1e-9)


def test_first_step_has_rate_zero_and_peak_scales_with_the_batch():
    settings = OptimizerSettings()
    assert scheduled_rate(0, 100, 2048, settings) == 0.0
    assert scheduled_rate(4000, 100, 2048, settings) == pytest.approx(1.2e-3)
    assert absolute_rate(1.5e-4, 2048) == pytest.approx(1.2e-3)


def test_rate_stays_at_the_minimum_after_the_schedule():
    assert learning_rate(11.0, peak=1.0, minimum=0.1, warmup_epochs=2, schedule_epochs=10) == pytest.approx(0.1)


def test_published_decay_groups_of_base():
    groups = GOLDEN["pretrain_weight_decay_base"]
    renamed = {entry.published: entry.name for entry in entries(Extent((2, 2, 18, 2), 8))}
    assert set(groups) <= set(renamed)
    trained = unflatten_names({renamed[name]: np.zeros(1) for name in groups})
    decayed = flatten_names(decay_mask(trained))
    assert len(decayed) == len(groups)
    assert {name: 0.05 * decayed[renamed[name]] for name in groups} == groups


def test_unknown_parameter_has_no_silent_group():
    with pytest.raises(KeyError, match="no decay rule"):
        decay_mask({"encoder": {"gamma": np.zeros(3)}})


def test_clipping_scales_to_the_limit_and_leaves_small_gradients():
    clip = clip_by_norm(1.0)
    large, _ = clip.update({"a": jnp.array([3.0, 4.0])}, clip.init({}))
    small, _ = clip.update({"a": jnp.array([0.3, 0.4])}, clip.init({}))
    assert float(optax.tree.norm(large)) == pytest.approx(1.0, abs=1e-6)
    np.testing.assert_array_equal(small["a"], np.array([0.3, 0.4], np.float32))


def test_one_update_by_hand():
    settings = OptimizerSettings(weight_decay=0.1)
    params = {"layer": {"kernel": jnp.array([[2.0]]), "bias": jnp.array([2.0])}}
    gradients = jax.tree.map(lambda leaf: jnp.full_like(leaf, 0.5), params)
    optimizer = make_optimizer(settings)
    updates, _ = optimizer.update(gradients, optimizer.init(params), params)
    # after one step both moments are unbiased: the Adam part is g / (|g| + eps)
    assert float(updates["layer"]["bias"][0]) == pytest.approx(0.5 / (0.5 + 1e-8))
    assert float(updates["layer"]["kernel"][0, 0]) == pytest.approx(1.0 + 0.1 * 2.0)


def test_clipping_keeps_the_layout_of_the_state():
    params = {"kernel": jnp.ones((2, 2))}
    plain = make_optimizer(OptimizerSettings()).init(params)
    clipped = make_optimizer(OptimizerSettings(clip_grad=1.0)).init(params)
    assert jax.tree.structure(plain) == jax.tree.structure(clipped)


@pytest.mark.torch
def test_twenty_steps_equal_torch_adamw():
    torch = pytest.importorskip("torch")
    rng = np.random.default_rng(0)
    start, gradients = rng.normal(size=(5, 7)).astype(np.float32), rng.normal(size=(20, 5, 7)).astype(np.float32)
    weight = torch.nn.Parameter(torch.tensor(start))
    peer = torch.optim.AdamW([weight], lr=0.0, betas=(0.9, 0.95), eps=1e-8, weight_decay=0.05)
    params = {"kernel": jnp.asarray(start)}
    optimizer = make_optimizer(OptimizerSettings())
    state = optimizer.init(params)
    for step, gradient in enumerate(gradients):
        rate = 1e-2 * math.sin(step)
        peer.param_groups[0]["lr"] = abs(rate)
        weight.grad = torch.tensor(gradient)
        peer.step()
        updates, state = optimizer.update({"kernel": jnp.asarray(gradient)}, state, params)
        params = jax.tree.map(lambda p, u, rate=rate: p - abs(rate) * u, params, updates)
    np.testing.assert_allclose(params["kernel"], weight.detach().numpy(), atol=1e-6)
