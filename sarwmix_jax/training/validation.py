"""Loss on held-out records: no flips, fixed masks, every record exactly once."""

import itertools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.sharding import Mesh
from jaxtyping import Array, Bool, Float

from sarwmix_jax.data.pipeline import EvaluationInput
from sarwmix_jax.data.sources import RecordSource
from sarwmix_jax.settings import DataSettings
from sarwmix_jax.training.parallel import shard_batch
from sarwmix_jax.training.steps import StepSettings, make_evaluation_step

HostBatch = dict[str, np.ndarray]


def device_batch(batch: HostBatch, mesh: Mesh, *, nodata: bool) -> dict[str, jax.Array]:
    """Images, and in nodata-aware mode their validity masks, as the compiled steps take them."""
    arrays = {"image": batch["image"]}
    if nodata:
        arrays["valid"] = batch["valid_pixels"][:, None]
    return shard_batch(arrays, mesh)


def make_validation(
    graphdef: nnx.GraphDef, settings: StepSettings, mesh: Mesh, sources: tuple[RecordSource, ...], data: DataSettings
) -> Callable[[Any, Any], dict[str, Any]]:
    """A function (params, fixed) -> `loss` and `loss_per_band` over all records of `sources`.

    A record's mask and partner depend on its place in the source, the seed and the mix group alone: the same at every
    call and on any number of devices. Rows that only fill up the last batch do not count.
    """
    evaluation_step = make_evaluation_step(graphdef, settings, mesh)
    batch_size = settings.micro_batch * mesh.size
    inputs = [
        EvaluationInput(
            source,
            batch_size,
            process_index=jax.process_index(),
            process_count=jax.process_count(),
            threads=data.threads,
            workers=data.workers,
            prefetch=data.prefetch,
        )
        for source in sources
    ]

    def validate(params: Any, fixed: Any) -> dict[str, Any]:
        total = np.zeros(settings.model.bands)
        for number, batch in enumerate(itertools.chain(*inputs)):
            first_group = jnp.int32(number * batch_size // settings.mix_group)
            losses = evaluation_step(params, fixed, device_batch(batch, mesh, nodata=data.nodata_aware), first_group)
            total += np.asarray(_sum_valid(losses, shard_batch({"valid": batch["valid"]}, mesh)["valid"]))
        by_band = total / sum(map(len, sources))
        return {"loss": float(by_band.mean()), "loss_per_band": [float(value) for value in by_band]}

    return validate


@jax.jit
def _sum_valid(losses: Float[Array, "batch band"], valid: Bool[Array, " batch"]) -> Float[Array, " band"]:
    return jnp.where(valid[:, None], losses, 0.0).sum(axis=0)
