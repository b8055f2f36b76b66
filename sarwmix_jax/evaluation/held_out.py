"""Reconstruction of held-out records by a pretraining model, compared with the best constant prediction."""

import functools
import itertools
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Float

from sarwmix_jax.data.held_out import EvaluationInput
from sarwmix_jax.data.sources import RecordSource
from sarwmix_jax.models.mixmae import mix
from sarwmix_jax.models.state import Tree, merge_model
from sarwmix_jax.models.tokens import vectors_to_image
from sarwmix_jax.progress import track
from sarwmix_jax.tasks.pretraining import EVALUATION_GROUP, Pretraining, prediction_db

BATCH = 64
HISTOGRAM_EDGES = np.linspace(-3.0, 3.0, 121)
"""Edges of the bins of truth and reconstruction, in units of the target."""


@dataclass(frozen=True)
class Pretrained:
    """A pretraining model with its arrays and its task."""

    task: Pretraining
    graphdef: nnx.GraphDef
    params: Tree
    fixed: Tree


class EvaluatedGroup(NamedTuple):
    """Reconstruction of one mix group, on the device or, as NumPy arrays, on the host.

    Every cell is predicted from the sequence that did not contain it, so every cell was masked. The first four arrays
    are (batch, cells, values), the others (batch, band, height, width).

    Attributes:
        prediction: Output of the model (standardised per cell with `norm_pix`).
        target: Target of the model.
        weights: Weight of every value; 0 where it does not count.
        used: 1 for values that count, 0 for invalid pixels.
        original_db: The images in dB, resized.
        mixed_db: Input of the encoder in dB: each image mixed with its partner.
        prediction_db: The prediction in dB; with `norm_pix` by mean and standard deviation of the target's cell.
        weight_map: The weights as images.
    """

    prediction: Any
    target: Any
    weights: Any
    used: Any
    original_db: Any
    mixed_db: Any
    prediction_db: Any
    weight_map: Any


@functools.lru_cache(maxsize=8)
def make_forward(task: Pretraining, graphdef: nnx.GraphDef) -> Callable[..., EvaluatedGroup]:
    """The compiled function (params, fixed, batch of one mix group, group number) -> `EvaluatedGroup`.

    Without flips and dropout; the mask is that of the validation loss for the same group number. The last functions
    are cached, as compilation takes longer than the evaluation of a small model.
    """

    def forward(params: Tree, fixed: Tree, batch: dict[str, Array], number: Array) -> EvaluatedGroup:
        prepared, mask, found = task.evaluated_group(merge_model(graphdef, params, fixed), batch, number)
        norm_pix = task.settings.loss.norm_pix
        return EvaluatedGroup(
            found.prediction.astype(jnp.float32),
            found.target,
            found.weights,
            jnp.ones_like(found.target) if found.used is None else found.used,
            prepared.db,
            mix(prepared.db, mask),
            prediction_db(found.prediction, prepared, task.statistics, norm_pix=norm_pix),
            vectors_to_image(found.weights, prepared.db.shape[1]),
        )

    return jax.jit(forward)


def groups(
    model: Pretrained, source: RecordSource, *, limit: int | None = None, threads: int = 2
) -> Iterator[tuple[EvaluatedGroup, np.ndarray]]:
    """Every mix group of `source` in stored order, on the host, with a flag per image that is False for padding.

    Args:
        model: The model.
        source: Held-out records.
        limit: Largest number of groups; by default all.
        threads: Reading threads.
    """
    forward = make_forward(model.task, model.graphdef)
    columns, size = model.task.columns, EVALUATION_GROUP
    batches = EvaluationInput(source, size, columns=columns, group=size, threads=threads)
    count = len(batches) if limit is None else min(limit, len(batches))
    for number, batch in enumerate(track(itertools.islice(batches, limit), "reconstructing", count, "mix groups")):
        arrays = {name: batch[name] for name in columns}
        yield jax.device_get(forward(model.params, model.fixed, arrays, jnp.int32(number))), batch["valid"]


