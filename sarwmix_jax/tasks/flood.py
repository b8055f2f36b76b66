"""Flood detection from pairs of dates, under a softmax cross entropy."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import jax
import optax
from flax import nnx
from jax.sharding import Mesh
from jaxtyping import Array, Float, Int

from sarwmix_jax.data.pairs import PairSource, open_pairs
from sarwmix_jax.facts.bands import BandStatistics
from sarwmix_jax.models.classifier import Classifier
from sarwmix_jax.models.flood import flood_logits
from sarwmix_jax.models.layers import numbered
from sarwmix_jax.models.state import Tree
from sarwmix_jax.preprocessing import draw_flips, prepare
from sarwmix_jax.settings.sections import FinetuningSettings
from sarwmix_jax.tasks.gradients import sample_keys
from sarwmix_jax.tasks.multilabel import FLIPS, NOISE
from sarwmix_jax.tasks.predictions import Logits, make_predict
from sarwmix_jax.tasks.task import Batch, Metrics

CLASSES = ("no flood", "flood")


@dataclass(frozen=True)
class Flood:
    """The task of flood detection.

    Attributes:
        settings: Settings of the run, the micro-batch set.
        statistics: Band statistics that standardise the images.
        classes: What the two logits mean.
    """

    settings: FinetuningSettings
    statistics: BandStatistics
    classes: tuple[str, ...] = CLASSES

    kind: ClassVar[str] = "flood"
    open: ClassVar[Callable[..., PairSource]] = open_pairs
    inputs: ClassVar[tuple[str, ...]] = ("image",)
    target: ClassVar[str] = "label"
    columns: ClassVar[tuple[str, ...]] = ("image", "label")
    group: ClassVar[int] = 1

    @property
    def model(self) -> tuple[Any, ...]:
        """What makes the model, and its arguments."""
        return Classifier, self.settings.model, len(self.classes)

    @property
    def description(self) -> dict[str, Any]:
        """What a checkpoint says besides settings and statistics."""
        return {"classes": len(self.classes), "class_names": self.classes, "tiling": self.settings.flood.tiling}

    def logits(self, model: Any, batch: Batch, keys: Array | None = None) -> Logits:
        """See `predictions.Labelled`; both dates are flipped alike."""
        count, settings = len(batch["image"]), self.settings
        flips = draw_flips(numbered(keys, FLIPS), count, settings.augment)
        pairs = prepare(batch, self.statistics, flips=flips).standardised
        return flood_logits(model, pairs, settings.model.image_size, settings.flood, key=numbered(keys, NOISE))

    def loss(
        self, model: Any, batch: Batch, step: Int[Array, ""], first: Int[Array, ""]
    ) -> tuple[Float[Array, ""], Metrics]:
        """Softmax cross entropy; see `task.Task`."""
        keys = sample_keys(self.settings.seed, step, first, len(batch["image"]))
        return flood_loss(self.logits(model, batch, keys), batch["label"]), {}

    def make_validation(
        self, graphdef: nnx.GraphDef, mesh: Mesh, sources: Sequence[PairSource]
    ) -> Callable[[Tree, Tree], dict[str, Any]]:
        """A function (params, fixed) -> `loss` over all pairs of `sources`."""
        predict, loss = make_predict(self, graphdef, mesh, sources), jax.jit(flood_loss)

        def validate(params: Tree, fixed: Tree) -> dict[str, Any]:
            found = predict(params, fixed)
            return {"loss": float(loss(found["logits"], found["label"]))}

        return validate


def flood_loss(logits: Logits, label: Int[Array, " batch"]) -> Float[Array, ""]:
    """Softmax cross entropy, mean over the batch."""
    return optax.softmax_cross_entropy_with_integer_labels(logits, label).mean()
