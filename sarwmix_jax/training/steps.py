"""The compiled steps of pretraining: pure functions of state, raw records and a step number.

Resizing, flips, standardisation and weights run here, on the device. Whatever is random belongs to a mix group, the
`mix_group` consecutive images of the global batch that share a mask and mix with each other: it follows from (seed,
step, group number) alone, so the same run on another number of devices has the same loss.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from flax import nnx
from jax.sharding import Mesh, PartitionSpec
from jaxtyping import Array, Float, Int

from sarwmix_jax import sar
from sarwmix_jax.facts.bands import BandStatistics
from sarwmix_jax.models.layers import Key
from sarwmix_jax.models.mixmae import (
    Vectors,
    draw_mask,
    fixed_masked_count,
    loss_per_band,
    target_vectors,
    valid_vectors,
    weighted_errors,
)
from sarwmix_jax.models.settings import CELL, ModelSettings
from sarwmix_jax.models.state import Tree, merge_model
from sarwmix_jax.training.parallel import DATA_AXIS
from sarwmix_jax.weighting import WeightSettings, backscatter_weights

Batch = dict[str, Array]
Metrics = dict[str, Array]


@dataclass(frozen=True)
class StepSettings:
    """What a pretraining step does besides the model.

    Attributes:
        model: Shape of the model.
        statistics: Band statistics that standardise the images.
        weighting: Variant of the weights.
        mask_ratio: Share of masked cells; exactly floor(cells * (mask_ratio + u)) are masked.
        range_mask_ratio: Largest u, drawn uniformly for each mask.
        norm_pix: Whether targets are standardised cell by cell.
        horizontal_flip: Probability of mirroring an image left-right.
        vertical_flip: Probability of mirroring it top-bottom.
        mix_group: Images that share a mask and mix with each other.
        micro_batch: Images that a device handles at a time; a multiple of `mix_group`.
        seed: Seed of masks, flips, dropout and drop path.
    """

    model: ModelSettings
    statistics: BandStatistics
    weighting: WeightSettings
    mask_ratio: float
    range_mask_ratio: float
    norm_pix: bool
    horizontal_flip: float
    vertical_flip: float
    mix_group: int
    micro_batch: int
    seed: int


class TrainState(NamedTuple):
    """Everything that a step changes, and the fixed tables."""

    params: Tree
    fixed: Tree
    opt_state: Any
    step: Int[Array, ""]


class Prepared(NamedTuple):
    """Images as the model and the loss see them.

    Attributes:
        db: Resized, flipped backscatter in dB.
        standardised: The same, standardised; 0 (the mean) where invalid.
        weights: Weight of every pixel.
        valid: Pixels that count, or None where all do.
    """

    db: sar.Images
    standardised: sar.Images
    weights: sar.Images
    valid: sar.Valid | None


def prepare(batch: Batch, settings: StepSettings, flip_key: Key | None = None) -> Prepared:
    """Resizes, flips (with a key only), standardises and weighs raw records on the device.

    Args:
        batch: `image` (batch, band, height, width) in dB, any float type; optionally `valid` (batch, 1, height,
            width), which switches to the nodata-aware arithmetic.
        settings: The run's step settings.
        flip_key: Randomness of the flips.
    """
    db, valid = sar.resize(batch["image"], settings.model.image_size), batch.get("valid")
    if valid is not None:
        valid = sar.resize_valid(valid, settings.model.image_size)
    if flip_key is not None:
        horizontal, vertical = jax.random.uniform(flip_key, (2, db.shape[0]))
        flips = (horizontal < settings.horizontal_flip, vertical < settings.vertical_flip)
        db = sar.flip(db, *flips)
        valid = None if valid is None else sar.flip(valid, *flips)
    standardised = sar.standardise(db, settings.statistics)
    if valid is not None:
        standardised = jnp.where(valid, standardised, 0.0)
    weights = backscatter_weights(db, standardised, settings.weighting, cell=CELL, valid=valid)
    return Prepared(db, standardised, weights, valid)


class GroupKeys(NamedTuple):
    """Randomness of one mix group at one step."""

    mask: Key
    flips: Key
    noise: Key


def group_keys(seed: int, step: Int[Array, ""] | int, group: Int[Array, ""] | int) -> GroupKeys:
    """The keys of one mix group; they follow from these three numbers alone."""
    key = jax.random.fold_in(jax.random.fold_in(jax.random.key(seed), step), group)
    return GroupKeys(*jax.random.split(key, 3))


def group_mask(key: Key, settings: StepSettings) -> Float[Array, " cells"]:
    """Draws the mask of a mix group."""
    return draw_mask(key, settings.model.cells, settings.mask_ratio, settings.range_mask_ratio)


def masked_errors(
    model: Any, prepared: Prepared, mask: Float[Array, " cells"], settings: StepSettings, key: Key | None = None
) -> tuple[Vectors, Vectors | None]:
    """Weighted squared errors of one mix group, cell by cell, and which values count (None: all).

    Args:
        model: The masked autoencoder.
        prepared: The images of one mix group.
        mask: The group's mask, 0/1 per cell, row-major.
        settings: The run's step settings.
        key: Randomness of dropout and drop path; without it there is none.
    """
    images, valid = prepared.standardised, prepared.valid
    count = fixed_masked_count(settings.model.cells, settings.mask_ratio, settings.range_mask_ratio)
    reconstruction = model.reconstruct(images, mask, masked_count=count, key=key)
    target = target_vectors(images, norm_pix=settings.norm_pix, valid=valid)
    used = None if valid is None else valid_vectors(valid, images)
    return weighted_errors(reconstruction, target, prepared.weights), used


def micro_loss(
    model: Any, batch: Batch, step: Int[Array, ""], groups: Int[Array, " groups"], settings: StepSettings
) -> tuple[Float[Array, ""], Metrics]:
    """Mean training loss of consecutive mix groups, with what is worth logging."""

    def one_group(batch: Batch, group: Int[Array, ""]) -> tuple[Array, Metrics]:
        keys = group_keys(settings.seed, step, group)
        prepared = prepare(batch, settings, keys.flips)
        errors, used = masked_errors(model, prepared, group_mask(keys.mask, settings), settings, keys.noise)
        by_band = loss_per_band(errors, settings.model.bands, used)
        return by_band.mean(), {"loss_per_band": by_band, "weight_mean": prepared.weights.mean()}

    if groups.shape[0] == 1:  # the usual case, without the extra axis that slows the matrix products
        loss, metrics = one_group(batch, groups[0])
    else:
        cut = jax.tree.map(lambda x: x.reshape(groups.shape[0], -1, *x.shape[1:]), batch)
        loss, metrics = jax.tree.map(lambda x: x.mean(axis=0), jax.vmap(one_group)(cut, groups))
    return loss, {"loss": loss, **metrics}


def device_gradients(
    graphdef: nnx.GraphDef, state: TrainState, batch: Batch, settings: StepSettings, first_group: Int[Array, ""]
) -> tuple[Tree, Metrics]:
    """Gradients and metrics of one device's share of the batch, averaged over its micro-batches."""
    rows = batch["image"].shape[0]
    steps, groups = rows // settings.micro_batch, settings.micro_batch // settings.mix_group

    def gradients(number: Int[Array, ""], micro: Batch) -> tuple[Tree, Metrics]:
        def loss(params: Tree) -> tuple[Array, Metrics]:
            numbers = first_group + number * groups + jnp.arange(groups)
            return micro_loss(merge_model(graphdef, params, state.fixed), micro, state.step, numbers, settings)

        return jax.grad(loss, has_aux=True)(state.params)

    if steps == 1:
        return gradients(jnp.int32(0), batch)
    cut = jax.tree.map(lambda x: x.reshape(steps, -1, *x.shape[1:]), batch)
    shapes = jax.eval_shape(gradients, jnp.int32(0), jax.tree.map(lambda x: x[0], cut))
    zeros = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), shapes)

    def add(total: Any, numbered: Any) -> tuple[Any, None]:
        return jax.tree.map(jnp.add, total, gradients(*numbered)), None

    total, _ = jax.lax.scan(add, zeros, (jnp.arange(steps), cut))
    return jax.tree.map(lambda x: x / steps, total)


