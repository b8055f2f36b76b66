"""Reconstruction of held-out records by a pretraining model, compared with the best constant prediction."""

import functools
import itertools
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Float

from sarwmix_jax.data.held_out import EvaluationInput
from sarwmix_jax.data.sources import RecordSource
from sarwmix_jax.evaluation.hidden_cells import CellErrors, harmonic_prediction
from sarwmix_jax.models.mixmae import mix
from sarwmix_jax.models.state import Tree, merge_model
from sarwmix_jax.models.tokens import vectors_to_image
from sarwmix_jax.progress import track
from sarwmix_jax.tasks.pretraining import EVALUATION_GROUP, Pretraining, prediction_db

BATCH = 64
HISTOGRAM_EDGES = np.linspace(-3.0, 3.0, 121)
"""Bins of truth and reconstruction, in units of the target."""
COMPARED = 1024
"""Records on which predictions are compared inside cells; in-painting solves equations for every mix group."""


@dataclass(frozen=True)
class Pretrained:
    """A pretraining model with its arrays, its task, and the steps of its training."""

    task: Pretraining
    graphdef: nnx.GraphDef
    params: Tree
    fixed: Tree
    step: int = 0


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
        mask: (batch, cells), the same for all: cells with 1 are predicted from those with 0, and the reverse.
    """

    prediction: Any
    target: Any
    weights: Any
    used: Any
    original_db: Any
    mixed_db: Any
    prediction_db: Any
    weight_map: Any
    mask: Any


class Constant(NamedTuple):
    """The best constant predictions, one value per band and pixel position within a cell.

    Attributes:
        weighted: Minimises the weighted loss.
        plain: Minimises the squared error without weights.
    """

    weighted: Float[np.ndarray, " values"]
    plain: Float[np.ndarray, " values"]


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
            jnp.broadcast_to(mask, found.target.shape[:2]),
        )

    return jax.jit(forward)


def groups(
    model: Pretrained, source: RecordSource, *, chosen: Collection[int] | None = None, threads: int = 2
) -> Iterator[tuple[EvaluatedGroup, np.ndarray]]:
    """Mix groups of `source` in stored order, on the host, with a flag per image that is False for padding.

    Args:
        model: The model.
        source: Held-out records.
        chosen: Numbers of the groups; by default all.
        threads: Reading threads.
    """
    forward = make_forward(model.task, model.graphdef)
    columns, size = model.task.columns, EVALUATION_GROUP
    batches = EvaluationInput(source, size, columns=columns, group=size, threads=threads)
    count = len(batches) if chosen is None else max(chosen) + 1
    for number, batch in enumerate(track(itertools.islice(batches, count), "reconstructing", count, "mix groups")):
        if chosen is None or number in chosen:
            arrays = {name: batch[name] for name in columns}
            yield jax.device_get(forward(model.params, model.fixed, arrays, jnp.int32(number))), batch["valid"]


def best_constant(task: Pretraining, source: RecordSource, *, threads: int = 2) -> Constant:
    """The best constant prediction, which ignores the image.

    The same for every cell of every image: the mean of the targets, with and without the loss's weights. Unlike the
    mean of a cell, it contains the offset between VH and VV. In nodata-aware mode invalid pixels have weight 0.
    """

    @jax.jit
    def sums(batch: dict[str, Array], counts: Array) -> tuple[Array, Array]:
        target, weights = task.targets(batch)
        weights = jnp.stack((weights, weights > 0)) * counts[:, None, None]
        return jnp.sum(weights * target, axis=(1, 2)), jnp.sum(weights, axis=(1, 2))

    values, total = np.zeros((2, 2, task.settings.model.cell_values))
    batches = EvaluationInput(source, BATCH, columns=task.columns, threads=threads)
    for batch in track(batches, "fitting the best constant prediction", len(batches), "batches"):
        part, weight = sums({name: batch[name] for name in task.columns}, batch["valid"])
        values, total = values + np.asarray(part), total + np.asarray(weight)
    return Constant(*np.where(total > 0, values / np.maximum(total, 1e-12), 0.0).astype(np.float32))


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
        constant_loss: Weighted loss of the best constant prediction on the same values, where there is one.
        bands: Moments of reconstruction and truth per band, over all (hence masked) cells, in the units that the model
            predicts: with `norm_pix` standardised per cell, so the cell's own brightness does not help.
        record_losses: Weighted loss of every record, in stored order.
        compared: Number of records, from the first, whose cells were compared.
        cells: Errors over these records' hidden cells per band, in units of the target, by what predicts: `model`,
            `constant` where there is one, and `harmonic` in-painting unless the target is standardised per cell.
    """

    records: int
    loss: float
    loss_per_band: tuple[float, ...]
    constant_loss: float | None
    bands: tuple[BandMoments, ...]
    record_losses: Float[np.ndarray, " record"]
    compared: int
    cells: Mapping[str, tuple[CellErrors, ...]]

    @property
    def margin(self) -> float:
        """Share by which the model's loss is below that of the constant prediction."""
        assert self.constant_loss is not None
        return 1.0 - self.loss / self.constant_loss

    def nearest_to_median(self, count: int) -> list[int]:
        """The records whose loss is nearest to the median loss: a rule to show some by, not a choice."""
        distance = np.abs(self.record_losses - np.median(self.record_losses))
        return [int(number) for number in np.argsort(distance, kind="stable")[:count]]

    @property
    def correlations(self) -> tuple[float, ...]:
        """Correlation of reconstruction and truth per band."""
        return tuple(band.correlation for band in self.bands)


