"""Pictures of a pretraining run: loss curve, reconstructions, and reconstruction against truth."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float, Shaped
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import LogNorm
from matplotlib.figure import Figure

from sarwmix_jax.evaluation.held_out import HISTOGRAM_EDGES, HeldOut
from sarwmix_jax.facts.bands import BANDS

Image = Float[np.ndarray, "band height width"]

BORROWED = "a cell's mean and standard deviation are taken from the truth (norm_pix): only its pattern is predicted"


@dataclass(frozen=True)
class Sample:
    """One held-out image to draw; images in dB, bands in the order of `BANDS`.

    Attributes:
        name: Patch id.
        original: The image.
        mixed: Input of the encoder: the image mixed with its partner.
        weights: Weight of every pixel in the loss.
        reconstructions: Reconstruction by checkpoint; every cell from the sequence that did not contain it.
    """

    name: str
    original: Image
    mixed: Image
    weights: Image
    reconstructions: Mapping[str, Image]


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


def draw_reconstructions(path: Path, samples: Sequence[Sample], *, borrowed: bool) -> None:
    """Rows: samples and bands. Columns: original, mixed input, weights, then per checkpoint reconstruction and error.

    Args:
        path: File to write (PNG).
        samples: Images to draw.
        borrowed: Whether mean and standard deviation of cells come from the truth, which the picture then states.
    """
    names = list(samples[0].reconstructions)
    columns = ["original", "mixed input", "weight"]
    for name in names:
        columns += [f"{name}\nreconstruction" if len(names) > 1 else "reconstruction", "error"]
    rows = len(samples) * len(BANDS)
    figure = Figure(figsize=(1.9 * len(columns) + 1.0, 1.9 * rows + 1.3), layout="constrained")
    axes = figure.subplots(rows, len(columns), squeeze=False)
    drawn: dict[str, Any] = {}
    for number, sample in enumerate(samples):
        for band in range(len(BANDS)):
            row = axes[number * len(BANDS) + band]
            drawn |= draw_row(row, sample, band)
            row[0].set_ylabel(f"{sample.name}\n{BANDS[band]}", fontsize=7)
            bar = figure.colorbar(drawn["db"], ax=row[1], location="right", aspect=14, pad=0.02, extend="both")
            bar.set_label(f"{BANDS[band]} backscatter, dB", fontsize=7)
            bar.ax.tick_params(labelsize=7)
    for axis, title in zip(axes[0], columns, strict=True):
        axis.set_title(title, fontsize=9)
    bars = (("weight", drawn["weight"], 2, "neither"), ("error, dB", drawn["error"], len(columns) - 1, "both"))
    for label, image, column, extend in bars:
        # Below the last row and as wide as its column, so that the rows of all columns stay aligned.
        place = axes[-1][column].inset_axes((0.0, -0.14, 1.0, 0.06))
        figure.colorbar(image, cax=place, label=label, orientation="horizontal", extend=extend)
    note = f"; {BORROWED}" if borrowed else ""
    figure.suptitle(f"Every cell is reconstructed from the mix that did not contain it{note}", fontsize=9)
    write(figure, path)


def draw_row(axes: Shaped[np.ndarray, " pictures"], sample: Sample, band: int) -> dict[str, Any]:
    """One band of one sample; returns the drawn images that colour bars need.

    The scale in dB is that of the original, so that the contrast within each scene is visible.
    """
    low, high = robust_scale(sample.original[band])
    db: dict[str, Any] = {"cmap": "gray", "vmin": low, "vmax": high}
    drawn = {"db": axes[0].imshow(sample.original[band], **db)}
    axes[1].imshow(sample.mixed[band], **db)
    drawn["weight"] = axes[2].imshow(sample.weights[band], cmap="viridis", vmin=1.0, vmax=float(np.e))
    for place, reconstruction in enumerate(sample.reconstructions.values()):
        axes[3 + 2 * place].imshow(reconstruction[band], **db)
        error = reconstruction[band] - sample.original[band]
        drawn["error"] = axes[4 + 2 * place].imshow(error, cmap="RdBu_r", vmin=-10, vmax=10)
    for axis in axes:
        axis.set(xticks=[], yticks=[])
    return drawn


def robust_scale(image_db: Float[np.ndarray, "height width"]) -> tuple[float, float]:
    """Scale in dB that shows all but the darkest and brightest percent."""
    low, high = np.percentile(image_db, (1, 99))
    return float(low), float(high)


def draw_correlation(path: Path, result: HeldOut, *, standardised_per_cell: bool) -> None:
    """Two-dimensional histogram of reconstruction against truth per band, the correlation in its title."""
    figure = Figure(figsize=(9.5, 4.4), layout="constrained")
    units = "standardised per cell" if standardised_per_cell else "standardised backscatter"
    panels = figure.subplots(1, len(BANDS))
    for axes, name, band, correlation in zip(panels, BANDS, result.bands, result.correlations, strict=True):
        counts = np.ma.masked_equal(band.histogram.T, 0)
        image = axes.pcolormesh(HISTOGRAM_EDGES, HISTOGRAM_EDGES, counts, norm=LogNorm(), cmap="magma")
        axes.plot(HISTOGRAM_EDGES[[0, -1]], HISTOGRAM_EDGES[[0, -1]], color="tab:cyan", linewidth=0.8)
        axes.set(xlabel=f"truth, {units}", ylabel=f"reconstruction, {units}", aspect="equal")
        axes.set_title(f"{name}: correlation {correlation:.3f}")
        figure.colorbar(image, ax=axes, label="pixels", shrink=0.8)
    figure.suptitle(f"Masked cells of {result.records} held-out records", fontsize=10)
    write(figure, path)


def write(figure: Figure, path: Path) -> None:
    """Save a figure as PNG."""
    path.parent.mkdir(parents=True, exist_ok=True)
    FigureCanvasAgg(figure).print_png(str(path))
