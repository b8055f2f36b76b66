"""Figures of an evaluation: precision-recall curves, reliability, confusion, and the most confident mistakes."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Bool, Float, Int
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.gridspec import GridSpecFromSubplotSpec
from sklearn.metrics import average_precision_score, precision_recall_curve

from sarwmix_jax.errors import UserError
from sarwmix_jax.evaluation.pictures import short_name
from sarwmix_jax.facts.bands import BANDS
from sarwmix_jax.metrics.calibration import Reliability
from sarwmix_jax.metrics.scores import (
    THRESHOLD,
    Labels,
    Probabilities,
    Targets,
    Thresholds,
    check_multilabel,
    class_thresholds,
)

DPI = 200
HIGHLIGHTED = 3
CURVE_POINTS = 2000
MOST_LINES = 11


@dataclass(frozen=True)
class Mistake:
    """One sample with a confident, wrong prediction.

    Attributes:
        name: Sample id.
        image_db: VH and VV backscatter in dB.
        missed: Classes of the sample that are not predicted, with their probabilities.
        wrong: Predicted classes that the sample does not have.
        right: Classes of the sample that are predicted.
    """

    name: str
    image_db: Float[np.ndarray, "band height width"]
    missed: Sequence[tuple[str, float]]
    wrong: Sequence[tuple[str, float]]
    right: Sequence[tuple[str, float]]


def mistake(
    name: str,
    image_db: Float[np.ndarray, "band height width"],
    probabilities: Float[np.ndarray, " class"],
    true: Bool[np.ndarray, " class"],
    predicted: Bool[np.ndarray, " class"],
    names: Sequence[str],
) -> Mistake:
    """A sample's classes sorted into missed, wrong and right, each with the largest errors first."""
    order = np.argsort(-np.abs(probabilities - true), kind="stable")

    def pick(chosen: Bool[np.ndarray, " class"]) -> tuple[tuple[str, float], ...]:
        return tuple((names[k], float(probabilities[k])) for k in order if chosen[k])

    return Mistake(name, image_db, pick(true & ~predicted), pick(~true & predicted), pick(true & predicted))


def draw_precision_recall(path: Path, probabilities: Probabilities, targets: Targets, names: Sequence[str]) -> None:
    """Curves of the three best and three worst classes in colour, all others in grey, all pairs (micro) in black.

    Raises:
        UserError: Shapes do not match, or no class has a positive.
    """
    check_multilabel(probabilities, targets, names)
    present = np.flatnonzero(targets.any(axis=0))
    if not len(present):
        raise UserError("no class has a positive: there is no precision-recall curve")
    ap = {int(k): float(average_precision_score(targets[:, k], probabilities[:, k])) for k in present}
    ranked = sorted(ap, key=lambda k: -ap[k])
    few = ranked if len(ranked) <= 2 * HIGHLIGHTED else ranked[:HIGHLIGHTED] + ranked[-HIGHLIGHTED:]
    figure = Figure(figsize=(8.6, 4.6), layout="constrained")
    axes = figure.subplots()
    for k in ranked:
        if k not in few:
            axes.plot(*_curve(targets[:, k], probabilities[:, k]), color="0.8", linewidth=0.8)
    micro = float(average_precision_score(targets.ravel(), probabilities.ravel()))
    label = f"all sample-class pairs (micro): AP {micro:.3f}"
    micro_curve = _curve(targets.ravel(), probabilities.ravel())
    axes.plot(*micro_curve, color="black", linewidth=2.2, label=label, zorder=3)
    colours = ("#0b3c8c", "#2878c8", "#56b4e9", "#e69f00", "#d55e00", "#8c2d04")
    for colour, k in zip(colours, few, strict=False):
        label = f"{short_name(names[k])}: AP {ap[k]:.3f}"
        axes.plot(*_curve(targets[:, k], probabilities[:, k]), color=colour, linewidth=1.6, label=label)
    others = len(ranked) - len(few)
    if others:
        axes.plot([], [], color="0.8", label=f"the other {others} classes")
    macro = sum(ap.values()) / len(names)
    without = len(names) - len(present)
    counted = f" ({without} of {len(names)} classes without positives: AP 0)" if without else ""
    axes.set_title(f"macro AP {macro:.3f}{counted}, {len(targets):,} samples", fontsize=9)
    axes.set(xlabel="recall", ylabel="precision", xlim=(0, 1), ylim=(0, 1.01))
    axes.grid(alpha=0.3)
    figure.legend(loc="outside right center", fontsize=8, frameon=False)
    _write(figure, path)


