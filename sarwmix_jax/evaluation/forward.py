"""One mix group through a pretraining model: what it was given, what it predicts, what it should."""

import functools
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Float

from sarwmix_jax import sar
from sarwmix_jax.data.pipeline import EvaluationInput
from sarwmix_jax.data.sources import RecordSource
from sarwmix_jax.models.mixmae import cell_statistics, fixed_masked_count, mix, target_vectors, valid_vectors
from sarwmix_jax.models.state import Tree, merge_model
from sarwmix_jax.models.tokens import image_to_vectors, vectors_to_image
from sarwmix_jax.training.steps import StepSettings, group_keys, group_mask, prepare


@dataclass(frozen=True)
class Pretrained:
    """A pretraining model with its arrays and the arithmetic around it."""

    graphdef: nnx.GraphDef
    params: Tree
    fixed: Tree
    steps: StepSettings


class Group(NamedTuple):
    """One mix group; on the device or, as numpy arrays, on the host.

    Every cell is predicted from the sequence that did not hold it, so every cell was masked. The first four are
    (batch, cells, values), the others (batch, band, height, width).

    Attributes:
        prediction: What the model gives (standardised per cell with `norm_pix`).
        target: What it should give.
        weights: Weight of every value; 0 where it does not count.
        used: 1 for values that count, 0 for invalid pixels.
        original_db: The images in dB, resized.
        mixed_db: What the encoder saw in dB: each image mixed with its partner.
        prediction_db: The prediction in dB; with `norm_pix` by the target cell's own mean and deviation.
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
def make_forward(graphdef: nnx.GraphDef, steps: StepSettings) -> Callable[..., Group]:
    """The compiled function (params, fixed, batch of one mix group, group number) -> `Group`.

    No flips and no dropout; the mask is that of the validation loss for the same group number. The last few are kept,
    as compiling takes longer than evaluating a small model.
    """
    count = fixed_masked_count(steps.model.cells, steps.mask_ratio, steps.range_mask_ratio)

    def forward(params: Tree, fixed: Tree, batch: dict[str, Array], group: Float[Array, ""]) -> Group:
        mask = group_mask(group_keys(steps.seed, 0, group).mask, steps)
        prepared = prepare(batch, steps)
        images, valid = prepared.standardised, prepared.valid
        prediction = merge_model(graphdef, params, fixed).reconstruct(images, mask, masked_count=count)
        prediction = prediction.astype(jnp.float32)
        standardised = prediction
        if steps.norm_pix:
            mean, deviation = cell_statistics(images, valid=valid)
            standardised = prediction * deviation + mean
        used = jnp.ones_like(prediction) if valid is None else valid_vectors(valid, images)
        return Group(
            prediction,
            target_vectors(images, norm_pix=steps.norm_pix, valid=valid),
            image_to_vectors(prepared.weights),
            used,
            prepared.db,
            mix(prepared.db, mask),
            sar.unstandardise(vectors_to_image(standardised, steps.model.bands), steps.statistics),
            prepared.weights,
        )

    return jax.jit(forward)


def raw_batch(batch: dict[str, np.ndarray], *, nodata: bool) -> dict[str, np.ndarray]:
    """A host batch as the compiled functions take it."""
    arrays = {"image": batch["image"]}
    return arrays | ({"valid": batch["valid_pixels"][:, None]} if nodata else {})


def groups(
    model: Pretrained, source: RecordSource, *, nodata: bool = False, limit: int | None = None, threads: int = 2
) -> Iterator[tuple[Group, np.ndarray]]:
    """Every mix group of `source` in stored order, on the host, with a flag per image that is False for padding.

    Args:
        model: The model.
        source: Held-out records.
        nodata: Whether invalid pixels are left out.
        limit: Largest number of groups; all when not given.
        threads: Reading threads.
    """
    forward = make_forward(model.graphdef, model.steps)
    for number, batch in enumerate(EvaluationInput(source, model.steps.mix_group, threads=threads)):
        if limit is not None and number >= limit:
            return
        group = forward(model.params, model.fixed, raw_batch(batch, nodata=nodata), jnp.int32(number))
        yield jax.device_get(group), batch["valid"]
