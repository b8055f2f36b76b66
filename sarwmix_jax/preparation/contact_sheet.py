"""One picture of a record set: samples in dB with their labels, histograms, class balance."""

import io
import os
import textwrap
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure, SubFigure

from sarwmix_jax.data.sources import RecordSource
from sarwmix_jax.preparation.inspection import Inspection
from sarwmix_jax.preparation.writer import write_bytes, writing_errors

_ACROSS = 4
_EDGES_DB = np.linspace(-60, 20, 161)
_DPI = 110
_SHOWN_PERCENTILES = (1, 99)


def write_contact_sheet(inspection: Inspection, path: Path, samples: int = 12) -> None:
    """Draw `samples` records, spread over the first split, and the distributions of all splits.

    Args:
        inspection: What was found.
        path: PNG file to make.
        samples: Records to draw; each as VH and VV side by side, on the grey scale of its band.
    """
    split, source = next(iter(inspection.sources.items()))
    chosen = np.unique(np.linspace(0, len(source) - 1, min(samples, len(source))).astype(int))
    rows = -(-len(chosen) // _ACROSS)
    figure = Figure(figsize=(4 * _ACROSS, 2.6 * rows + 5.5), layout="constrained")
    top, bottom = np.asarray(figure.subfigures(2, 1, height_ratios=(5.5, 2.6 * rows)))
    _draw_distributions(inspection, top)
    _draw_samples(inspection, split, source, chosen, bottom.subplots(rows, 2 * _ACROSS, squeeze=False))
    contract = inspection.contract
    figure.suptitle(f"{contract.name} {contract.version}: {contract.quantity}, {contract.unit}; samples of {split}")
    FigureCanvasAgg(figure)
    png = io.BytesIO()
    figure.savefig(png, format="png", dpi=_DPI)
    with writing_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
    write_bytes(path, png.getbuffer(), f".{os.getpid()}")


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
            place = axes[row, 2 * column + number]
            image = record["image"][number].astype(np.float32)
            if "valid_pixels" in record:
                image = np.where(record["valid_pixels"], image, np.nan)
            low, high = ranges[number]
            place.imshow(image, cmap="gray", vmin=low, vmax=high)
            place.text(0.02, 0.98, f"{band} {low:.0f} to {high:.0f}", transform=place.transAxes, **_NOTE)
        axes[row, 2 * column].set_title(_title(record, contract.classes), fontsize=6, loc="left")


_NOTE = {"va": "top", "fontsize": 7, "color": "white", "bbox": {"color": "black", "pad": 1}}


def _title(record: dict, classes: tuple[str, ...]) -> str:
    labels = [textwrap.shorten(name, 30, placeholder=" ...") for n, name in enumerate(classes) if record["labels"][n]]
    name = record["patch_id"]
    shown = name if len(name) <= 48 else f"...{name[-45:]}"
    return "\n".join([shown, *textwrap.wrap(", ".join(labels), 60)[:3]])
