"""Flood detection from pairs of dates, with a softmax cross entropy."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar

import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Float

from sarwmix_jax.data.pairs import PairSource, open_pairs
from sarwmix_jax.facts.labels import FLOOD_CLASSES
from sarwmix_jax.metrics.selection import FLOOD_RULES
from sarwmix_jax.models.flood import flood_logits
from sarwmix_jax.models.layers import numbered
from sarwmix_jax.preprocessing import draw_flips, prepare
from sarwmix_jax.tasks.labelled import FLIPS, NOISE, LabelledTask, Logits
from sarwmix_jax.tasks.task import Batch


@dataclass(frozen=True)
class Flood(LabelledTask):
    """The task of flood detection."""

    classes: tuple[str, ...] = FLOOD_CLASSES

    kind: ClassVar[str] = "flood"
    name: ClassVar[str] = "flood"
    open: ClassVar[Callable[..., PairSource]] = open_pairs
    target: ClassVar[str] = "label"
    rules: ClassVar[tuple[str, ...]] = FLOOD_RULES

    @property
    def description(self) -> dict[str, Any]:
        """What a checkpoint's description holds besides settings and statistics."""
        flood = self.settings.flood
        return super().description | {"tiling": flood.tiling, "patch_op": flood.patch_op}

    def logits(self, model: Any, batch: Batch, keys: Array | None = None) -> Logits:
        """See `LabelledTask.logits`; both dates get the same flips."""
        settings = self.settings
        flips = draw_flips(numbered(keys, FLIPS), len(batch["image"]), settings.augment)
        prepared = prepare(batch, self.statistics, flips=flips)
        frozen = settings.head.frozen_encoder
        return flood_logits(
            model,
            prepared.standardised,
            settings.model.image_size,
            settings.flood,
            valid=prepared.valid,
            key=None if frozen else numbered(keys, NOISE),
            frozen=frozen,
        )

    def losses(self, logits: Logits, truth: Array) -> Float[Array, " batch"]:
        """Softmax cross entropy of every pair, weighted by its class."""
        labels = jnp.asarray(truth)
        losses = optax.softmax_cross_entropy_with_integer_labels(jnp.asarray(logits, jnp.float32), labels)
        return losses if self.class_weights is None else losses * jnp.asarray(self.class_weights)[labels]

    def scores(self, logits: np.ndarray, truth: np.ndarray) -> Any:
        """See `LabelledTask.scores`."""
        from sarwmix_jax.metrics.scores import flood_scores, softmax  # scikit-learn takes a second to import

        return flood_scores(softmax(logits), truth)