def make_gradients(
    graphdef: nnx.GraphDef, settings: StepSettings, mesh: Mesh
) -> Callable[[TrainState, Batch], tuple[Tree, Metrics]]:
    """Gradients of the mean loss over the global batch: each device its share, then one all-reduce."""

    def share(state: TrainState, batch: Batch) -> tuple[Tree, Metrics]:
        first = jax.lax.axis_index(DATA_AXIS) * (batch["image"].shape[0] // settings.mix_group)
        return jax.lax.pmean(device_gradients(graphdef, state, batch, settings, first), DATA_AXIS)

    # With check_vma=True the gradients would come out multiplied by the number of devices.
    specs = (PartitionSpec(), PartitionSpec(DATA_AXIS))
    return jax.shard_map(share, mesh=mesh, in_specs=specs, out_specs=PartitionSpec(), check_vma=False)


def make_train_step(
    graphdef: nnx.GraphDef, settings: StepSettings, optimizer: optax.GradientTransformation, mesh: Mesh
) -> Callable[[TrainState, Batch, Any], tuple[TrainState, Metrics]]:
    """The compiled training step (state, batch, learning rate) -> (state, metrics); it consumes the state.

    The batch holds `image` (global batch, band, height, width) in dB and, in nodata-aware mode, `valid`, sharded over
    the mesh; metrics are `loss`, `loss_per_band`, `weight_mean` and `grad_norm` (before any clipping).
    """
    return make_update(make_gradients(graphdef, settings, mesh), optimizer)


def make_update(
    gradients: Callable[[TrainState, Batch], tuple[Tree, Metrics]], optimizer: optax.GradientTransformation
) -> Callable[[TrainState, Batch, Any], tuple[TrainState, Metrics]]:
    """The compiled step from a function that gives gradients and metrics; adds `grad_norm`, consumes the state."""

    def train_step(state: TrainState, batch: Batch, rate: Float[Array, ""]) -> tuple[TrainState, Metrics]:
        grads, metrics = gradients(state, batch)
        updates, opt_state = optimizer.update(grads, state.opt_state, state.params)
        params = jax.tree.map(lambda p, u: p - rate * u, state.params, updates)
        metrics["grad_norm"] = optax.global_norm(grads)
        return TrainState(params, state.fixed, opt_state, state.step + 1), metrics

    return jax.jit(train_step, donate_argnums=0)


def make_evaluation_step(
    graphdef: nnx.GraphDef, settings: StepSettings, mesh: Mesh
) -> Callable[[Tree, Tree, Batch, Any], Float[Array, "batch band"]]:
    """The compiled evaluation step (params, fixed, batch, first group) -> loss per image and band.

    No flips, no dropout; the mask of group g is that of (seed, step 0, g), so the same records always meet the same
    masks. Each device's rows are cut into mix groups.
    """

    def one_group(model: Any, batch: Batch, group: Int[Array, ""]) -> Float[Array, "batch band"]:
        mask = group_mask(group_keys(settings.seed, 0, group).mask, settings)
        errors, used = masked_errors(model, prepare(batch, settings), mask, settings)
        return jax.vmap(lambda e, u: loss_per_band(e, settings.model.bands, u))(errors, used)

    def share(params: Tree, fixed: Tree, batch: Batch, first_group: Int[Array, ""]) -> Float[Array, "batch band"]:
        model = merge_model(graphdef, params, fixed)
        groups = batch["image"].shape[0] // settings.mix_group
        numbers = first_group + jax.lax.axis_index(DATA_AXIS) * groups + jnp.arange(groups)
        cut = jax.tree.map(lambda x: x.reshape(groups, -1, *x.shape[1:]), batch)
        losses = jax.lax.map(lambda pair: one_group(model, *pair), (cut, numbers))
        return losses.reshape(-1, settings.model.bands)

    specs = (PartitionSpec(), PartitionSpec(), PartitionSpec(DATA_AXIS), PartitionSpec())
    mapped = jax.shard_map(share, mesh=mesh, in_specs=specs, out_specs=PartitionSpec(DATA_AXIS), check_vma=False)
    return jax.jit(mapped)
