"""Classification of single images: several classes each (multi-label soft margin), or exactly one (softmax)."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Float

from sarwmix_jax.data.sources import RecordSource, open_records
from sarwmix_jax.errors import UserError
from sarwmix_jax.metrics.selection import MULTILABEL_RULES
from sarwmix_jax.models.layers import dense, numbered
from sarwmix_jax.preprocessing import draw_flips, prepare
from sarwmix_jax.tasks.labelled import FLIPS, NOISE, LabelledTask, Logits, check_classes
from sarwmix_jax.tasks.task import Batch


@dataclass(frozen=True)
class Multilabel(LabelledTask):
    """The task of multi-label classification, with the multi-label soft margin loss."""

    name: ClassVar[str] = "multilabel"
    open: ClassVar[Callable[..., RecordSource]] = open_records
    rules: ClassVar[tuple[str, ...]] = MULTILABEL_RULES

    def __post_init__(self) -> None:
        check_classes(self.classes)

    def logits(self, model: Any, batch: Batch, keys: Array | None = None) -> Logits:
        """See `LabelledTask.logits`."""
        flips = draw_flips(numbered(keys, FLIPS), len(batch["image"]), self.settings.augment)
        images = prepare(batch, self.statistics, side=self.settings.model.image_size, flips=flips).standardised
        return head_logits(model, images, numbered(keys, NOISE), frozen=self.settings.head.frozen_encoder)

    def losses(self, logits: Logits, truth: Array) -> Float[Array, "batch classes"]:
        """Binary cross entropy of every sample and class; class weights act on the positives."""
        labels = jnp.asarray(truth, jnp.float32)
        losses = optax.sigmoid_binary_cross_entropy(jnp.asarray(logits, jnp.float32), labels)
        if self.class_weights is None:
            return losses
        return losses * jnp.where(labels == 1, jnp.asarray(self.class_weights, jnp.float32), 1.0)

    def scores(self, logits: np.ndarray, truth: np.ndarray) -> Any:
        """See `LabelledTask.scores`."""
        from sarwmix_jax.metrics.scores import multilabel_scores, sigmoid  # scikit-learn takes a second to import

        return multilabel_scores(sigmoid(logits), truth, self.classes)


@dataclass(frozen=True)
class SingleLabel(Multilabel):
    """The task of classification into classes that exclude each other, with a softmax cross entropy."""

    name: ClassVar[str] = "single_label"
    rules: ClassVar[tuple[str, ...]] = ("top1", "lowest_loss")

    def __post_init__(self) -> None:
        check_classes(self.classes, at_least=2)

    def losses(self, logits: Logits, truth: Array) -> Float[Array, " batch"]:
        """Softmax cross entropy of every sample, weighted by its class."""
        losses = optax.softmax_cross_entropy(jnp.asarray(logits, jnp.float32), jnp.asarray(truth, jnp.float32))
        if self.class_weights is None:
            return losses
        return losses * (jnp.asarray(truth, jnp.float32) @ jnp.asarray(self.class_weights, jnp.float32))

    def scores(self, logits: np.ndarray, truth: np.ndarray) -> Any:
        """See `LabelledTask.scores`."""
        from sarwmix_jax.metrics.scores import single_label_scores, softmax

        return single_label_scores(softmax(logits), class_numbers(truth), self.classes)


def class_numbers(truth: np.ndarray) -> np.ndarray:
    """Class number of every sample.

    Raises:
        UserError: A sample has no class or several.
    """
    counts = truth.sum(axis=1)
    if (counts != 1).any():
        number = int(np.argmax(counts != 1))
        raise UserError(
            f"sample {number} has {counts[number]} classes, but single_label needs exactly one each; use multilabel"
        )
    return truth.argmax(axis=1)


def head_logits(model: Any, images: Array, key: Array | None, *, frozen: bool) -> Logits:
    """Logits of standardised images; a frozen encoder has no dropout, and no gradient passes through it."""
    features = model.features(images, key=None if frozen else key)
    features = jax.lax.stop_gradient(features) if frozen else features
    return dense(model.head, features).astype(jnp.float32)
