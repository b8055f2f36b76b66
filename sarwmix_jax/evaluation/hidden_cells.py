"""How well hidden cells are predicted: squared error, and the pattern inside a cell apart from its level."""

from dataclasses import dataclass, field

import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from sarwmix_jax.evaluation.inpainting import harmonic_inpainting
from sarwmix_jax.models.tokens import image_to_vectors, vectors_to_image
from sarwmix_jax.settings.model import CELL

Vectors = Float[np.ndarray, "image cells values"]


@dataclass
class CellErrors:
    """Running sums of one band's predictions over hidden cells.

    Attributes:
        count: Values that counted.
        squared: Sum of squared errors, in squared units of the target.
        inside: Sums of truth^2, prediction^2 and truth * prediction, each cell's own mean removed from both.
    """

    count: float = 0.0
    squared: float = 0.0
    inside: Float[np.ndarray, "3"] = field(default_factory=lambda: np.zeros(3))

    def add(self, truth: Vectors, prediction: Vectors, used: Vectors) -> None:
        """Counts cells of one band; values where `used` is 0 count nothing."""
        x, y, used = (values.astype(np.float64) for values in (truth, prediction, used))
        self.count += used.sum()
        self.squared += (used * (y - x) ** 2).sum()
        per_cell = np.maximum(used.sum(axis=-1, keepdims=True), 1)
        x, y = (used * (values - (used * values).sum(axis=-1, keepdims=True) / per_cell) for values in (x, y))
        self.inside += [(x * x).sum(), (y * y).sum(), (x * y).sum()]

    @property
    def mean_squared_error(self) -> float:
        """Mean over values."""
        return float(self.squared / max(self.count, 1.0))

    @property
    def inside_correlation(self) -> float:
        """Correlation over all cells after each cell's mean is removed from both; 0 where one does not vary."""
        xx, yy, xy = self.inside
        return float(xy / np.sqrt(xx * yy)) if xx * yy > 1e-20 else 0.0


def harmonic_prediction(
    target: Vectors, mask: Float[np.ndarray, "image cells"], used: Vectors, bands: int = 2
) -> Vectors:
    """Every cell by harmonic in-painting from the same pixels of its own image that the model saw.

    Cells where the mask is 1 come from those where it is 0, and the reverse.

    Args:
        target: Standardised images as cell vectors.
        mask: 0/1 per cell.
        used: 1 for valid values; invalid pixels are no boundary.
        bands: Number of bands.
    """
    images, valid = (np.asarray(vectors_to_image(jnp.asarray(vectors), bands)) for vectors in (target, used))
    invalid = valid[:, 0] == 0
    side = images.shape[-1] // CELL
    masked = np.repeat(np.repeat(mask.reshape(-1, side, side) == 1, CELL, axis=1), CELL, axis=2)
    of_masked, of_others = (harmonic_inpainting(images, hidden | invalid) for hidden in (masked, ~masked))
    return np.asarray(image_to_vectors(jnp.where(masked[:, None], of_masked, of_others)))
