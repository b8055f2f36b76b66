"""Reconstructions back in dB, and how a mixed batch is cut without separating partners."""

from collections.abc import Iterator
from dataclasses import dataclass

import jax.numpy as jnp
import numpy as np
from jaxtyping import Float, Int

from sarwmix_jax import sar
from sarwmix_jax.facts.bands import BANDS, BandStatistics
from sarwmix_jax.models.mixmae import cell_statistics
from sarwmix_jax.settings.model import CELL
from sarwmix_jax.models.tokens import vectors_to_image


@dataclass(frozen=True)
class Reconstruction:
    """What a pretraining model makes of mixed images.

    Attributes:
        image_db: (batch, band, height, width) in dB. Where the model predicts cells standardised by themselves, their
            mean and deviation are taken from the target.
        prediction: The model's own output at the same places, before that.
        mask: 0/1 per cell, row-major; where 1, the image's own cell was hidden and the partner's was seen, where 0 the
            other way round. Every cell is reconstructed from the sequence in which it was hidden.
    """

    image_db: Float[np.ndarray, "batch band height width"]
    prediction: Float[np.ndarray, "batch band height width"]
    mask: Float[np.ndarray, " cells"]


def restore_db(
    vectors: Float[np.ndarray, "batch cells values"],
    images_db: Float[np.ndarray, "batch band height width"],
    statistics: BandStatistics,
    norm_pix: bool,
) -> Float[np.ndarray, "batch band height width"]:
    """Predicted cells in dB; with `norm_pix` each cell gets the target cell's mean and unbiased deviation."""
    if norm_pix:
        mean, deviation = cell_statistics(sar.standardise(jnp.asarray(images_db), statistics))
        vectors = vectors * np.asarray(deviation) + np.asarray(mean)
    return np.asarray(
        sar.unstandardise(vectors_to_image(jnp.asarray(vectors), len(BANDS), CELL), statistics), np.float32
    )


def mirrored_chunks(count: int, limit: int) -> Iterator[Int[np.ndarray, " rows"]]:
    """Rows of each chunk of a batch of `count`, so that reversing a chunk brings every image to its partner.

    The partner is the image as far from the other end; the middle one of an odd batch is its own. Some pairs may be
    repeated so that few sizes occur; repeated rows get the same result.
    """
    for start in range(0, count // 2, max(1, limit // 2)):
        front = np.arange(start, min(start + max(1, limit // 2), count // 2))
        size = min(max(1, limit // 2), 1 << (len(front) - 1).bit_length())
        front = np.concatenate([front, np.repeat(front[-1:], size - len(front))])
        yield np.concatenate([front, count - 1 - front[::-1]])
    if count % 2:
        yield np.array([count // 2])
