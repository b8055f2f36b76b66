"""How well dark and bright areas are reconstructed, apart: squared error over hidden cells by true backscatter.

Errors are those of backscatter in dB, without the weights of any loss, so that runs with different weights can be
compared. Every cell of every image is predicted from the sequence that did not contain it, so all cells are hidden.
"""

from dataclasses import dataclass, field

import jax.numpy as jnp
import numpy as np
from jaxtyping import Float, Int

from sarwmix_jax.data.sources import RecordSource
from sarwmix_jax.evaluation.held_out import Pretrained, groups
from sarwmix_jax.evaluation.hidden_cells import CellErrors
from sarwmix_jax.models.tokens import image_to_vectors
from sarwmix_jax.tasks.pretraining import EVALUATION_GROUP

PARTS = ("dark", "middle", "bright")
EDGES_DB = np.linspace(-80.0, 40.0, 12001)
"""Limits of the classes of true backscatter in which errors are summed; the outer classes are open."""

Values = Float[np.ndarray, "image cells values"]


@dataclass
class BrightnessErrors:
    """Running sums of one band's squared errors by true backscatter.

    Attributes:
        counts: Values in each class of true backscatter.
        squared: Sum of their squared errors, dB^2.
        bias: Sum of their errors, dB.
    """

    counts: Float[np.ndarray, " classes"] = field(default_factory=lambda: np.zeros(len(EDGES_DB) - 1))
    squared: Float[np.ndarray, " classes"] = field(default_factory=lambda: np.zeros(len(EDGES_DB) - 1))
    bias: Float[np.ndarray, " classes"] = field(default_factory=lambda: np.zeros(len(EDGES_DB) - 1))

    def add(self, by_db: np.ndarray, errors_db: np.ndarray) -> None:
        """Counts errors (prediction minus truth, dB) by the backscatter `by_db` of the same shape."""
        classes = classes_of(by_db)
        for sums, weights in ((self.counts, None), (self.squared, errors_db**2), (self.bias, errors_db)):
            sums += np.bincount(classes.ravel(), None if weights is None else weights.ravel(), minlength=len(sums))

    @property
    def thresholds_db(self) -> tuple[float, float]:
        """Backscatter that divides the values into three equal parts, to the width of a class."""
        return tuple(float(EDGES_DB[cut]) for cut in self._cuts)  # type: ignore[return-value]

    @property
    def _cuts(self) -> list[int]:
        """Numbers of the classes at which the middle and the bright part begin."""
        shares = np.cumsum(self.counts) / max(self.counts.sum(), 1.0)
        return [int(np.searchsorted(shares, share - 1e-12)) + 1 for share in (1 / 3, 2 / 3)]

    @property
    def parts(self) -> dict[str, tuple[float, float, int]]:
        """By part: mean squared error in dB^2, mean error in dB, number of values; empty parts are left out."""
        sums = [np.split(values, self._cuts) for values in (self.squared, self.bias, self.counts)]
        found = {}
        for name, squared, bias, counts in zip(PARTS, *sums, strict=True):
            if count := counts.sum():
                found[name] = (float(squared.sum() / count), float(bias.sum() / count), int(count))
        return found


def classes_of(values_db: np.ndarray) -> Int[np.ndarray, "..."]:
    """Number of the class of every value."""
    step = EDGES_DB[1] - EDGES_DB[0]
    return np.clip((values_db - EDGES_DB[0]) / step, 0, len(EDGES_DB) - 2).astype(np.int64)


@dataclass
class BandErrors:
    """Errors of one band.

    Attributes:
        by_pixel: By the true backscatter of the pixel itself, speckle included.
        by_cell: By the mean true backscatter (in dB) of its cell.
        cells: Errors of all, and the correlation inside cells.
    """

    by_pixel: BrightnessErrors = field(default_factory=BrightnessErrors)
    by_cell: BrightnessErrors = field(default_factory=BrightnessErrors)
    cells: CellErrors = field(default_factory=CellErrors)

    def add(self, truth_db: Values, prediction_db: Values, used: Values) -> None:
        """Counts cells of this band; values where `used` is 0 count nothing."""
        truth, prediction, counted = (values.astype(np.float64) for values in (truth_db, prediction_db, used))
        self.cells.add(truth_db, prediction_db, used)
        mean = (truth * counted).sum(axis=-1, keepdims=True) / np.maximum(counted.sum(axis=-1, keepdims=True), 1)
        chosen = counted > 0
        errors = (prediction - truth)[chosen]
        self.by_pixel.add(truth[chosen], errors)
        self.by_cell.add(np.broadcast_to(mean, truth.shape)[chosen], errors)


def errors_by_brightness(model: Pretrained, source: RecordSource, most: int) -> tuple[BandErrors, ...]:
    """Errors per band over the hidden cells of the first records of a split.

    With `loss.norm_pix` a cell's prediction takes mean and standard deviation from the truth, as in pictures.

    Args:
        model: The model; masks are those of its task's seed.
        source: Held-out records.
        most: Largest number of records, rounded up to whole mix groups.
    """
    bands = len(model.task.settings.model.bands)
    found = tuple(BandErrors() for _ in range(bands))
    count = -(-min(most, len(source)) // EVALUATION_GROUP)
    for group, valid in groups(model, source, chosen=range(count)):
        images = (np.asarray(group.original_db)[valid], np.asarray(group.prediction_db)[valid])
        truth, prediction = (np.asarray(image_to_vectors(jnp.asarray(each))) for each in images)
        used = np.asarray(group.used)[valid]
        for band, errors in enumerate(found):
            errors.add(*(values[..., band::bands] for values in (truth, prediction, used)))
    return found
