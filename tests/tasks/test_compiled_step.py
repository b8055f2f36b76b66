"""Guards the compiled step: what it moves and rearranges, held to stored figures, since times are noisy."""

import json
import re
from collections import Counter
from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from sarwmix_jax.models.mixmae import MixMAE
from sarwmix_jax.settings.model import ModelSettings
from sarwmix_jax.settings.sections import OptimizerSettings
from sarwmix_jax.tasks.gradients import TrainState, make_mesh, make_train_step, replicate, shard_batch
from sarwmix_jax.training.optimizer import make_optimizer
from tests.conftest import QUICK
from tests.support import GOLDEN, model_arrays, pretraining_task

BATCH = 4
MODEL = ModelSettings(
    embed_dim=32,
    depths=(1, 1, 1, 1),
    num_heads=(1, 2, 4, 8),
    windows=(8, 8, 8, 4),
    decoder_dim=64,
    decoder_depth=2,
    decoder_heads=2,
)
WAYS = {
    "default": {},
    "scan": {"scan": True, "depths": (1, 1, 2, 1)},
    "plain": {"attention": "plain", "decoder": "full"},
}
COLLECTIVES = ("all-reduce", "all-gather", "all-to-all", "collective-permute", "reduce-scatter")
STORED = json.loads((GOLDEN / "compiled_step.json").read_text())
VERSION = ".".join(jax.__version__.split(".")[:2])
AS_USERS = {"xla_cpu_use_fusion_emitters": True} if QUICK else None


def account(changes):
    """Operations that rearrange data, collectives, and XLA's own count of operations and of bytes, per image."""
    model = replace(MODEL, **changes)
    graphdef, params, fixed = model_arrays(MixMAE, model)
    optimizer, mesh = make_optimizer(OptimizerSettings()), make_mesh(jax.devices()[:1])
    task = pretraining_task(model, mix_group=BATCH, micro_batch=BATCH)
    state = replicate(TrainState(params, fixed, jax.jit(optimizer.init)(params), jnp.int32(0)), mesh)
    batch = shard_batch({"image": np.zeros((BATCH, 2, 120, 120), np.float16)}, mesh)
    lowered = make_train_step(task, graphdef, optimizer, mesh).lower(state, batch, np.float32(0))
    compiled = lowered.compile(AS_USERS)
    # XLA may fold or add what rearranges; what the step asks for is in the lowered text.
    asked = Counter(re.findall(r"stablehlo\.(\w+)", lowered.as_text()))
    used = Counter(re.findall(r" ([a-z-]+)\(", compiled.as_text()))
    cost = compiled.cost_analysis()
    return {
        "asked": {name: asked[name] for name in ("transpose", "gather", "scatter", "dot_general")},
        "compiled": {name: used[name] for name in ("transpose", *COLLECTIVES)},
        "flops": cost["flops"] / BATCH,
        "bytes accessed": cost["bytes accessed"] / BATCH,
    }


@pytest.mark.promotes("optax raises a float to the power of the whole number of steps")
@pytest.mark.slow
@pytest.mark.parametrize("way", ["default", "scan", "plain"])
def test_the_step_moves_no_more_than_it_did(way):
    if VERSION not in STORED:
        pytest.skip(f"no figures are stored for jax {VERSION}; measure them and add them to compiled_step.json")
    found, stored = account(WAYS[way]), STORED[VERSION][way]
    assert found["asked"] == stored["asked"]
    assert found["compiled"] == stored["compiled"]
    # Less is welcome, and then the stored figure is to be lowered.
    np.testing.assert_allclose(found["flops"], stored["flops"], rtol=0.01)
    np.testing.assert_allclose(found["bytes accessed"], stored["bytes accessed"], rtol=0.01)


if __name__ == "__main__":
    print(json.dumps({VERSION: {way: account(changes) for way, changes in WAYS.items()}}, indent=2))
