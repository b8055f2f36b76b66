"""The package's own steps on shapes alone: what is compiled is what a run, or an evaluation, would compile."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh

from sarwmix_jax.errors import UserError
from sarwmix_jax.facts.bands import STATISTICS
from sarwmix_jax.facts.labels import CLASSES
from sarwmix_jax.facts.sizes import SIZES
from sarwmix_jax.models.places import check_kernel
from sarwmix_jax.models.state import abstract_model, converted_once
from sarwmix_jax.settings.config import resolve
from sarwmix_jax.settings.recipes import kind_of, read_config, split_arguments
from sarwmix_jax.settings.sections import TASKS as KINDS
from sarwmix_jax.settings.sections import FinetuningSettings, RunSettings
from sarwmix_jax.tasks.gradients import make_train_step, placed, placed_state, state_shapes
from sarwmix_jax.tasks.labelled import make_forward
from sarwmix_jax.tasks.pretraining import Pretraining
from sarwmix_jax.training.labelled import TASKS as LABELLED
from sarwmix_jax.training.optimizer import optimizer_of
from sarwmix_jax.training.resources import device_bytes, tree_bytes
from sarwmix_jax.training.run import cut_batch


@dataclass(frozen=True)
class Work:
    """What is usual for a task.

    Attributes:
        recipe: The recipe whose settings are compiled.
        batch: Samples on each device.
        image: Shape of a sample's image: that of the records of the recipe's data set.
        training: Whether it is a training step, not the forward pass of `evaluate`.
    """

    recipe: str
    batch: int
    image: tuple[int, ...] = (2, 120, 120)
    training: bool = True


TASKS = {
    "pretraining": Work("pretrain_bigearthnet_v2:base", 256),
    "multilabel": Work("finetune_bigearthnet_v2:base", 128),
    "flood": Work("finetune_sen12flood:new", 4, (2, 2, 512, 512)),
    "inference": Work("finetune_bigearthnet_v2:base", 256, training=False),
}
"""What can be compiled. A sample of `flood` is a pair of dates of 512 px, 32 tiles; `inference` gives logits."""


def settings_of(task: str, size: str, batch: int, devices: int, changes: Sequence[str] = ()) -> RunSettings:
    """Settings of the recipe of a task, for this many devices.

    Args:
        task: One of `TASKS`.
        size: Published size of the model.
        batch: Samples on each device.
        devices: Number of devices.
        changes: Further settings, `--config.GROUP.NAME=VALUE`.

    Raises:
        UserError: A setting is wrong, or the batch cannot be divided.
    """
    values = {f"model.{name}": value for name, value in asdict(SIZES[size]).items()}
    values |= {"batch.global_batch": batch * devices, "batch.micro_batch": "", "data.records": "RECORDS"}
    own = {change.partition("=")[0] for change in split_arguments(changes)[0]}
    flags = [f"--config.{name}={_text(value)}" for name, value in values.items() if f"--config.{name}" not in own]
    config = read_config([f"--config={TASKS[task].recipe}", *flags, *changes])
    settings: RunSettings = resolve(config, KINDS[kind_of(config)])
    model = settings.model.on("gpu")
    if model.kernel == "auto" and model.kernels is None:
        raise UserError("model.kernel auto is chosen on the device; give xla, cudnn, fused or --config.model.kernels")
    check_kernel(model, "gpu")
    found: RunSettings = replace(settings, model=model, batch=cut_batch(settings.batch, devices))
    return found


def _text(value: Any) -> str:
    return ",".join(map(str, value)) if isinstance(value, tuple) else str(value)


def lowered_step(task: str, settings: RunSettings, mesh: Mesh) -> tuple[jax.stages.Lowered, int]:
    """The step of a task, traced on shapes, and the bytes that each device holds of its state.

    Args:
        task: One of `TASKS`.
        settings: From `settings_of`.
        mesh: The devices; they need not exist.
    """
    # means and standard deviations of record sets are only numbers, and change no program
    statistics = STATISTICS.get(settings.data.statistics, STATISTICS["bigearthnet_v2"])
    if isinstance(settings, FinetuningSettings):
        kind: Any = LABELLED[settings.task]
        made = kind(settings, statistics) if settings.task == "flood" else kind(settings, statistics, CLASSES)
    else:
        made = Pretraining(settings, statistics)  # type: ignore[arg-type]
    columns = made.columns if TASKS[task].training else made.inputs
    rows = {name: _rows(name, task, settings.batch.global_batch) for name in columns}
    batch = placed(rows, mesh, split=True)
    graphdef, params, fixed = abstract_model(*made.model)
    if not TASKS[task].training:
        params = jax.eval_shape(lambda params: converted_once(params, settings.model.dtype), params)
        forward: Any = make_forward(made, graphdef, mesh)
        return forward.lower(*placed((params, fixed), mesh), batch), tree_bytes((params, fixed))
    optimizer = optimizer_of(settings)
    state = placed_state(state_shapes(made, optimizer), settings, mesh)
    rate = placed(jax.ShapeDtypeStruct((), np.float32), mesh)
    step: Any = make_train_step(made, graphdef, optimizer, mesh)
    return step.lower(state, batch, rate), device_bytes(state)


def _rows(name: str, task: str, count: int) -> jax.ShapeDtypeStruct:
    """One column of a batch, as records are read."""
    image = TASKS[task].image
    shapes = {
        "image": (image, np.float16),
        "valid_pixels": ((*image[:-3], *image[-2:]), np.bool_),
        "labels": ((len(CLASSES),), np.uint8),
        "label": ((), np.int32),
    }
    shape, dtype = shapes[name]
    return jax.ShapeDtypeStruct((count, *shape), dtype)
