"""The compiled steps of the multi-label classifier: training and logits, from raw records on the device."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import optax
from flax import nnx
from jax.sharding import Mesh, PartitionSpec
from jaxtyping import Array, Float

from sarwmix_jax import sar
from sarwmix_jax.facts.bands import BandStatistics
from sarwmix_jax.models.layers import Key
from sarwmix_jax.models.settings import ModelSettings
from sarwmix_jax.models.state import Tree, merge_model
from sarwmix_jax.training.parallel import DATA_AXIS
from sarwmix_jax.training.steps import Batch, Metrics, TrainState, make_update

Logits = Float[Array, "batch classes"]


@dataclass(frozen=True)
class ClassifierStepSettings:
    """What a step of the classifier does besides the model.

    Attributes:
        model: Shape of the model; its drop path and dropout act in training.
        statistics: Band statistics that standardise the images.
        horizontal_flip: Probability of mirroring an image left-right in training.
        vertical_flip: Probability of mirroring it top-bottom.
        seed: Seed of flips, dropout and drop path.
    """

    model: ModelSettings
    statistics: BandStatistics
    horizontal_flip: float = 0.5
    vertical_flip: float = 0.5
    seed: int = 0


def multilabel_loss(logits: Logits, labels: Logits) -> Float[Array, ""]:
    """Multi-label soft margin: binary cross entropy with logits, mean over classes and batch, in float32."""
    return optax.sigmoid_binary_cross_entropy(logits.astype(jnp.float32), labels.astype(jnp.float32)).mean()


def classifier_images(raw_db: sar.Images, settings: ClassifierStepSettings, flip_key: Key | None = None) -> sar.Images:
    """Resizes, flips (with a key only) and standardises raw records in dB of any float type."""
    db = sar.resize(raw_db, settings.model.image_size)
    if flip_key is not None:
        horizontal, vertical = jax.random.uniform(flip_key, (2, db.shape[0]))
        db = sar.flip(db, horizontal < settings.horizontal_flip, vertical < settings.vertical_flip)
    return sar.standardise(db, settings.statistics)


def make_classifier_step(
    graphdef: nnx.GraphDef,
    settings: ClassifierStepSettings,
    optimizer: optax.GradientTransformation,
    mesh: Mesh,
) -> Callable[[TrainState, Batch, Any], tuple[TrainState, Metrics]]:
    """The compiled training step (state, batch, learning rate) -> (state, metrics); it consumes the state.

    The batch holds `image` (batch, band, height, width) in dB and `labels` (batch, classes) 0/1, sharded over the
    mesh; metrics are `loss` and `grad_norm`.
    """

    def share(state: TrainState, batch: Batch) -> tuple[Tree, Metrics]:
        key = jax.random.fold_in(jax.random.key(settings.seed), state.step)
        flips, noise = jax.random.split(jax.random.fold_in(key, jax.lax.axis_index(DATA_AXIS)))

        def loss(params: Tree) -> Array:
            model = merge_model(graphdef, params, state.fixed)
            logits = model(classifier_images(batch["image"], settings, flips), key=noise)
            return multilabel_loss(logits, batch["labels"])

        value, grads = jax.value_and_grad(loss)(state.params)
        return jax.lax.pmean((grads, {"loss": value}), DATA_AXIS)

    # With check_vma=True the gradients would come out multiplied by the number of devices.
    specs = (PartitionSpec(), PartitionSpec(DATA_AXIS))
    gradients = jax.shard_map(share, mesh=mesh, in_specs=specs, out_specs=PartitionSpec(), check_vma=False)

    return make_update(gradients, optimizer)


def make_logits_step(
    graphdef: nnx.GraphDef, settings: ClassifierStepSettings, mesh: Mesh
) -> Callable[[Tree, Tree, Batch], Logits]:
    """The compiled forward pass (params, fixed, batch) -> logits, without flips or dropout."""

    def share(params: Tree, fixed: Tree, batch: Batch) -> Logits:
        logits: Logits = merge_model(graphdef, params, fixed)(classifier_images(batch["image"], settings))
        return logits

    specs = (PartitionSpec(), PartitionSpec(), PartitionSpec(DATA_AXIS))
    mapped = jax.shard_map(share, mesh=mesh, in_specs=specs, out_specs=PartitionSpec(DATA_AXIS), check_vma=False)
    return jax.jit(mapped)
