"""The best constant prediction: what the loss is without looking at the image at all.

One value per band and pixel position within a cell, the same for every cell of every image, that minimises the same
weighted loss. It already knows the offset between VH and VV, which makes the plain cell mean easy to beat.
"""

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from sarwmix_jax.data.pipeline import EvaluationInput
from sarwmix_jax.data.sources import RecordSource
from sarwmix_jax.evaluation.forward import raw_batch
from sarwmix_jax.models.mixmae import target_vectors
from sarwmix_jax.models.tokens import image_to_vectors
from sarwmix_jax.training.steps import StepSettings, prepare

BATCH = 64


def best_constant(
    source: RecordSource, steps: StepSettings, *, nodata: bool = False, threads: int = 2
) -> Float[np.ndarray, " values"]:
    """Weighted mean of the targets over all records and cells, per entry of a cell's vector.

    That mean minimises the weighted squared error. In nodata-aware mode invalid pixels weigh nothing.
    """

    @jax.jit
    def sums(batch: dict[str, Array], valid: Array) -> tuple[Array, Array]:
        prepared = prepare(batch, steps)
        target = target_vectors(prepared.standardised, norm_pix=steps.norm_pix, valid=prepared.valid)
        weights = image_to_vectors(prepared.weights) * valid[:, None, None]
        return jnp.sum(weights * target, axis=(0, 1)), jnp.sum(weights, axis=(0, 1))

    values = np.zeros(steps.model.cell_values)
    total = np.zeros(steps.model.cell_values)
    for batch in EvaluationInput(source, BATCH, threads=threads):
        part, weight = sums(raw_batch(batch, nodata=nodata), batch["valid"])
        values, total = values + np.asarray(part), total + np.asarray(weight)
    return np.where(total > 0, values / np.maximum(total, 1e-12), 0.0).astype(np.float32)