def _curve(targets: np.ndarray, probabilities: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Recall and precision, thinned to the resolution of a figure."""
    precision, recall, _ = precision_recall_curve(targets, probabilities, drop_intermediate=True)
    step = max(1, len(recall) // CURVE_POINTS)
    kept = np.unique(np.append(np.arange(0, len(recall), step), len(recall) - 1))
    return recall[kept], precision[kept]


def draw_reliability(path: Path, curves: Sequence[tuple[str, Reliability]]) -> None:
    """Observed frequency against predicted probability, with the number of predictions below.

    Args:
        path: File to write (PNG).
        curves: Name and curve, such as before and after a temperature.
    """
    figure = Figure(figsize=(5.2, 6.9), layout="constrained")
    upper, lower = figure.subplots(2, 1, sharex=True, height_ratios=(3, 1))
    upper.plot([0, 1], [0, 1], color="0.6", linestyle="--", linewidth=1, label="perfectly calibrated")
    for (name, curve), colour, marker in zip(
        curves, ("#d55e00", "#0072b2", "#009e73", "#cc79a7"), "osD^", strict=False
    ):
        filled = curve.counts > 0
        label = f"{name}: calibration error {100 * curve.error:.2f} %"
        upper.plot(curve.stated[filled], curve.observed[filled], f"{marker}-", color=colour, markersize=4, label=label)
        lower.stairs(curve.counts, curve.edges, color=colour, linewidth=1.4)
    upper.set(ylabel="observed frequency", xlim=(0, 1), ylim=(0, 1), box_aspect=1)
    upper.legend(fontsize=8, loc="upper left")
    lower.set(xlabel="predicted probability", ylabel="predictions", yscale="log")
    for axes in (upper, lower):
        axes.grid(alpha=0.3)
    _write(figure, path)


def draw_confusion(path: Path, confusion: Sequence[Sequence[int]], names: Sequence[str]) -> None:
    """Single-label: percent of each true class (row) that is predicted as each class (column)."""
    counts = np.asarray(confusion)
    support = counts.sum(axis=1)
    rows = [f"{short_name(name)} ({count:,})" for name, count in zip(names, support.tolist(), strict=True)]
    share = 100 * counts / np.maximum(support, 1)[:, None]
    share[support == 0] = np.nan
    _draw_matrix(path, share, rows, names, ("true class (samples)", "predicted class", "percent of the true class"))


def draw_substitutions(
    path: Path,
    probabilities: Probabilities,
    targets: Targets,
    names: Sequence[str],
    thresholds: Thresholds = THRESHOLD,
) -> None:
    """Multi-label: where a class (row) is missed, how often each class (column) is predicted wrongly instead.

    Samples may have several classes, so there is no confusion matrix; this matrix replaces it, and its rows need not
    add up to 100 %.

    Raises:
        UserError: Shapes do not match, or a value is out of range.
    """
    check_multilabel(probabilities, targets, names)
    predicted = probabilities > class_thresholds(thresholds, len(names))
    missed, false = (targets == 1) & ~predicted, (targets == 0) & predicted
    support, misses = targets.sum(axis=0), missed.sum(axis=0)
    share = 100 * substitutions(missed, false)
    np.fill_diagonal(share, np.nan)
    rows = [f"{short_name(name)} ({m:,} of {s:,})" for name, m, s in zip(names, misses, support, strict=True)]
    labels = ("missed class (misses of samples with it)", "class predicted wrongly", "percent of the misses")
    _draw_matrix(path, share, rows, names, labels)


def substitutions(
    missed: Bool[np.ndarray, "sample class"], false: Bool[np.ndarray, "sample class"]
) -> Float[np.ndarray, "class class"]:
    """Of the samples that miss the row's class, share with the column's as a wrong prediction; NaN without any."""
    together = missed.T.astype(np.float64) @ false.astype(np.float64)
    misses = missed.sum(axis=0)[:, None]
    return np.divide(together, misses, out=np.full(together.shape, np.nan), where=misses > 0)


def _draw_matrix(
    path: Path, percent: np.ndarray, rows: Sequence[str], columns: Sequence[str], labels: tuple[str, str, str]
) -> None:
    side = 2.8 + 0.38 * len(columns)
    figure = Figure(figsize=(side + 2.4, side), layout="constrained")
    axes = figure.subplots()
    top = max(float(np.nanmax(percent, initial=0)), 1.0)
    image = axes.imshow(percent, cmap="Blues", vmin=0, vmax=top)
    axes.set_facecolor("0.93")  # visible where a row has no samples
    for (row, column), value in np.ndenumerate(percent):
        if np.isfinite(value) and value >= 0.5:
            colour = "white" if value > 0.6 * top else "black"
            axes.text(column, row, f"{value:.0f}", ha="center", va="center", fontsize=7, color=colour)
    axes.set_xticks(range(len(columns)), [short_name(name) for name in columns], rotation=50, ha="right", fontsize=8)
    axes.set_yticks(range(len(rows)), rows, fontsize=8)
    axes.set(ylabel=labels[0], xlabel=labels[1])
    figure.colorbar(image, ax=axes, label=labels[2], shrink=0.7)
    _write(figure, path)


def confident_mistakes(
    probabilities: Probabilities, truth: Labels | Targets, count: int
) -> Int[np.ndarray, "mistake 2"]:
    """Samples with the largest errors and the class of the error; at most one row per sample, the largest first.

    The error of a class is the distance of its probability from 1 where the sample has it, and from 0 where not; only
    errors above 0.5 are mistakes.

    Args:
        probabilities: Sigmoid or softmax outputs.
        truth: Targets (sample, class) or class numbers (sample).
        count: Largest number of rows.
    """
    targets = truth if truth.ndim == 2 else np.eye(probabilities.shape[1])[truth]
    error = np.abs(probabilities - targets)
    worst = error.argmax(axis=1)
    size = error[np.arange(len(error)), worst]
    order = np.argsort(-size, kind="stable")[:count]
    order = order[size[order] > 0.5]
    return np.stack((order, worst[order]), axis=1)


def draw_mistakes(path: Path, mistakes: Sequence[Mistake]) -> None:
    """VH and VV image in dB of each mistake, with true and predicted classes; two mistakes side by side.

    All images of a band share one grey scale, between the 1st and 99th percentile of the band's pixels.

    Raises:
        UserError: There are no wrong predictions to show.
    """
    if not mistakes:
        raise UserError("no mistake to draw: no sample is wrong by more than 0.5")
    pixels = [np.concatenate([m.image_db[band].ravel() for m in mistakes]) for band in range(len(BANDS))]
    scales = [np.percentile(values[np.isfinite(values)], (1, 99)) for values in pixels]
    rows = -(-len(mistakes) // 2)
    height = 2.1 * rows + 1.1
    figure = Figure(figsize=(14.5, height))
    place = {"left": 0.01, "right": 0.99, "top": 1 - 0.3 / height, "bottom": 0.75 / height}
    grid = figure.add_gridspec(rows, 2, **place, wspace=0.03, hspace=0.1)
    for number, shown in enumerate(mistakes):
        inner = GridSpecFromSubplotSpec(1, 3, grid[divmod(number, 2)], width_ratios=(1, 1, 1.45), wspace=0.04)
        axes = [figure.add_subplot(inner[column]) for column in range(3)]
        images = [axes[b].imshow(shown.image_db[b], cmap="gray", vmin=scales[b][0], vmax=scales[b][1]) for b in (0, 1)]
        for axis, band in zip(axes, BANDS, strict=False):
            axis.set(xticks=[], yticks=[])
            if number < 2:
                axis.set_title(band, fontsize=9)
        _describe(axes[2], shown)
    for column, (band, image) in enumerate(zip(BANDS, images, strict=True)):
        bar_axes = figure.add_axes((0.04 + 0.3 * column, 0.5 / height, 0.24, 0.1 / height))
        bar = figure.colorbar(image, cax=bar_axes, orientation="horizontal", extend="both")
        bar.set_label(f"{band} backscatter, dB", fontsize=8)
        bar.ax.tick_params(labelsize=8)
    _write(figure, path)


def _describe(axes: Axes, shown: Mistake) -> None:
    kinds = (("missed", "#b2182b", shown.missed), ("wrong", "#d95f02", shown.wrong), ("right", "black", shown.right))
    lines = [
        (f"{kind}: {short_name(name)}, {probability:.2f}", colour)
        for kind, colour, classes in kinds
        for name, probability in classes
    ]
    if len(lines) > MOST_LINES:
        lines[MOST_LINES - 1 :] = [(f"and {len(lines) - MOST_LINES + 1} more", "0.4")]
    lines.insert(0, (short_name(shown.name, 42), "0.4"))
    axes.axis("off")
    for number, (text, colour) in enumerate(lines):
        height = 1 - number / (MOST_LINES + 1)
        axes.text(0, height, text, fontsize=8, color=colour, transform=axes.transAxes, va="top")


def _write(figure: Figure, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.writing")
    FigureCanvasAgg(figure).print_figure(temporary, format="png", dpi=DPI, bbox_inches="tight")
    temporary.replace(path)