def evaluate_held_out(model: Pretrained, source: RecordSource, constant: Constant | None) -> HeldOut:
    """Losses of the model and of the constant prediction, and correlations, over all records of `source`."""
    bands = len(model.task.settings.model.bands)
    moments = tuple(BandMoments() for _ in range(bands))
    cells: dict[str, tuple[CellErrors, ...]] = {}
    losses, counted, seen, per_record = np.zeros((2, bands)), np.zeros(bands), 0, []
    for group, valid in groups(model, source):
        kept = EvaluatedGroup(*(np.asarray(part)[valid] for part in group))
        by_record = _errors(kept, kept.prediction, bands)
        losses[0] += by_record.sum(axis=0)
        losses[1] += 0.0 if constant is None else _errors(kept, constant.weighted, bands).sum(axis=0)
        counted += kept.used.reshape(-1, bands).sum(axis=0)
        per_record.append(by_record.sum(axis=1) / np.maximum(kept.used.sum(axis=(1, 2)), 1))
        for band, moment in enumerate(moments):
            used = kept.used[..., band::bands] > 0
            moment.add(kept.target[..., band::bands][used], kept.prediction[..., band::bands][used])
        if seen < COMPARED:
            seen += len(kept.target)
            _compare(cells, kept, constant, bands, harmonic=not model.task.settings.loss.norm_pix)
    by_model, by_constant = losses / np.maximum(counted, 1)
    constant_loss = None if constant is None else float(by_constant.mean())
    per_band = tuple(by_model.tolist())
    in_order = np.concatenate(per_record)
    return HeldOut(len(source), float(by_model.mean()), per_band, constant_loss, moments, in_order, seen, cells)


def _compare(
    cells: dict[str, tuple[CellErrors, ...]],
    group: EvaluatedGroup,
    constant: Constant | None,
    bands: int,
    *,
    harmonic: bool,
) -> None:
    """Adds a group's hidden cells as the model, in-painting and the best constant predict them."""
    predictions = {"model": group.prediction}
    if harmonic:
        predictions["harmonic"] = harmonic_prediction(group.target, group.mask, group.used, bands)
    if constant is not None:
        predictions["constant"] = np.broadcast_to(constant.plain, group.target.shape)
    for name, prediction in predictions.items():
        for band, errors in enumerate(cells.setdefault(name, tuple(CellErrors() for _ in range(bands)))):
            errors.add(*(values[..., band::bands] for values in (group.target, prediction, group.used)))


def _errors(group: EvaluatedGroup, prediction: np.ndarray, bands: int) -> np.ndarray:
    """Sum of weighted squared errors per record and band."""
    errors = group.weights * group.used * (prediction - group.target) ** 2
    return errors.reshape(len(errors), -1, bands).sum(axis=1, dtype=np.float64)
