"""Run by test_devices.py in a separate process, which has eight devices on the CPU; prints one JSON line."""

import json
import sys
from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np

from sarwmix_jax.errors import UserError
from sarwmix_jax.models.classifier import Classifier
from sarwmix_jax.models.mixmae import MixMAE
from sarwmix_jax.models.state import merge_model
from sarwmix_jax.settings.sections import BatchSettings, FinetuningSettings, OptimizerSettings
from sarwmix_jax.tasks import gradients
from sarwmix_jax.tasks.gradients import TrainState, make_gradients, make_mesh, make_train_step, replicate, shard_batch
from sarwmix_jax.tasks.multilabel import Multilabel
from sarwmix_jax.tasks.pretraining import Pretraining
from sarwmix_jax.training.optimizer import make_optimizer
from tests.support import V2, at_size, collectives, golden, model_arrays, pretraining_task

MODEL = at_size(64, depths=(1, 1, 1, 1), decoder_depth=1, drop_path=0.1)
GRAPHDEF, PARAMS, FIXED = model_arrays(MixMAE, MODEL)
gradients.SMALL = 4096  # so that the model has large arrays, too
assert {leaf.size > gradients.SMALL for leaf in jax.tree.leaves(PARAMS)} == {True, False}
STORED = golden("pretrain_tiny")
IMAGES = np.concatenate([STORED["x_db"], *STORED["train_x_db"]])[..., :64, :64]
OPTIMIZER = make_optimizer(OptimizerSettings())


def task(micro_batch: int) -> Pretraining:
    return pretraining_task(MODEL, mix_group=2, micro_batch=micro_batch)


def state(mesh) -> TrainState:
    copies = jax.tree.map(np.array, (PARAMS, FIXED, jax.jit(OPTIMIZER.init)(PARAMS)))
    return replicate(TrainState(*copies, jnp.int32(3)), mesh)


def reduced_in(dtype: str) -> Pretraining:
    """The task with another type of the gradients that devices exchange."""
    settings = task(2).settings
    return replace(task(2), settings=replace(settings, batch=replace(settings.batch, reduce_dtype=dtype)))


def gradient_errors(dtype: str) -> tuple[float, float]:
    """Largest difference, over all parameters, from the mean of the gradients of each device's two images alone.

    Absolute, and as a share of the largest gradient that a device has of the parameter.
    """
    mesh = make_mesh()
    reduced = jax.jit(make_gradients(reduced_in(dtype), GRAPHDEF, mesh))
    found, _ = reduced(state(mesh), shard_batch({"image": IMAGES}, mesh))

    @jax.jit
    def alone(images, group):
        def loss(params):
            model = merge_model(GRAPHDEF, params, FIXED)
            return task(2).loss(model, {"image": images}, jnp.int32(3), 2 * group)[0]

        return jax.grad(loss)(PARAMS)

    shards = [jax.tree.map(np.asarray, alone(IMAGES[2 * g : 2 * g + 2], jnp.int32(g))) for g in range(8)]
    stacked = [np.stack(leaves) for leaves in zip(*map(jax.tree.leaves, shards), strict=True)]
    wrong = [np.abs(leaf - each.mean(0)).max() for leaf, each in zip(jax.tree.leaves(found), stacked, strict=True)]
    shares = [error / (np.abs(each).max() or 1.0) for error, each in zip(wrong, stacked, strict=True)]
    return float(max(wrong)), float(max(shares))


def compiled_step(devices: int, micro_batch: int):
    """The step and what it starts from."""
    mesh = make_mesh(jax.devices()[:devices])
    batch, now = shard_batch({"image": IMAGES}, mesh), state(mesh)
    step = make_train_step(task(micro_batch), GRAPHDEF, OPTIMIZER, mesh).lower(now, batch, 1e-3).compile()
    return step, now, batch


def losses(devices: int, micro_batch: int) -> list[float]:
    """Losses of three steps."""
    step, now, batch = compiled_step(devices, micro_batch)
    values = []
    for _ in range(3):
        now, metrics = step(now, batch, 1e-3)
        values.append(float(metrics["loss"]))
    return values


CLASSES = ("a", "b", "c")
LABELS = np.random.default_rng(0).integers(0, 2, (len(IMAGES), len(CLASSES))).astype(np.uint8)


def finetuning_losses(devices: int, micro_batch: int) -> list[float]:
    """Losses of three steps of a classifier with flips and drop path."""
    mesh, (graphdef, params, fixed) = make_mesh(jax.devices()[:devices]), model_arrays(Classifier, MODEL, len(CLASSES))
    settings = FinetuningSettings(model=MODEL, batch=BatchSettings(len(IMAGES), micro_batch))
    step = make_train_step(Multilabel(settings, V2, CLASSES), graphdef, OPTIMIZER, mesh)
    now = replicate(TrainState(params, fixed, jax.jit(OPTIMIZER.init)(params), jnp.int32(3)), mesh)
    batch, values = shard_batch({"image": IMAGES, "labels": LABELS}, mesh), []
    for _ in range(3):
        now, metrics = step(now, batch, np.float32(1e-3))
        values.append(float(metrics["loss"]))
    return values


def evaluated(devices: int, micro_batch: int) -> list[float]:
    """Held-out losses per band of 13 records in two sets."""
    mesh = make_mesh(jax.devices()[:devices])
    validate = task(micro_batch).make_validation(GRAPHDEF, mesh, [Held(IMAGES[:5]), Held(IMAGES[5:13])])
    return validate(*replicate((PARAMS, FIXED), mesh))["loss_per_band"]


class Held:
    """Records in memory."""

    def __init__(self, images: np.ndarray) -> None:
        self.images = images

    def __len__(self) -> int:
        return len(self.images)

    def read_batch(self, indices, columns):
        assert tuple(columns) == ("image",)
        return {"image": self.images[indices]}


def refusal() -> str:
    try:
        shard_batch({"image": IMAGES[:3]}, make_mesh())
    except UserError as error:
        return str(error)
    return ""


def quick() -> dict:
    return {
        "devices": jax.device_count(),
        "collectives": collectives(compiled_step(8, 2)[0]),
        "refusal": refusal(),
    }


def thorough() -> dict:
    return {
        "alone": collectives(compiled_step(1, 16)[0]),
        "gradient_errors": [gradient_errors(dtype) for dtype in ("float32", "bfloat16")],
        "eight": losses(8, 2),
        "one": losses(1, 16),
        "accumulated": losses(2, 4),
        "finetuned": [finetuning_losses(8, 2), finetuning_losses(1, 16), finetuning_losses(1, 4)],
        "evaluated": [evaluated(8, 2), evaluated(1, 16), evaluated(2, 8)],
    }


if __name__ == "__main__":
    json.dump({"quick": quick, "thorough": thorough}[sys.argv[1]](), sys.stdout)
