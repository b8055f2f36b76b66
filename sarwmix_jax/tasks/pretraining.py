"""Pretraining: mixed images are reconstructed, with a weighted squared error.

All random numbers belong to a mix group, the `mix_group` consecutive images of the global batch that share a mask and
mix with each other. They depend on (seed, step, group number) alone.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.sharding import Mesh
from jaxtyping import Array, Float, Int

from sarwmix_jax.data.held_out import EvaluationInput
from sarwmix_jax.data.sources import RecordSource, open_records
from sarwmix_jax.facts.bands import BandStatistics
from sarwmix_jax.models.layers import Key
from sarwmix_jax.models.mixmae import (
    MixMAE,
    Vectors,
    cell_statistics,
    draw_mask,
    fixed_masked_count,
    loss_per_band,
    target_vectors,
    valid_vectors,
    weighted_errors,
)
from sarwmix_jax.models.state import Tree, merge_model
from sarwmix_jax.models.tokens import image_to_vectors, vectors_to_image
from sarwmix_jax.preprocessing import Images, Prepared, backscatter_weights, draw_flips, prepare, unstandardise
from sarwmix_jax.progress import track
from sarwmix_jax.settings.sections import PretrainingSettings
from sarwmix_jax.tasks.gradients import DATA_AXIS, over_devices, reading, shard_batch
from sarwmix_jax.tasks.task import Batch, Metrics

EVALUATION_GROUP = 8
"""Images that mix with each other in every evaluation, independent of the run's mix group, so that results of runs can
be compared."""


class GroupKeys(NamedTuple):
    """Random keys of one mix group at one step."""

    mask: Key
    flips: Key
    noise: Key


def group_keys(seed: int, step: Int[Array, ""] | int, group: Int[Array, ""] | int) -> GroupKeys:
    """The keys of one mix group; they depend on these three numbers alone."""
    key = jax.random.fold_in(jax.random.fold_in(jax.random.key(seed), step), group)
    return GroupKeys(*jax.random.split(key, 3))


class Predicted(NamedTuple):
    """Reconstruction of one mix group; every cell comes from the sequence that did not contain it.

    Attributes:
        prediction: Output of the model (standardised per cell with `norm_pix`).
        target: Target of the model.
        weights: Weight of every value; 0 where it does not count.
        used: 1 for values that count, 0 for invalid pixels; None where all count.
    """

    prediction: Vectors
    target: Vectors
    weights: Vectors
    used: Vectors | None


@dataclass(frozen=True)
class Pretraining:
    """The task of pretraining.

    Attributes:
        settings: Settings of the run, with micro-batch and mix group set.
        statistics: Band statistics that standardise the images.
    """

    settings: PretrainingSettings
    statistics: BandStatistics

    kind: ClassVar[str] = "pretraining"
    rules: ClassVar[tuple[str, ...]] = ("lowest_loss",)
    open: ClassVar[Callable[..., RecordSource]] = open_records

    @property
    def columns(self) -> tuple[str, ...]:
        """The columns of a batch."""
        return ("image", "valid_pixels") if self.settings.data.nodata_aware else ("image",)

    @property
    def model(self) -> tuple[Any, ...]:
        """The class of the model, and its arguments without random numbers."""
        return MixMAE, self.settings.model

    @property
    def group(self) -> int:
        """Consecutive images of the global batch that must stay together."""
        assert self.settings.batch.mix_group is not None
        return self.settings.batch.mix_group

    @property
    def description(self) -> dict[str, Any]:
        """What a checkpoint's description holds besides settings and statistics."""
        return {"norm_pix": self.settings.loss.norm_pix}

    def loss(
        self, model: Any, batch: Batch, step: Int[Array, ""], first: Int[Array, ""]
    ) -> tuple[Float[Array, ""], Metrics]:
        """Mean weighted error over consecutive mix groups; see `task.Task`."""

        def one_group(batch: Batch, group: Int[Array, ""]) -> tuple[Array, Metrics]:
            keys = group_keys(self.settings.seed, step, group)
            flips = draw_flips(keys.flips, len(batch["image"]), self.settings.augment)
            prepared = prepare(batch, self.statistics, side=self.settings.model.image_size, flips=flips)
            predicted = self.predict(model, prepared, self.draw_mask(keys.mask), keys.noise)
            by_band = loss_per_band(errors(predicted), self._bands, predicted.used)
            return by_band.mean(), {"loss_per_band": by_band, "weight_mean": predicted.weights.mean()}

        groups = len(batch["image"]) // self.group
        numbers = first // self.group + jnp.arange(groups)
        if groups == 1:  # the usual case, without the extra axis that slows the matrix products
            return one_group(batch, numbers[0])
        cut = jax.tree.map(lambda x: x.reshape(groups, -1, *x.shape[1:]), batch)
        return jax.tree.map(lambda x: x.mean(axis=0), jax.vmap(one_group)(cut, numbers))

    def draw_mask(self, key: Key) -> Float[Array, " cells"]:
        """Draws the mask of a mix group."""
        mask = self.settings.mask
        return draw_mask(key, self.settings.model.cells, mask.ratio, mask.range_mask_ratio)

    def predict(
        self, model: Any, prepared: Prepared, mask: Float[Array, " cells"], key: Key | None = None
    ) -> Predicted:
        """Reconstructs one mix group.

        Args:
            model: The masked autoencoder.
            prepared: The images of one mix group.
            mask: The group's mask, 0/1 per cell, row-major.
            key: Random key of dropout and drop path; without it there are none.
        """
        images, valid, settings = prepared.standardised, prepared.valid, self.settings
        count = fixed_masked_count(settings.model.cells, settings.mask.ratio, settings.mask.range_mask_ratio)
        reconstruction = model.reconstruct(images, mask, masked_count=count, key=key)
        used = None if valid is None else valid_vectors(valid, images)
        return Predicted(reconstruction, *self._targets(prepared), used)

    def targets(self, batch: Batch) -> tuple[Vectors, Vectors]:
        """Targets of raw records without flips, and the weight of every value."""
        return self._targets(prepare(batch, self.statistics, side=self.settings.model.image_size))

    def _targets(self, prepared: Prepared) -> tuple[Vectors, Vectors]:
        images, valid = prepared.standardised, prepared.valid
        weights = backscatter_weights(prepared.db, images, self.settings.weighting, valid=valid)
        return target_vectors(images, norm_pix=self.settings.loss.norm_pix, valid=valid), image_to_vectors(weights)

    @property
    def _bands(self) -> int:
        return len(self.settings.model.bands)

    def evaluated_group(self, model: Any, batch: Batch, number: Int[Array, ""]) -> tuple[Prepared, Array, Predicted]:
        """One mix group of held-out records without flips: images, mask and prediction.

        The mask is that of (seed, step 0, number), so that the same records always get the same masks.
        """
        prepared = prepare(batch, self.statistics, side=self.settings.model.image_size)
        mask = self.draw_mask(group_keys(self.settings.seed, 0, number).mask)
        return prepared, mask, self.predict(model, prepared, mask)

    def make_validation(
        self, graphdef: nnx.GraphDef, mesh: Mesh, sources: Sequence[RecordSource]
    ) -> Callable[[Tree, Tree], dict[str, Any]]:
        """A function (params, fixed) -> `loss` and `loss_per_band` over all records of `sources`.

        A record's mask and partner depend on its position in the source and on the seed alone: they are the same at
        every call and on any number of devices. All values have equal weight, so a record with few valid pixels has
        little influence.
        """

        def one_group(model: Any, batch: Batch, number: Int[Array, ""]) -> Float[Array, "batch 2 band"]:
            predicted = self.evaluated_group(model, batch, number)[2]
            wrong = errors(predicted)
            used = jnp.ones_like(wrong) if predicted.used is None else predicted.used
            return jnp.stack([x.reshape(len(x), -1, self._bands).mean(axis=1) for x in (wrong * used, used)], axis=1)

        def share(params: Tree, fixed: Tree, batch: Batch, counts: Array, first: Array) -> Float[Array, "2 band"]:
            model, groups = merge_model(graphdef, params, fixed), len(counts) // EVALUATION_GROUP
            numbers = first + jax.lax.axis_index(DATA_AXIS) * groups + jnp.arange(groups)
            cut = jax.tree.map(lambda x: x.reshape(groups, -1, *x.shape[1:]), batch)
            losses = jax.lax.map(lambda pair: one_group(model, *pair), (cut, numbers)).reshape(-1, 2, self._bands)
            return jax.lax.psum(jnp.where(counts[:, None, None], losses, 0.0).sum(axis=0), DATA_AXIS)

        summed = jax.jit(over_devices(share, mesh, False, False, True, True, False, reduced=True))

        def validate(params: Tree, fixed: Tree) -> dict[str, Any]:
            total = np.zeros((2, self._bands))
            for first, batch, counts in self._held_out(sources, mesh):
                placed = shard_batch(batch | {"counts": counts}, mesh)
                total += np.asarray(summed(params, fixed, placed, placed.pop("counts"), jnp.int32(first)))
            by_band = total[0] / np.maximum(total[1], 1e-12)
            return {"loss": float(by_band.mean()), "loss_per_band": [float(value) for value in by_band]}

        return validate

    def _held_out(
        self, sources: Sequence[RecordSource], mesh: Mesh
    ) -> Iterator[tuple[int, dict[str, np.ndarray], np.ndarray]]:
        """For every batch of held-out records: number of the first mix group, host arrays, and which rows count."""
        data, micro_batch = self.settings.data, self.settings.batch.micro_batch or EVALUATION_GROUP
        rows = mesh.size * max(micro_batch // EVALUATION_GROUP, 1) * EVALUATION_GROUP
        first = 0
        for source in sources:
            batches = EvaluationInput(source, rows, columns=self.columns, group=EVALUATION_GROUP, **reading(data))
            for number, batch in enumerate(track(batches, "validating", len(batches), "batches")):
                group = first + number * rows // EVALUATION_GROUP
                yield group, {name: batch[name] for name in self.columns}, batch["valid"]
            first += -(-len(source) // EVALUATION_GROUP)


def errors(predicted: Predicted) -> Vectors:
    """Weighted squared error of every value."""
    return weighted_errors(predicted.prediction, predicted.target, predicted.weights)


def prediction_db(prediction: Vectors, prepared: Prepared, statistics: BandStatistics, *, norm_pix: bool) -> Images:
    """Predicted cells as images in dB; with `norm_pix` each cell takes mean and standard deviation from the truth."""
    vectors = prediction.astype(jnp.float32)
    if norm_pix:
        mean, deviation = cell_statistics(prepared.standardised, valid=prepared.valid)
        vectors = vectors * deviation + mean
    return unstandardise(vectors_to_image(vectors, prepared.standardised.shape[1]), statistics)
