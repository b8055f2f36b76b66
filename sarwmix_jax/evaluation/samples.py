"""Samples for the reconstruction picture, from one or several pretraining models."""

from collections.abc import Mapping

import numpy as np

from sarwmix_jax.data.sources import RecordSource
from sarwmix_jax.evaluation.forward import Pretrained, groups
from sarwmix_jax.evaluation.pictures import Sample


def reconstruct_samples(
    models: Mapping[str, Pretrained], source: RecordSource, count: int, *, nodata: bool = False
) -> list[Sample]:
    """The first `count` records of `source` as each model reconstructs them; weights are those of the first model."""
    drawn: dict[str, list[tuple[np.ndarray, ...]]] = {}
    for name, model in models.items():
        limit = -(-count // model.steps.mix_group)
        parts: list[tuple[np.ndarray, ...]] = []
        for group, valid in groups(model, source, nodata=nodata, limit=limit):
            images = (group.original_db, group.mixed_db, group.weight_map, group.prediction_db)
            parts += zip(*(np.asarray(part)[valid] for part in images), strict=True)
        drawn[name] = parts[:count]
    first = next(iter(drawn.values()))
    return [
        Sample(
            str(source[number]["patch_id"]),
            original,
            mixed,
            weights,
            {name: parts[number][3] for name, parts in drawn.items()},
        )
        for number, (original, mixed, weights, _) in enumerate(first)
    ]
