"""Reconstruction errors of one checkpoint as rows of a study."""

import dataclasses
from collections.abc import Iterator
from typing import Any

from sarwmix_jax.data.sources import RecordSource
from sarwmix_jax.evaluation.brightness import BandErrors, errors_by_brightness
from sarwmix_jax.evaluation.reconstruction import load_pretrained

MASK_SEED = 0
"""Seed of the masks and partners of every evaluation, so that all runs fill in the same cells."""


def rows_by_brightness(checkpoint: str, source: RecordSource, most: int) -> Iterator[dict[str, Any]]:
    """Scores of the reconstruction of held-out records, per band, with their thresholds.

    Args:
        checkpoint: Checkpoint of a pretraining model.
        source: Held-out records.
        most: Largest number of records.
    """
    model = load_pretrained(checkpoint)
    settings = dataclasses.replace(model.task.settings, seed=MASK_SEED)
    model = dataclasses.replace(model, task=dataclasses.replace(model.task, settings=settings))
    deviations = model.task.statistics.std_db
    found = errors_by_brightness(model, source, most)
    for band, errors, deviation_db in zip(settings.model.bands, found, deviations, strict=True):
        for score, value in _scores(errors, deviation_db):
            yield {"band": band, "score": score, "value": value}


def _scores(errors: BandErrors, deviation_db: float) -> Iterator[tuple[str, float]]:
    yield "squared_error_db2", errors.cells.mean_squared_error
    yield "squared_error_standardised", errors.cells.mean_squared_error / deviation_db**2
    yield "inside_correlation", errors.cells.inside_correlation
    for what, sums in (("pixel", errors.by_pixel), ("cell", errors.by_cell)):
        for name, limit in zip(("dark_below_db", "bright_from_db"), sums.thresholds_db, strict=True):
            yield f"{what}_{name}", limit
        for part, (squared_db2, bias_db, _) in sums.parts.items():
            yield f"{what}_{part}_squared_error_db2", squared_db2
            yield f"{what}_{part}_squared_error_standardised", squared_db2 / deviation_db**2
            yield f"{what}_{part}_mean_error_db", bias_db
