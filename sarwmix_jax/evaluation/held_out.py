"""How well a pretraining model reconstructs records it has not seen."""

from dataclasses import dataclass, field

import numpy as np
from jaxtyping import Float

from sarwmix_jax.data.sources import RecordSource
from sarwmix_jax.evaluation.forward import Group, Pretrained, groups

HISTOGRAM_EDGES = np.linspace(-3.0, 3.0, 121)
"""Bins of truth and reconstruction, in units of the target."""


@dataclass
class BandMoments:
    """Running sums of one band's reconstruction and truth, and their joint histogram (truth, reconstruction)."""

    count: float = 0.0
    sums: np.ndarray = field(default_factory=lambda: np.zeros(5))
    histogram: np.ndarray = field(default_factory=lambda: np.zeros((len(HISTOGRAM_EDGES) - 1,) * 2))

    def add(self, truth: np.ndarray, prediction: np.ndarray) -> None:
        """Count values."""
        x, y = truth.astype(np.float64), prediction.astype(np.float64)
        self.count += len(x)
        self.sums += [x.sum(), y.sum(), (x * x).sum(), (y * y).sum(), (x * y).sum()]
        self.histogram += np.histogram2d(x, y, bins=(HISTOGRAM_EDGES, HISTOGRAM_EDGES))[0]

    @property
    def correlation(self) -> float:
        """Pearson correlation; 0 where one of the two does not vary."""
        x, y, xx, yy, xy = self.sums / max(self.count, 1.0)
        spread = max(xx - x * x, 0.0) * max(yy - y * y, 0.0)
        return float((xy - x * y) / np.sqrt(spread)) if spread > 1e-20 else 0.0


@dataclass(frozen=True)
class HeldOut:
    """Results on held-out records.

    Attributes:
        records: How many there were.
        loss: Weighted loss of the model, its masks fixed.
        loss_per_band: The same per band.
        constant_loss: Weighted loss of the best constant prediction on the same values, where there is one.
        bands: Moments of reconstruction and truth per band, over all (hence masked) cells, in the units that the model
            predicts: with `norm_pix` standardised per cell, so the cell's own brightness does not help.
    """

    records: int
    loss: float
    loss_per_band: tuple[float, ...]
    constant_loss: float | None
    bands: tuple[BandMoments, ...]

    @property
    def margin(self) -> float:
        """By which share the model's loss is below the constant prediction's."""
        assert self.constant_loss is not None
        return 1.0 - self.loss / self.constant_loss

    @property
    def correlations(self) -> tuple[float, ...]:
        """Correlation of reconstruction and truth per band."""
        return tuple(band.correlation for band in self.bands)


def evaluate_held_out(
    model: Pretrained, source: RecordSource, constant: Float[np.ndarray, " values"] | None, *, nodata: bool = False
) -> HeldOut:
    """Loss, the constant prediction's loss and correlations over all records of `source`."""
    bands = model.steps.model.bands
    moments = tuple(BandMoments() for _ in range(bands))
    losses, counted = np.zeros((2, bands)), np.zeros(bands)
    for group, valid in groups(model, source, nodata=nodata):
        kept = Group(*(np.asarray(part)[valid] for part in group))
        losses[0] += _errors(kept, kept.prediction, bands)
        losses[1] += 0.0 if constant is None else _errors(kept, constant, bands)
        counted += kept.used.reshape(-1, bands).sum(axis=0)
        for band, moment in enumerate(moments):
            used = kept.used[..., band::bands] > 0
            moment.add(kept.target[..., band::bands][used], kept.prediction[..., band::bands][used])
    by_model, by_constant = losses / np.maximum(counted, 1)
    return HeldOut(
        len(source),
        float(by_model.mean()),
        tuple(by_model.tolist()),
        None if constant is None else float(by_constant.mean()),
        moments,
    )


def _errors(group: Group, prediction: np.ndarray, bands: int) -> np.ndarray:
    """Sum of weighted squared errors per band."""
    errors = group.weights * group.used * (prediction - group.target) ** 2
    return errors.reshape(-1, bands).sum(axis=0, dtype=np.float64)
