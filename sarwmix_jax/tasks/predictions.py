"""Logits of every held-out sample, once each, in stored order, on any number of devices and processes."""

from collections.abc import Callable, Sequence
from typing import Any, Protocol

import jax
import numpy as np
from flax import nnx
from jax.experimental import multihost_utils
from jax.sharding import Mesh
from jaxtyping import Array, Float

from sarwmix_jax.data.held_out import EvaluationInput
from sarwmix_jax.models.state import Tree, merge_model
from sarwmix_jax.settings.sections import FinetuningSettings
from sarwmix_jax.tasks.gradients import over_devices, reading, shard_batch
from sarwmix_jax.tasks.task import Batch

Logits = Float[Array, "batch classes"]
Predict = Callable[[Tree, Tree], dict[str, np.ndarray]]
"""(params, fixed) -> `logits` (samples, classes) float32 and the targets of all samples."""


class Labelled(Protocol):
    """What predictions need of a task."""

    @property
    def settings(self) -> FinetuningSettings:
        """Settings of the run, the micro-batch set."""

    @property
    def inputs(self) -> tuple[str, ...]:
        """Columns that the model reads."""

    @property
    def target(self) -> str:
        """Column with the truth."""

    def logits(self, model: Any, batch: Batch, keys: Array | None = None) -> Logits:
        """Float32 logits of a batch; with a key for each sample flipped and with dropout, else as for use."""


def make_forward(task: Labelled, graphdef: nnx.GraphDef, mesh: Mesh) -> Callable[[Tree, Tree, Batch], Logits]:
    """The compiled forward pass (params, fixed, batch) -> logits, without flips or dropout."""

    def share(params: Tree, fixed: Tree, batch: Batch) -> Logits:
        return task.logits(merge_model(graphdef, params, fixed), batch)

    return jax.jit(over_devices(share, mesh, False, False, True))


def make_predict(task: Labelled, graphdef: nnx.GraphDef, mesh: Mesh, sources: Sequence[Any]) -> Predict:
    """The function that predicts all samples of `sources`, one after the other."""
    forward = make_forward(task, graphdef, mesh)
    rows, columns = mesh.size * (task.settings.batch.micro_batch or 1), (*task.inputs, task.target)
    inputs = [EvaluationInput(source, rows, columns=columns, **reading(task.settings.data)) for source in sources]

    def predict(params: Tree, fixed: Tree) -> dict[str, np.ndarray]:
        found: dict[str, list[np.ndarray]] = {"logits": [], task.target: []}
        for batches in inputs:
            for batch in batches:
                placed = shard_batch({name: batch[name] for name in task.inputs}, mesh)
                local = {"logits": _local(forward(params, fixed, placed)), task.target: batch[task.target]}
                whole = multihost_utils.process_allgather(local | {"valid": batch["valid"]}, tiled=True)
                for name, parts in found.items():
                    parts.append(np.asarray(whole[name])[np.asarray(whole["valid"])])
        return {name: np.concatenate(parts) for name, parts in found.items()}

    return predict


def _local(array: Array) -> np.ndarray:
    """This process's rows of an array that is split over the devices."""
    shards = sorted(array.addressable_shards, key=lambda shard: shard.index[0].start or 0)
    return np.concatenate([np.asarray(shard.data) for shard in shards])
