"""The record sets of a run: opened, checked against its settings, described."""

from pathlib import Path
from typing import Any

import numpy as np

from sarwmix_jax.data.records import Expectation
from sarwmix_jax.data.sources import RecordSource, check_contract, open_records
from sarwmix_jax.errors import UserError
from sarwmix_jax.facts.bands import STATISTICS, BandStatistics
from sarwmix_jax.settings import PretrainingSettings
from sarwmix_jax.training.plan import RECORDS


def open_all(settings: PretrainingSettings, split: str) -> tuple[RecordSource, ...]:
    """One split of every record set of the run, checked against what the run expects.

    Raises:
        UserError: a set is missing, holds other bands, units, quantities or values than it should, or lacks the masks
            that the nodata-aware mode needs.
    """
    sources = tuple(open_records(Path(folder), split) for folder in settings.data.records)
    expected = Expectation(quantity=settings.data.quantity)
    standardised = Expectation(statistics=STATISTICS.get(settings.data.statistics))
    for folder, source in zip(settings.data.records, sources, strict=True):
        check_contract(source, expected)  # what the values are comes before how they are standardised
        check_contract(source, standardised, samples=1)
        if settings.data.nodata_aware and not source.contract.has_valid_pixels:
            raise UserError(f"data.nodata_aware is set, but the records in {folder} carry no masks; unset it")
    return sources


def band_statistics(settings: PretrainingSettings, sources: tuple[RecordSource, ...]) -> BandStatistics:
    """The statistics that standardise the run's images.

    Raises:
        UserError: those of the record set are asked for, and it has none, or there are several sets.
    """
    if settings.data.statistics != RECORDS:
        return STATISTICS[settings.data.statistics]
    contracts = [source.contract for source in sources]
    if len(contracts) > 1:
        raise UserError("data.statistics is 'records', but there are several record sets; name published statistics")
    if contracts[0].statistics is None:
        raise UserError(
            f"data.statistics is 'records', but {settings.data.records[0]} states none; "
            f"use one of {', '.join(sorted(STATISTICS))}"
        )
    return contracts[0].statistics


def describe_sources(settings: PretrainingSettings, sources: tuple[RecordSource, ...]) -> dict[str, Any]:
    """Origin of a run's data, for its checkpoints."""
    sets = [
        {
            "folder": folder,
            "name": source.contract.name,
            "version": source.contract.version,
            "source": source.contract.source,
            "quantity": source.contract.quantity,
            "records": len(source),
        }
        for folder, source in zip(settings.data.records, sources, strict=True)
    ]
    return {"split": settings.data.split, "sets": sets}


def record_names(sources: tuple[RecordSource, ...], numbers: np.ndarray) -> list[str]:
    """Patch ids of record numbers, which count through all sets."""
    firsts = np.cumsum([0, *(len(source) for source in sources)])
    names = []
    for number in numbers:
        which = int(np.searchsorted(firsts, number, side="right")) - 1
        names.append(str(sources[which][int(number - firsts[which])]["patch_id"]))
    return names
