"""The real samples beside the repository, for tests."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import rasterio

from sarwmix_jax.data.records import Contract, Record
from sarwmix_jax.facts.bands import BANDS
from sarwmix_jax.preparation.to_db import record_from_power
from tests.record_sets import write_records

SHARED_DATA = Path(__file__).parents[3] / "shared" / "data"
needs_shared_data = pytest.mark.skipif(not SHARED_DATA.is_dir(), reason=f"no sample data at {SHARED_DATA}")
OPERA_VALIDATION_PLACES = ("292319-IW1", "292322-IW2")
"""One place of sea, and of the four places of land the one with parcels: dark ones with straight edges.

Of the ten places six are open sea (all 292318 and the other IW1); of the others 292319-IW2 is a town with roads,
292320-IW2 and 292321-IW2 are mountains. None holds a shore, a lake or a river.
"""


def read_pair(vh: Path) -> np.ndarray:
    """(band, rows, columns) float32 of the files `..._VH.tif` and `..._VV.tif`."""
    bands = []
    for band in BANDS:
        with rasterio.open(vh.with_name(vh.name.replace("_VH.tif", f"_{band}.tif"))) as file:
            bands.append(file.read(1))
    return np.stack(bands)


def bigearthnet_pairs() -> list[Path]:
    """The `_VH.tif` of all BigEarthNet samples (dB)."""
    return sorted(SHARED_DATA.glob("bigearthnet_v[12]/**/*_VH.tif"))


def opera_pairs() -> list[Path]:
    """The `_VH.tif` of all OPERA samples (linear gamma0)."""
    return sorted(SHARED_DATA.glob("opera_rtc_s1/*/*_VH.tif"))


def opera_place(path: Path) -> str:
    return path.name.split("T137-")[1][:10]


def opera_record(path: Path) -> Record:
    return record_from_power(read_pair(path), f"{path.parent.name}_{opera_place(path)}")


def write_opera_records(out: Path) -> Contract:
    """All OPERA samples as records in dB, two of the ten places for validation."""
    contract = Contract(
        name="opera_rtc_s1",
        version="1.0.0",
        source="OPERA RTC-S1 crops of ten places, 30 m",
        quantity="gamma0",
        height=100,
        width=100,
        has_valid_pixels=True,
    )

    def records(validation: bool) -> Iterator[Record]:
        for path in opera_pairs():
            if (opera_place(path) in OPERA_VALIDATION_PLACES) == validation:
                yield opera_record(path)

    return write_records(out, contract, {"train": records(False), "validation": records(True)})