def best_constant(task: Pretraining, source: RecordSource, *, threads: int = 2) -> Float[np.ndarray, " values"]:
    """The best constant prediction, which ignores the image.

    One value per band and pixel position within a cell, the same for every cell of every image, which minimises the
    same weighted loss: the weighted mean of the targets. Unlike the mean of a cell, it contains the offset between VH
    and VV. In nodata-aware mode invalid pixels have weight 0.
    """

    @jax.jit
    def sums(batch: dict[str, Array], counts: Array) -> tuple[Array, Array]:
        target, weights = task.targets(batch)
        weights = weights * counts[:, None, None]
        return jnp.sum(weights * target, axis=(0, 1)), jnp.sum(weights, axis=(0, 1))

    values, total = np.zeros((2, task.settings.model.cell_values))
    batches = EvaluationInput(source, BATCH, columns=task.columns, threads=threads)
    for batch in track(batches, "fitting the best constant prediction", len(batches), "batches"):
        part, weight = sums({name: batch[name] for name in task.columns}, batch["valid"])
        values, total = values + np.asarray(part), total + np.asarray(weight)
    return np.where(total > 0, values / np.maximum(total, 1e-12), 0.0).astype(np.float32)


@dataclass
class BandMoments:
    """Running sums over reconstruction and truth of one band, and their joint histogram (truth, reconstruction)."""

    count: float = 0.0
    sums: np.ndarray = field(default_factory=lambda: np.zeros(5))
    histogram: np.ndarray = field(default_factory=lambda: np.zeros((len(HISTOGRAM_EDGES) - 1,) * 2))

    def add(self, truth: np.ndarray, prediction: np.ndarray) -> None:
        """Add values."""
        x, y = truth.astype(np.float64), prediction.astype(np.float64)
        self.count += len(x)
        self.sums += [x.sum(), y.sum(), (x * x).sum(), (y * y).sum(), (x * y).sum()]
        self.histogram += np.histogram2d(x, y, bins=(HISTOGRAM_EDGES, HISTOGRAM_EDGES))[0]

    @property
    def correlation(self) -> float:
        """Pearson correlation; 0 where one of the two is constant."""
        x, y, xx, yy, xy = self.sums / max(self.count, 1.0)
        spread = max(xx - x * x, 0.0) * max(yy - y * y, 0.0)
        return float((xy - x * y) / np.sqrt(spread)) if spread > 1e-20 else 0.0


@dataclass(frozen=True)
class HeldOut:
    """Results on held-out records.

    Attributes:
        records: Number of records.
        loss: Weighted loss of the model with fixed masks.
        loss_per_band: The same per band.
        constant_loss: Weighted loss of the best constant prediction on the same values, if there is one.
        bands: Moments of reconstruction and truth per band, over all (that is, masked) cells, in the units that the
            model predicts: with `norm_pix` standardised per cell, so that the brightness of a cell has no influence.
    """

    records: int
    loss: float
    loss_per_band: tuple[float, ...]
    constant_loss: float | None
    bands: tuple[BandMoments, ...]

    @property
    def margin(self) -> float:
        """Share by which the model's loss is below that of the constant prediction."""
        assert self.constant_loss is not None
        return 1.0 - self.loss / self.constant_loss

    @property
    def correlations(self) -> tuple[float, ...]:
        """Correlation of reconstruction and truth per band."""
        return tuple(band.correlation for band in self.bands)


def evaluate_held_out(
    model: Pretrained, source: RecordSource, constant: Float[np.ndarray, " values"] | None
) -> HeldOut:
    """Losses of the model and of the constant prediction, and correlations, over all records of `source`."""
    bands = len(model.task.settings.model.bands)
    moments = tuple(BandMoments() for _ in range(bands))
    losses, counted = np.zeros((2, bands)), np.zeros(bands)
    for group, valid in groups(model, source):
        kept = EvaluatedGroup(*(np.asarray(part)[valid] for part in group))
        losses[0] += _errors(kept, kept.prediction, bands)
        losses[1] += 0.0 if constant is None else _errors(kept, constant, bands)
        counted += kept.used.reshape(-1, bands).sum(axis=0)
        for band, moment in enumerate(moments):
            used = kept.used[..., band::bands] > 0
            moment.add(kept.target[..., band::bands][used], kept.prediction[..., band::bands][used])
    by_model, by_constant = losses / np.maximum(counted, 1)
    constant_loss = None if constant is None else float(by_constant.mean())
    return HeldOut(len(source), float(by_model.mean()), tuple(by_model.tolist()), constant_loss, moments)


def _errors(group: EvaluatedGroup, prediction: np.ndarray, bands: int) -> np.ndarray:
    """Sum of weighted squared errors per band."""
    errors = group.weights * group.used * (prediction - group.target) ** 2
    return errors.reshape(-1, bands).sum(axis=0, dtype=np.float64)
