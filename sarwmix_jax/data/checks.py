"""Does a record set hold what a run expects? Checked from its contract and from the values themselves."""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

from sarwmix_jax.data.sources import RecordSource
from sarwmix_jax.errors import UserError
from sarwmix_jax.facts.bands import BANDS, BandStatistics

SAMPLES = 64
# Sentinel-1 stays inside (single values after noise removal reach -103 dB over sea; corner reflectors +35 dB), fill
# values such as -9999 far outside.
LOWEST_DB, HIGHEST_DB = -200.0, 60.0
# VH lies some 4 to 13 dB below VV on land and sea, and nowhere clearly above it: where both bands see only noise, as
# over a calm sea, the difference goes to zero.
SWAPPED_DB = -1.0
_FAR_DEVIATIONS = 3.0


@dataclass(frozen=True)
class Expectation:
    """What a run expects of its records; None is not checked.

    Attributes:
        bands: Polarisations in order.
        unit: `dB` or `linear`.
        quantity: `sigma0`, `gamma0` or `beta0`.
        side: Rows and columns of an image.
        classes: Class names in label order.
        statistics: Mean and deviation with which the run standardises.
    """

    bands: tuple[str, ...] = BANDS
    unit: str = "dB"
    quantity: str | None = None
    side: int | None = None
    classes: tuple[str, ...] | None = None
    statistics: BandStatistics | None = None


def check_contract(source: RecordSource, expected: Expectation | None = None, samples: int = SAMPLES) -> None:
    """Check a record set against what a run expects, from its metadata and from a sample of its values.

    Args:
        source: The records.
        expected: What the run expects; by default VH and VV in dB.
        samples: Records whose values are looked at, spread evenly.

    Raises:
        UserError: One line that says what was found, where, and how to mend it.
    """
    expected = expected or Expectation()
    _check_metadata(source, expected)
    indices = np.unique(np.linspace(0, len(source) - 1, min(samples, len(source))).astype(int))
    batch = source.read_batch(indices)
    images = batch["image"].astype(np.float32)
    if "valid_pixels" in batch:
        images = np.where(batch["valid_pixels"][:, None], images, np.nan)
        _check_finite(source, indices, batch["image"])
    else:
        _check_finite(source, indices, images)
    _check_values(source, indices, images)


def _check_metadata(source: RecordSource, expected: Expectation) -> None:
    found = source.contract
    where = f"records {source.folder}"
    if found.bands != expected.bands:
        raise UserError(
            f"{where}: bands are {', '.join(found.bands)}, expected {', '.join(expected.bands)}; "
            "prepare the records again with the bands in that order"
        )
    if found.unit != expected.unit:
        raise UserError(f"{where}: values are {found.unit}, expected {expected.unit}; convert them while preparing")
    if expected.quantity is not None and found.quantity != expected.quantity:
        raise UserError(
            f"{where}: values are {found.quantity}, expected {expected.quantity}; use records of that quantity, or "
            "change the expectation"
        )
    if expected.side is not None and found.shape[1:] != (expected.side, expected.side):
        raise UserError(
            f"{where}: images are {found.height}x{found.width} pixels, expected {expected.side}x{expected.side}; "
            "prepare them at that size"
        )
    if expected.classes is not None and found.classes != expected.classes:
        raise UserError(
            f"{where}: labels are {len(found.classes)} classes, expected {len(expected.classes)} named otherwise or in "
            "another order; prepare them with the classes of the run"
        )
    if expected.statistics is not None and found.statistics is not None:
        _check_statistics(where, found.bands, found.statistics, expected.statistics)


def _check_statistics(where: str, bands: tuple[str, ...], found: BandStatistics, expected: BandStatistics) -> None:
    for band, mean, wanted, std in zip(bands, found.mean_db, expected.mean_db, expected.std_db, strict=True):
        if abs(mean - wanted) > _FAR_DEVIATIONS * std:
            raise UserError(
                f"{where}: {band} has mean {mean:.1f} dB, more than {_FAR_DEVIATIONS:g} deviations from the "
                f"{wanted:.1f} dB it is standardised with; use the record set's own statistics"
            )


def _check_finite(source: RecordSource, indices: np.ndarray, images: np.ndarray) -> None:
    broken = ~np.isfinite(images)
    if broken.any():
        row, band, *_ = np.argwhere(broken)[0]
        raise UserError(
            f"{_record(source, indices[row])}: {source.contract.bands[band]} holds NaN or infinite values; prepare the "
            "records again, which fills or refuses them"
        )


def _check_values(source: RecordSource, indices: np.ndarray, images: Float[np.ndarray, "n band h w"]) -> None:
    """Check images, NaN where not valid, for linear values, fill values and swapped bands."""
    kept = np.isfinite(images).any(axis=(1, 2, 3))
    indices, images = indices[kept], images[kept]
    lowest, highest = np.nanmin(images, axis=(1, 2, 3)), np.nanmax(images, axis=(1, 2, 3))
    medians = np.nanmedian(images, axis=(2, 3))
    for index, low, high, median in zip(indices, lowest, highest, medians[:, 0], strict=True):
        where = _record(source, index)
        if low >= 0:
            raise UserError(
                f"{where}: values from {low:.3g} to {high:.3g}, none negative: linear power, not dB; convert with "
                "10*log10 while preparing"
            )
        if low < LOWEST_DB or high > HIGHEST_DB:
            raise UserError(
                f"{where}: values from {low:.4g} to {high:.4g} are no backscatter in dB; mask nodata and check the "
                "unit while preparing"
            )
        if median >= 0:
            raise UserError(
                f"{where}: {source.contract.bands[0]} has median {median:.2f}, but backscatter in dB is negative; give "
                "the records in dB, not standardised or scaled"
            )
    if len(images):
        _check_band_order(source, medians)


def _check_band_order(source: RecordSource, medians: Float[np.ndarray, "n band"]) -> None:
    if source.contract.bands != BANDS:
        return
    difference = float(np.median(medians[:, 1] - medians[:, 0]))
    if difference < SWAPPED_DB:
        raise UserError(
            f"records {source.folder}, split {source.split}: VH lies {-difference:.1f} dB above VV (median of "
            f"{len(medians)} records), but is always below: the bands are swapped; swap them while preparing"
        )


def _record(source: RecordSource, index: int) -> str:
    return f"records {source.folder}, {source[int(index)]['patch_id']}"
