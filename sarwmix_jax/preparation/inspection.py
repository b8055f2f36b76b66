"""Inspection of a record set: counts, statistics beside published ones, all checks, and a contact sheet."""

import dataclasses
import io
import math
import textwrap
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure, SubFigure

from sarwmix_jax.data.records import Contract, Expectation, read_contract
from sarwmix_jax.data.sources import RecordSource, check_contract, open_records
from sarwmix_jax.errors import UserError
from sarwmix_jax.facts.bands import BANDS, STATISTICS
from sarwmix_jax.preparation.statistics import Summary, statistics_head, summarise, table
from sarwmix_jax.preparation.writer import write_file, writing_errors

_DIGITS = 1e-6
_PERCENTILES = (1, 50, 99)
_ACROSS = 4
_EDGES_DB = np.linspace(-60, 20, 161)
_DPI = 110
_SHOWN_PERCENTILES = (1, 99)
Summaries = Mapping[str, Summary]


@dataclass(frozen=True)
class Inspection:
    """Result of the inspection of a record set.

    Attributes:
        contract: Its contract.
        sources: Its splits.
        summaries: Summary of each split.
        failures: Checks that failed, one line each.
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
            check_contract(source, Expectation(bands=_known_order(contract.bands)))
        except UserError as error:
            failures.append(str(error))
        failures += _check_promise(contract, split, summaries[split])
    return Inspection(contract, sources, summaries, tuple(failures))


def _known_order(bands: tuple[str, ...]) -> tuple[str, ...]:
    """The project's order of these bands; other bands may be in any order."""
    return BANDS if set(bands) == set(BANDS) else bands


def _check_promise(contract: Contract, split: str, summary: Summary) -> list[str]:
    """Differences of a split's values from the contract."""
    failures = []
    if summary.records != contract.records[split]:
        failures.append(f"split {split} holds {summary.records} records, the contract states {contract.records[split]}")
    for number, band in enumerate(contract.bands):
        found = summary.band(number)
        if found.not_finite:
            failures.append(f"split {split}: {found.not_finite} values of {band} are NaN or infinite")
        if contract.statistics is not None and split == contract.statistics_split:
            for name, promised in dataclasses.asdict(contract.statistics).items():
                value = found.mean if name == "mean_db" else found.std
                if not math.isclose(value, promised[number], rel_tol=_DIGITS, abs_tol=_DIGITS):
                    failures.append(
                        f"split {split}: {name} of {band} is {value:.6f}, the contract states {promised[number]:.6f}"
                    )
    return failures


def as_text(inspection: Inspection) -> str:
    """The report as text."""
    contract, summaries = inspection.contract, inspection.summaries
    promises = (
        ", validity mask" if contract.has_valid_pixels else "",
        ", georeferenced" if contract.georeferenced else "",
    )
    shape = f"{contract.height}x{contract.width} pixels"
    counts = ", ".join(f"{split} {summary.records}" for split, summary in summaries.items())
    return "\n".join(
        [
            f"{contract.name} {contract.version}: {contract.source}",
            f"  {', '.join(contract.bands)} {contract.quantity} in {contract.unit}, {shape}{''.join(promises)}",
            "",
            f"records: {counts}; {sum(summary.records for summary in summaries.values())} in all",
            "",
            *table(_statistics(contract, summaries), 10),
            "",
            *([*table(_classes(contract, summaries), 20), ""] if contract.classes else []),
            *(f"FAILED {failure}" for failure in inspection.failures),
            *([] if inspection.failures else ["all checks passed"]),
        ]
    )


def _statistics(contract: Contract, summaries: Summaries) -> list[list[str]]:
    rows = [[contract.unit, *statistics_head(_PERCENTILES)]]
    for split, summary in summaries.items():
        rows += [[f"{split} {b}", *summary.band(n).cells(_PERCENTILES)] for n, b in enumerate(contract.bands)]
    if (contract.unit, contract.bands) == ("dB", BANDS):
        for source, published in STATISTICS.items():
            for band, *numbers in zip(BANDS, published.mean_db, published.std_db, strict=True):
                rows.append([f"published {source} {band}", *(f"{number:.4f}" for number in numbers)])
    return rows


def _classes(contract: Contract, summaries: Summaries) -> list[list[str]]:
    rows = [["records with class", *summaries]]
    for number, name in enumerate((*contract.classes, "(none)")):
        found = ((int([*s.classes, s.unlabelled][number]), s.records) for s in summaries.values())
        rows.append([name, *(f"{count} ({count / total:.1%})" for count, total in found)])
    return rows


