"""Pictures of a pretraining run: loss curve, reconstructions, and reconstruction against truth."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Bool, Float, Shaped
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.collections import LineCollection
from matplotlib.colors import LogNorm
from matplotlib.figure import Figure

from sarwmix_jax.evaluation.held_out import HISTOGRAM_EDGES, HeldOut
from sarwmix_jax.facts.bands import BANDS, BandStatistics
from sarwmix_jax.settings.model import CELL

Image = Float[np.ndarray, "band height width"]
Cells = Bool[np.ndarray, "rows columns"]
NAME_LENGTH = 34
OUTLINE = "#ff7f0e"

BORROWED = "a cell's mean and standard deviation are taken from the truth (norm_pix): only its pattern is predicted"


@dataclass(frozen=True)
class Sample:
    """One held-out image to draw; images in dB, bands in the order of `BANDS`.

    Attributes:
        name: Patch id.
        original: The image.
        mixed: Input of the encoder: the image mixed with its partner.
        hidden: Cells of the mixed input that are the partner's.
        weights: Weight of every pixel in the loss.
        reconstructions: Reconstruction by checkpoint; every cell from the sequence that did not contain it.
        inpainted: The same by harmonic in-painting, where it is to be shown.
    """

    name: str
    original: Image
    mixed: Image
    hidden: Cells
    weights: Image
    reconstructions: Mapping[str, Image]
    inpainted: Image | None = None


def short_name(name: str, length: int = NAME_LENGTH) -> str:
    """A name of at most `length` characters; longer names are shortened in the middle, as names differ at the end."""
    if len(name) <= length:
        return name
    tail = (length - 1) // 2
    return f"{name[: length - 1 - tail].rstrip(' ,')}…{name[len(name) - tail :].lstrip(' ,')}"


def draw_loss(
    path: Path, train: Sequence[Mapping[str, Any]], validation: Sequence[Mapping[str, Any]], constant: float | None
) -> None:
    """Training and validation loss by epoch, with the held-out loss of the constant prediction as a line."""
    figure = Figure(figsize=(7, 4.2), layout="constrained")
    axes = figure.subplots()
    axes.plot([e["epoch"] for e in train], [e["loss"] for e in train], label="training", color="tab:blue")
    if validation:
        epochs, losses = zip(*((entry["epoch"], entry["loss"]) for entry in validation), strict=True)
        axes.plot(epochs, losses, "o-", label="held-out records, fixed masks", color="tab:orange")
    if constant is not None:
        axes.axhline(constant, linestyle="--", color="grey", label="best constant prediction, held-out records")
    axes.set(xlabel="epoch", ylabel="weighted loss", title="Pretraining loss")
    axes.grid(alpha=0.3)
    axes.legend()
    write(figure, path)


def draw_reconstructions(
    path: Path, samples: Sequence[Sample], *, borrowed: bool, captions: Mapping[str, str] | None = None
) -> None:
    """Write `reconstruction_figure` as PNG."""
    write(reconstruction_figure(samples, borrowed=borrowed, captions=captions), path)


def reconstruction_figure(
    samples: Sequence[Sample], *, borrowed: bool, captions: Mapping[str, str] | None = None
) -> Figure:
    """Rows: samples and bands. Columns: what was given, what each checkpoint makes of it, its error, the weights.

    Args:
        samples: What to draw.
        borrowed: Whether the cells' mean and deviation come from the truth; the picture then states so.
        captions: By checkpoint what to write below its name, such as step and loss.
    """
    columns = _columns(samples[0], captions or {})
    rows = len(samples) * len(BANDS)
    figure = Figure(figsize=(1.9 * len(columns) + 2.0, 1.9 * rows + 0.9), layout="constrained")
    axes = figure.subplots(rows, len(columns), squeeze=False)
    for number, sample in enumerate(samples):
        for band in range(len(BANDS)):
            row = axes[number * len(BANDS) + band]
            drawn = draw_row(row, sample, band)
            row[0].set_ylabel(f"{short_name(sample.name, 24)}\n{BANDS[band]}", fontsize=7)
            bars = (("db", 0, f"{BANDS[band]} backscatter, dB"), ("error", -2, "reconstruction - original, dB"))
            for name, column, unit in (*bars, ("weight", -1, "weight")):
                bar = figure.colorbar(drawn[name], ax=row[column], location="right", aspect=14, pad=0.02, extend="both")
                bar.set_label(unit, fontsize=7)
                bar.ax.tick_params(labelsize=7)
    for axis, title in zip(axes[0], columns, strict=True):
        axis.set_title(title, fontsize=8)
    note = f"\n{BORROWED}" if borrowed else ""
    figure.suptitle(f"Outlined cells are hidden; every cell is reconstructed from the mix without it{note}", fontsize=9)
    return figure


def _columns(sample: Sample, captions: Mapping[str, str]) -> list[str]:
    """Titles of the columns, in the order in which `draw_row` fills them."""
    columns = ["original", "mixed input", "visible"]
    columns += [] if sample.inpainted is None else ["visible +\nharmonic in-painting"]
    for name in sample.reconstructions:
        own = [short_name(name, 24)] if len(sample.reconstructions) > 1 else []
        lines = [*own, *([captions[name]] if name in captions else [])]
        columns += ["\n".join(["visible + reconstruction", *lines]), "reconstruction\nof every cell", "error"]
    return [*columns, "weight in the loss"]


def draw_row(axes: Shaped[np.ndarray, " pictures"], sample: Sample, band: int) -> dict[str, Any]:
    """One band of one sample; returns the drawn images that colour bars need.

    The scale in dB is that of the original, so that contrast within a scene shows beside scenes of other levels; that
    of the weights is their own, as a few bright pixels leave all others close to the largest weight.
    """
    original, hidden = sample.original[band], np.kron(sample.hidden, np.ones((CELL, CELL))) == 1
    low, high = robust_scale(original)
    db: dict[str, Any] = {"cmap": "gray", "vmin": low, "vmax": high}
    places = iter(axes)
    drawn = {"db": next(places).imshow(original, **db)}
    given = [sample.mixed[band], np.where(hidden, np.nan, original)]
    if sample.inpainted is not None:
        given.append(np.where(hidden, sample.inpainted[band], original))
    for image in given:
        _outline(next(places), sample.hidden).imshow(image, **db)
    for reconstruction in sample.reconstructions.values():
        _outline(next(places), sample.hidden).imshow(np.where(hidden, reconstruction[band], original), **db)
        next(places).imshow(reconstruction[band], **db)
        error = reconstruction[band] - original
        drawn["error"] = _outline(next(places), sample.hidden).imshow(error, cmap="RdBu_r", vmin=-10, vmax=10)
    smallest, largest = robust_scale(sample.weights[band])
    largest = max(largest, smallest + 1e-3)
    drawn["weight"] = next(places).imshow(sample.weights[band], cmap="viridis", vmin=smallest, vmax=largest)
    for axis in axes:
        axis.set(xticks=[], yticks=[])
    return drawn


def _outline(axes: Axes, hidden: Cells) -> Axes:
    """Lines around the hidden cells."""
    framed = np.pad(hidden, 1)
    across = [[(column, row), (column + 1, row)] for row, column in np.argwhere(framed[1:, 1:-1] != framed[:-1, 1:-1])]
    down = [[(column, row), (column, row + 1)] for row, column in np.argwhere(framed[1:-1, 1:] != framed[1:-1, :-1])]
    lines = np.array(across + down).reshape(-1, 2, 2) * CELL - 0.5
    axes.add_collection(LineCollection(list(lines), colors=OUTLINE, linewidths=1.0, clip_on=False, zorder=3))
    return axes


def robust_scale(image_db: Float[np.ndarray, "height width"]) -> tuple[float, float]:
    """Scale in dB that shows all but the darkest and brightest percent."""
    low, high = np.percentile(image_db, (1, 99))
    return float(low), float(high)


def draw_correlation(path: Path, result: HeldOut, statistics: BandStatistics | None) -> None:
    """Two-dimensional histogram of reconstruction against truth per band, the correlations in its title.

    Args:
        path: File to write (PNG).
        result: What was found on held-out records.
        statistics: What standardised the images, for axes in dB; None where targets are standardised per cell, and the
            axes too, as dB would come from the truth.
    """
    figure = Figure(figsize=(9.5, 4.7), layout="constrained")
    units = "standardised per cell" if statistics is None else "dB"
    for number, (axes, name) in enumerate(zip(figure.subplots(1, len(BANDS)), BANDS, strict=True)):
        edges = HISTOGRAM_EDGES
        if statistics is not None:
            edges = edges * statistics.std_db[number] + statistics.mean_db[number]
        counts = np.ma.masked_equal(result.bands[number].histogram.T, 0)
        image = axes.pcolormesh(edges, edges, counts, norm=LogNorm(), cmap="magma")
        axes.plot(edges[[0, -1]], edges[[0, -1]], color="tab:cyan", linewidth=0.8)
        axes.set(xlabel=f"truth, {units}", ylabel=f"reconstruction, {units}", aspect="equal")
        inside = result.cells["model"][number].inside_correlation
        axes.set_title(f"{name}: correlation {result.correlations[number]:.3f}, inside cells {inside:.3f}", fontsize=10)
        figure.colorbar(image, ax=axes, label="pixels", shrink=0.8)
    figure.suptitle(f"Masked cells of {result.records:,} held-out records", fontsize=10)
    write(figure, path)


def write(figure: Figure, path: Path) -> None:
    """Save a figure as PNG."""
    path.parent.mkdir(parents=True, exist_ok=True)
    FigureCanvasAgg(figure).print_png(str(path))
