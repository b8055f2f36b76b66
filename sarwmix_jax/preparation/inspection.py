"""Looking at a record set: counts, statistics beside the published ones, every check."""

import dataclasses
import math
from dataclasses import dataclass
from pathlib import Path

from sarwmix_jax.data.records import Contract, read_contract
from sarwmix_jax.data.sources import RecordSource, check_contract, open_records
from sarwmix_jax.errors import UserError
from sarwmix_jax.facts.bands import STATISTICS
from sarwmix_jax.preparation.statistics import Summary, summarise

_DIGITS = 1e-6
_PERCENTILES = (1, 50, 99)


@dataclass(frozen=True)
class Inspection:
    """What was found in a record set.

    Attributes:
        contract: Its promise.
        sources: Its splits.
        summaries: What each split holds.
        failures: Checks that failed, each in one line.
    """

    contract: Contract
    sources: dict[str, RecordSource]
    summaries: dict[str, Summary]
    failures: tuple[str, ...]


def inspect(folder: Path, workers: int = 1) -> Inspection:
    """Read a whole record set and check it.

    Raises:
        UserError: It cannot be read.
    """
    contract = read_contract(folder)
    sources = {split: open_records(folder, split) for split in contract.records}
    summaries = {split: summarise(source, workers) for split, source in sources.items()}
    failures = []
    for split, source in sources.items():
        try:
            check_contract(source)
        except UserError as error:
            failures.append(str(error))
        failures += _check_promise(contract, split, summaries[split])
    return Inspection(contract, sources, summaries, tuple(failures))


def _check_promise(contract: Contract, split: str, summary: Summary) -> list[str]:
    """Where the values of a split are not what the contract says."""
    failures = []
    if summary.records != contract.records[split]:
        failures.append(f"split {split} holds {summary.records} records, the contract says {contract.records[split]}")
    for number, band in enumerate(contract.bands):
        found = summary.band(number)
        if found.not_finite:
            failures.append(f"split {split}: {found.not_finite} values of {band} are NaN or infinite")
        if contract.statistics is not None and split == contract.statistics_split:
            for name, promised in dataclasses.asdict(contract.statistics).items():
                value = found.mean if name == "mean_db" else found.std
                if not math.isclose(value, promised[number], rel_tol=_DIGITS, abs_tol=_DIGITS):
                    failures.append(
                        f"split {split}: {name} of {band} is {value:.6f}, the contract says {promised[number]:.6f}"
                    )
    return failures


def as_text(inspection: Inspection) -> str:
    """The report as text."""
    contract = inspection.contract
    shape = f"{contract.height}x{contract.width}"
    lines = [
        f"{contract.name} {contract.version}: {contract.source}",
        f"  {', '.join(contract.bands)} {contract.quantity} in {contract.unit}, {shape} pixels"
        + (", validity mask" if contract.has_valid_pixels else "")
        + (", georeferenced" if contract.georeferenced else ""),
        "",
        *_records(inspection),
        "",
        *_statistics(inspection),
    ]
    if contract.classes:
        lines += ["", *_classes(inspection)]
    lines += ["", *(f"FAILED {failure}" for failure in inspection.failures)]
    if not inspection.failures:
        lines.append("all checks passed")
    return "\n".join(lines)


def _records(inspection: Inspection) -> list[str]:
    total = sum(summary.records for summary in inspection.summaries.values())
    counts = (f"{split} {summary.records}" for split, summary in inspection.summaries.items())
    return [f"records: {', '.join(counts)}; {total} in all"]


def _statistics(inspection: Inspection) -> list[str]:
    head = ["mean", "std", *(f"{share}%" for share in _PERCENTILES), "nodata"]
    lines = [f"{inspection.contract.unit:<28}" + "".join(f"{text:>10}" for text in head)]
    for split, summary in inspection.summaries.items():
        for number, name in enumerate(inspection.contract.bands):
            band = summary.band(number)
            numbers = [band.mean, band.std, *band.percentiles(_PERCENTILES)]
            texts = "".join(f"{value:10.4f}" for value in numbers)
            lines.append(f"{split + ' ' + name:<28}{texts}{band.nodata_share:10.3%}")
    if inspection.contract.unit == "dB":
        for source, published in STATISTICS.items():
            for name, mean, std in zip(inspection.contract.bands, published.mean_db, published.std_db, strict=True):
                lines.append(f"{'published ' + source + ' ' + name:<28}{mean:10.4f}{std:10.4f}")
    return lines


def _classes(inspection: Inspection) -> list[str]:
    summaries = inspection.summaries
    width = max(map(len, inspection.contract.classes))
    lines = [f"{'records with class':<{width}}" + "".join(f"{split:>20}" for split in summaries)]
    for number, name in enumerate(inspection.contract.classes):
        cells = (_share(int(s.classes[number]), s.records) for s in summaries.values())
        lines.append(f"{name:<{width}}" + "".join(f"{cell:>20}" for cell in cells))
    cells = (_share(summary.unlabelled, summary.records) for summary in summaries.values())
    return [*lines, f"{'(none)':<{width}}" + "".join(f"{cell:>20}" for cell in cells)]


def _share(count: int, total: int) -> str:
    return f"{count} ({count / total:.1%})"
