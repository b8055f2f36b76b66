"""Common base of the tasks with labels: the encoder with a linear head, its loss, predictions and validation."""

import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import jax
import numpy as np
from flax import nnx
from jax.experimental import multihost_utils
from jax.sharding import Mesh
from jaxtyping import Array, Float, Int

from sarwmix_jax.data.held_out import EvaluationInput
from sarwmix_jax.errors import UserError
from sarwmix_jax.facts.bands import BandStatistics
from sarwmix_jax.models.classifier import Classifier
from sarwmix_jax.models.state import Tree, converted_once, merge_model
from sarwmix_jax.progress import progress
from sarwmix_jax.settings.sections import FinetuningSettings
from sarwmix_jax.tasks.gradients import over_devices, reading, sample_keys, shard_batch
from sarwmix_jax.tasks.task import Batch, Metrics

Logits = Float[Array, "batch classes"]
Predict = Callable[[Tree, Tree], dict[str, np.ndarray]]
"""(params, fixed) -> `logits` (samples, classes) float32 and the truth of all samples."""

FLIPS, NOISE = 0, 1
"""Numbers of a sample's keys."""


@dataclass(frozen=True)
class LabelledTask:
    """A task with labels.

    Attributes:
        settings: Settings of the run, with the micro-batch set.
        statistics: Band statistics that standardise the images.
        classes: Class names in the order of the logits.
        class_weights: Weight of each class in the loss; None for equal weights.
    """

    settings: FinetuningSettings
    statistics: BandStatistics
    classes: tuple[str, ...]
    class_weights: tuple[float, ...] | None = None

    kind: ClassVar[str] = "classifier"
    name: ClassVar[str]
    target: ClassVar[str] = "labels"
    rules: ClassVar[tuple[str, ...]]
    group: ClassVar[int] = 1

    @property
    def inputs(self) -> tuple[str, ...]:
        """The columns of a batch that the model reads."""
        return ("image", "valid_pixels") if self.settings.data.nodata_aware else ("image",)

    @property
    def columns(self) -> tuple[str, ...]:
        """The columns of a batch."""
        return (*self.inputs, self.target)

    @property
    def model(self) -> tuple[Any, ...]:
        """The class of the model, and its arguments without random numbers."""
        return Classifier, self.settings.model, len(self.classes)

    @property
    def description(self) -> dict[str, Any]:
        """What a checkpoint's description holds besides settings and statistics."""
        return {"task": self.name, "classes": len(self.classes), "class_names": self.classes}

    def logits(self, model: Any, batch: Batch, keys: Array | None = None) -> Logits:
        """Float32 logits of a batch; with flips and dropout where each sample has a key, else as in inference."""
        raise TypeError(f"{type(self).__name__} has no logits")

    def losses(self, logits: Logits, truth: Array) -> Float[Array, "batch ..."]:
        """Loss of every sample (and class), in float32, weighted where the task has class weights."""
        raise TypeError(f"{type(self).__name__} has no losses")

    def scores(self, logits: np.ndarray, truth: np.ndarray) -> Any:
        """`metrics.scores.Scores` of predictions."""
        raise TypeError(f"{type(self).__name__} has no scores")

    def loss(
        self, model: Any, batch: Batch, step: Int[Array, ""], first: Int[Array, ""]
    ) -> tuple[Float[Array, ""], Metrics]:
        """Mean loss of a micro-batch; see `task.Task`."""
        keys = sample_keys(self.settings.seed, step, first, len(batch["image"]))
        return self.losses(self.logits(model, batch, keys), batch[self.target]).mean(), {}

    def make_validation(
        self, graphdef: nnx.GraphDef, mesh: Mesh, sources: Sequence[Any]
    ) -> Callable[[Tree, Tree], dict[str, Any]]:
        """A function (params, fixed) -> `loss` and scores over all samples of `sources`."""
        predict, losses = make_predict(self, graphdef, mesh, sources), jax.jit(self.losses)

        def validate(params: Tree, fixed: Tree) -> dict[str, Any]:
            found = predict(params, fixed)
            logits, truth = found["logits"], found[self.target]
            return {"loss": float(losses(logits, truth).mean()), **self.scores(logits, truth).summary}

        return validate


def check_classes(classes: Sequence[str], at_least: int = 1) -> None:
    """Refuses records without labels.

    Raises:
        UserError: There are no classes, or fewer than the task needs.
    """
    if len(classes) < at_least:
        found = "no labels" if not classes else f"labels of {len(classes)} class"
        raise UserError(f"the records carry {found}; prepare them with labels, or pretrain on them")


def make_forward(task: LabelledTask, graphdef: nnx.GraphDef, mesh: Mesh) -> Callable[[Tree, Tree, Batch], Logits]:
    """The compiled forward pass (params, fixed, batch) -> logits, without flips or dropout."""

    def share(params: Tree, fixed: Tree, batch: Batch) -> Logits:
        return task.logits(merge_model(graphdef, params, fixed), batch)

    return jax.jit(over_devices(share, mesh, False, False, True))


def make_predict(
    task: LabelledTask,
    graphdef: nnx.GraphDef,
    mesh: Mesh,
    sources: Sequence[Any],
    title: str = "validating",
) -> Predict:
    """A function that predicts each sample of `sources` once, in stored order, on any number of devices.

    Its progress is shown under `title`.
    """
    forward = make_forward(task, graphdef, mesh)
    rows = mesh.size * (task.settings.batch.micro_batch or 1)
    inputs = [EvaluationInput(source, rows, columns=task.columns, **reading(task.settings.data)) for source in sources]

    def predict(params: Tree, fixed: Tree) -> dict[str, np.ndarray]:
        found: dict[str, list[np.ndarray]] = {"logits": [], task.target: []}
        params = converted_once(params, task.settings.model.dtype)
        with progress(title, sum(map(len, sources)), "samples") as advance:
            for batch in itertools.chain.from_iterable(inputs):
                placed = shard_batch({name: batch[name] for name in task.inputs}, mesh)
                local = {"logits": local_rows(forward(params, fixed, placed)), task.target: batch[task.target]}
                whole = multihost_utils.process_allgather(local | {"valid": batch["valid"]}, tiled=True)
                counts = np.asarray(whole["valid"])
                for name, parts in found.items():
                    parts.append(np.asarray(whole[name])[counts])
                advance(int(counts.sum()))
        return {name: np.concatenate(parts) for name, parts in found.items()}

    return predict


def local_rows(array: Array) -> np.ndarray:
    """This process's rows of an array that is split over the devices."""
    shards = sorted(array.addressable_shards, key=lambda shard: shard.index[0].start or 0)
    return np.concatenate([np.asarray(shard.data) for shard in shards])
