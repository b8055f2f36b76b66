"""Multi-label classification: the encoder with a linear head under the multi-label soft margin loss."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx
from jax.sharding import Mesh
from jaxtyping import Array, Float, Int

from sarwmix_jax.data.sources import RecordSource, open_records
from sarwmix_jax.errors import UserError
from sarwmix_jax.facts.bands import BandStatistics
from sarwmix_jax.models.classifier import Classifier
from sarwmix_jax.models.layers import numbered
from sarwmix_jax.models.state import Tree
from sarwmix_jax.preprocessing import draw_flips, prepare
from sarwmix_jax.settings.sections import FinetuningSettings
from sarwmix_jax.tasks.gradients import sample_keys
from sarwmix_jax.tasks.predictions import Logits, make_predict
from sarwmix_jax.tasks.task import Batch, Metrics

FLIPS, NOISE = 0, 1
"""Numbers of a sample's keys."""


@dataclass(frozen=True)
class Multilabel:
    """The task of multi-label classification.

    Attributes:
        settings: Settings of the run, the micro-batch set.
        statistics: Band statistics that standardise the images.
        classes: Class names in label order.
    """

    settings: FinetuningSettings
    statistics: BandStatistics
    classes: tuple[str, ...]

    kind: ClassVar[str] = "classifier"
    open: ClassVar[Callable[..., RecordSource]] = open_records
    target: ClassVar[str] = "labels"
    group: ClassVar[int] = 1

    def __post_init__(self) -> None:
        if not self.classes:
            raise UserError("the records carry no labels; prepare them with labels, or pretrain on them")

    @property
    def inputs(self) -> tuple[str, ...]:
        """What the model reads of a batch."""
        return ("image", "valid_pixels") if self.settings.data.nodata_aware else ("image",)

    @property
    def columns(self) -> tuple[str, ...]:
        """What a batch holds."""
        return (*self.inputs, self.target)

    @property
    def model(self) -> tuple[Any, ...]:
        """What makes the model, and its arguments."""
        return Classifier, self.settings.model, len(self.classes)

    @property
    def description(self) -> dict[str, Any]:
        """What a checkpoint says besides settings and statistics."""
        return {"classes": len(self.classes), "class_names": self.classes}

    def logits(self, model: Any, batch: Batch, keys: Array | None = None) -> Logits:
        """See `predictions.Labelled`."""
        count = len(batch["image"])
        flips = draw_flips(numbered(keys, FLIPS), count, self.settings.augment)
        prepared = prepare(batch, self.statistics, side=self.settings.model.image_size, flips=flips)
        logits: Logits = model(prepared.standardised, key=numbered(keys, NOISE))
        return logits

    def loss(
        self, model: Any, batch: Batch, step: Int[Array, ""], first: Int[Array, ""]
    ) -> tuple[Float[Array, ""], Metrics]:
        """Multi-label soft margin; see `task.Task`."""
        keys = sample_keys(self.settings.seed, step, first, len(batch["image"]))
        return multilabel_loss(self.logits(model, batch, keys), batch["labels"]), {}

    def make_validation(
        self, graphdef: nnx.GraphDef, mesh: Mesh, sources: Sequence[RecordSource]
    ) -> Callable[[Tree, Tree], dict[str, Any]]:
        """A function (params, fixed) -> `loss` over all records of `sources`."""
        predict, loss = make_predict(self, graphdef, mesh, sources), jax.jit(multilabel_loss)

        def validate(params: Tree, fixed: Tree) -> dict[str, Any]:
            found = predict(params, fixed)
            return {"loss": float(loss(found["logits"], found["labels"].astype(np.float32)))}

        return validate


def multilabel_loss(logits: Logits, labels: Logits) -> Float[Array, ""]:
    """Multi-label soft margin: binary cross entropy with logits, mean over classes and batch, in float32."""
    return optax.sigmoid_binary_cross_entropy(logits.astype(jnp.float32), labels.astype(jnp.float32)).mean()
