"""Exact statistics of records in one pass: counts of every value that float16 can represent.

Sums of integer counts do not depend on the order, so that any number of workers gives the same digits.
"""

import dataclasses
import functools
import math
import operator
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from jaxtyping import Float16, Float64, Int64

from sarwmix_jax.data.records import STORED_DTYPE
from sarwmix_jax.data.sources import RecordSource
from sarwmix_jax.preparation.workers import run_tasks

_CODES = 2**16
_VALUES = np.arange(_CODES, dtype=np.uint16).view(STORED_DTYPE).astype(np.float64)
_FINITE = np.isfinite(_VALUES)
_BATCH = 64
_RECORDS_PER_TASK = 1024


@dataclass(frozen=True)
class Summary:
    """Counts of the values of records; summaries of parts can be added.

    Attributes:
        records: Number of records.
        pixels: Number of pixels of one band, nodata included.
        counts: Number of valid values of each band by float16 code (band, 65536).
        classes: Number of records with each class.
        unlabelled: Number of records without any class.
    """

    records: int
    pixels: int
    counts: Int64[np.ndarray, "band code"]
    classes: Int64[np.ndarray, " class"]
    unlabelled: int

    def __add__(self, other: "Summary") -> "Summary":
        names = [field.name for field in dataclasses.fields(self)]
        return Summary(**{name: getattr(self, name) + getattr(other, name) for name in names})

    def band(self, number: int) -> "BandSummary":
        """Statistics of band `number`."""
        counts = self.counts[number]
        chosen = _FINITE & (counts > 0)
        values, weights = _VALUES[chosen], counts[chosen]
        valid, mean, std = int(weights.sum()), math.nan, math.nan
        if valid:
            mean = math.fsum(values * weights) / valid
            std = math.sqrt(math.fsum(np.square(values - mean) * weights) / valid)
        nodata_share = 1 - valid / self.pixels if self.pixels else 0.0
        return BandSummary(values, weights, valid, int(counts[~_FINITE].sum()), nodata_share, mean, std)


class BandSummary(NamedTuple):
    """Statistics of one band.

    Attributes:
        values: The finite values that occur.
        weights: How often each of them occurs.
        valid: Number of finite values.
        not_finite: NaN and infinite values among the pixels that count as valid.
        nodata_share: Share of pixels without a value.
        mean: Mean of the finite values; NaN without any.
        std: Population standard deviation of the finite values; NaN without any.
    """

    values: Float64[np.ndarray, " value"]
    weights: Int64[np.ndarray, " value"]
    valid: int
    not_finite: int
    nodata_share: float
    mean: float
    std: float

    def percentiles(self, shares: Sequence[float]) -> list[float]:
        """For each share (0 to 100) the smallest stored value that is not below this share of values; else NaN."""
        if not self.valid:
            return [math.nan] * len(shares)
        found: list[float] = np.percentile(self.values, shares, method="inverted_cdf", weights=self.weights).tolist()
        return found

    def cells(self, shares: Sequence[float]) -> list[str]:
        """Mean, standard deviation, percentiles and nodata share for a table."""
        numbers = [self.mean, self.std, *self.percentiles(shares)]
        return [*(f"{number:.4f}" for number in numbers), f"{self.nodata_share:.3%}"]

    def histogram(self, edges: np.ndarray) -> np.ndarray:
        """Values in each bin between `edges` (ascending)."""
        return np.histogram(self.values, edges, weights=self.weights)[0]


def statistics_head(shares: Sequence[float]) -> list[str]:
    """Headings of `BandSummary.cells`."""
    return ["mean", "std", *(f"{share}%" for share in shares), "nodata"]


def table(rows: Sequence[Sequence[str]], width: int) -> list[str]:
    """Lines of a text table: the first column left-aligned and as wide as needed, the others `width` wide."""
    first = max(len(row[0]) for row in rows)
    return [f"{name:<{first}}" + "".join(f"{cell:>{width}}" for cell in cells) for name, *cells in rows]


def empty_summary(bands: int, classes: int) -> Summary:
    """The summary of no records."""
    return Summary(0, 0, np.zeros((bands, _CODES), np.int64), np.zeros(classes, np.int64), 0)


def count_values(images: Float16[np.ndarray, "n band h w"], valid: np.ndarray | None = None) -> np.ndarray:
    """Counts of every value by band, (band, 65536), over the pixels that are `valid` (n, h, w)."""
    codes = np.ascontiguousarray(images).view(np.uint16)
    chosen = ((band if valid is None else band[valid]).ravel() for band in codes.swapaxes(0, 1))
    return np.stack([np.bincount(band, minlength=_CODES) for band in chosen])


def _summarise_part(source: RecordSource, indices: range) -> Summary:
    contract = source.contract
    total = empty_summary(len(contract.bands), len(contract.classes))
    for start in range(0, len(indices), _BATCH):
        some = indices[start : start + _BATCH]
        batch = source.read_batch(some)
        labels = batch.get("labels", np.zeros((len(some), 0), np.uint8))
        total += Summary(
            len(some),
            len(some) * contract.height * contract.width,
            count_values(batch["image"], batch.get("valid_pixels")),
            labels.sum(axis=0, dtype=np.int64),
            int((labels.sum(axis=1) == 0).sum()),
        )
    return total


def summarise(source: RecordSource, workers: int = 1) -> Summary:
    """Read every record of a source once.

    Raises:
        UserError: A record cannot be read.
    """
    everything = range(len(source))
    parts = [everything[first : first + _RECORDS_PER_TASK] for first in everything[::_RECORDS_PER_TASK]]
    tasks = [(functools.partial(_summarise_part, source, part), len(part)) for part in parts]
    summaries = run_tasks(tasks, workers, f"reading {source.contract.name} {source.split}", total=len(source))
    return functools.reduce(operator.add, summaries)