def write_contact_sheet(inspection: Inspection, path: Path, samples: int = 12) -> None:
    """Draw `samples` records, spread over the first split, and the distributions of all splits.

    Args:
        inspection: Result of `inspect`.
        path: PNG file to write.
        samples: Number of records to draw; each with its bands side by side, on a common grey scale per band.
    """
    contract = inspection.contract
    split, source = next(iter(inspection.sources.items()))
    chosen = np.unique(np.linspace(0, len(source) - 1, min(samples, len(source))).astype(int))
    rows = -(-len(chosen) // _ACROSS)
    figure = Figure(figsize=(4 * _ACROSS, 2.6 * rows + 5.5), layout="constrained")
    top, bottom = np.asarray(figure.subfigures(2, 1, height_ratios=(5.5, 2.6 * rows)))
    _draw_distributions(inspection, top)
    axes = bottom.subplots(rows, len(contract.bands) * _ACROSS, squeeze=False)
    _draw_samples(inspection, split, source, chosen, axes)
    figure.suptitle(f"{contract.name} {contract.version}: {contract.quantity}, {contract.unit}; samples of {split}")
    FigureCanvasAgg(figure)
    png = io.BytesIO()
    figure.savefig(png, format="png", dpi=_DPI)
    with writing_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
    write_file(path, png.getbuffer())


def _draw_distributions(inspection: Inspection, figure: SubFigure) -> None:
    contract = inspection.contract
    axes = figure.subplots(1, 2 if contract.classes else 1, squeeze=False)[0]
    for split, summary in inspection.summaries.items():
        for number, band in enumerate(contract.bands):
            found = summary.band(number)
            edges = _EDGES_DB if contract.unit == "dB" else np.linspace(0, found.percentiles([99])[0] or 1, 161)
            share = found.histogram(edges) / max(found.valid, 1) / np.diff(edges)
            line = ("-", "--", ":")[list(inspection.summaries).index(split) % 3]
            axes[0].stairs(share, edges, color=f"C{number}", linestyle=line, label=f"{split} {band}")
    axes[0].set_xlabel(f"{contract.quantity} ({contract.unit})")
    axes[0].set_ylabel(f"share per {contract.unit}")
    axes[0].legend()
    if contract.classes:
        _draw_classes(inspection, axes[1])


def _draw_classes(inspection: Inspection, axes: Axes) -> None:
    names = [textwrap.shorten(name, 42, placeholder=" ...") for name in inspection.contract.classes]
    places = np.arange(len(names))
    count = len(inspection.summaries)
    for number, (split, summary) in enumerate(inspection.summaries.items()):
        share = 100 * summary.classes / max(summary.records, 1)
        axes.barh(places + (number - (count - 1) / 2) * 0.8 / count, share, 0.8 / count, label=split)
    axes.set_yticks(places, names, fontsize=7)
    axes.invert_yaxis()
    axes.set_xlabel("records with the class (%)")
    axes.legend()


def _draw_samples(
    inspection: Inspection, split: str, source: RecordSource, chosen: np.ndarray, axes: np.ndarray
) -> None:
    contract = inspection.contract
    ranges = [inspection.summaries[split].band(n).percentiles(_SHOWN_PERCENTILES) for n in range(len(contract.bands))]
    for place in axes.ravel():
        place.set_axis_off()
    for position, index in enumerate(chosen):
        record = source[int(index)]
        row, column = divmod(position, _ACROSS)
        for number, band in enumerate(contract.bands):
            place = axes[row, len(contract.bands) * column + number]
            image = record["image"][number].astype(np.float32)
            if "valid_pixels" in record:
                image = np.where(record["valid_pixels"], image, np.nan)
            low, high = ranges[number]
            place.imshow(image, cmap="gray", vmin=low, vmax=high)
            place.text(0.02, 0.98, f"{band} {low:.0f} to {high:.0f}", transform=place.transAxes, **_NOTE)
        axes[row, len(contract.bands) * column].set_title(_title(record, contract.classes), fontsize=6, loc="left")


_NOTE = {"va": "top", "fontsize": 7, "color": "white", "bbox": {"color": "black", "pad": 1}}


def _title(record: dict, classes: tuple[str, ...]) -> str:
    labels = [textwrap.shorten(name, 30, placeholder=" ...") for n, name in enumerate(classes) if record["labels"][n]]
    name = record["patch_id"]
    shown = name if len(name) <= 48 else f"...{name[-45:]}"
    return "\n".join([shown, *textwrap.wrap(", ".join(labels), 60)[:3]])
