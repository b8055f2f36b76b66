"""Pictures of a report: curves of many runs, and scores by epochs of pretraining."""

import io
import math
import re
from collections.abc import Callable, Sequence
from typing import Any, Literal

from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import NullLocator

from sarwmix_jax.evaluation.pictures import short_name
from sarwmix_jax.evaluation.results import heading
from sarwmix_jax.facts.published import PublishedScores
from sarwmix_jax.reports.lines import Point
from sarwmix_jax.reports.summary import FINETUNING, PRETRAINING, LoggedRun
from sarwmix_jax.reports.table import MAIN, published_of

COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#7f3c8d", "#595959")
DASHES = ("-", "--", ":", "-.")
LEVELS = ("--", "-.", (0, (1, 1)), (0, (6, 2)), (0, (4, 1, 1, 1, 1, 1)), (0, (8, 4)), (0, (2, 2)), (0, (1, 4)))
"""Dashes of published scores."""
MARKED = (40, 600)
"""Epochs of the published study that are no powers of two."""
DPI = 180

Style = dict[str, Any]
Series = tuple[str, Sequence[Point], str]
"""Label, points, and the name of the value to draw."""


def pictures(runs: Sequence[LoggedRun]) -> dict[str, bytes]:
    """PNG files by name; those that would be empty are left out."""
    drawn = {name: draw(runs) for name, draw in PICTURES.items()}
    return {name: png(figure) for name, figure in drawn.items() if figure is not None}


def png(figure: Figure) -> bytes:
    """A figure as the bytes of a PNG file."""
    file = io.BytesIO()
    FigureCanvasAgg(figure).print_figure(file, format="png", dpi=DPI, bbox_inches="tight")
    return file.getvalue()


def styles(runs: Sequence[LoggedRun]) -> dict[str, Style]:
    """Colour and dashes of every run, the same in all pictures."""
    count = len(COLOURS)
    return {
        run.name: {"color": COLOURS[n % count], "linestyle": DASHES[n // count % len(DASHES)]}
        for n, run in enumerate(runs)
    }


def _panels(titles: Sequence[str], entries: int, width: float = 4.6) -> tuple[Figure, list[Axes]]:
    """Panels in rows of three, high enough for a legend of this many entries."""
    columns = min(len(titles), 3)
    rows = -(-len(titles) // columns)
    height = max(3.6 * rows, 0.21 * entries + 0.8)
    figure = Figure(figsize=(width * columns + 2.6, height), layout="constrained")
    panels = figure.subplots(rows, columns, squeeze=False).ravel().tolist()
    for axes, title in zip(panels, titles, strict=False):
        axes.set_title(title, fontsize=10)
        axes.grid(alpha=0.25, linewidth=0.6)
        axes.spines[["top", "right"]].set_visible(False)
    for axes in panels[len(titles) :]:
        axes.set_axis_off()
    return figure, panels[: len(titles)]


def _legend(figure: Figure, panels: Sequence[Axes], columns: int | None = None) -> Figure:
    """One legend beside all panels, or below them in columns; each label once."""
    found: dict[str, Artist] = {}
    for axes in panels:
        handles, labels = axes.get_legend_handles_labels()
        found |= {label: handle for label, handle in zip(labels, handles, strict=True) if label not in found}
    place: Literal["outside right upper", "outside lower left"]
    place = "outside right upper" if columns is None else "outside lower left"
    figure.legend(found.values(), found.keys(), loc=place, ncols=columns or 1, fontsize=8, frameon=False)
    return figure


def _draw(axes: Axes, points: Sequence[Point], name: str, style: Style, **more: Any) -> None:
    kept = [(point["epoch"], point[name]) for point in points if name in point]
    if kept:
        options: Style = {"linewidth": 1.4, "marker": "o" if len(kept) == 1 else None, "markersize": 4}
        axes.plot(*zip(*kept, strict=True), **(options | style | more))


def _stages(runs: Sequence[LoggedRun], wanted: Callable[[LoggedRun], bool]) -> dict[str, list[LoggedRun]]:
    """Runs of which there is something to draw, by stage."""
    by_stage = {stage: [r for r in runs if r.stage == stage and wanted(r)] for stage in (PRETRAINING, FINETUNING)}
    return {stage: found for stage, found in by_stage.items() if found}


def loss_figure(runs: Sequence[LoggedRun]) -> Figure | None:
    """Training loss as lines, validation loss with points; a panel for pretraining and one for finetuning."""
    stages = _stages(runs, lambda run: any("loss" in point for point in (*run.train, *run.validation)))
    if not stages:
        return None
    style = styles(runs)
    figure, panels = _panels([f"loss in {stage}" for stage in stages], len(runs) + 3)
    panels[0].plot([], [], color="0.3", alpha=0.55, label="lines: training")
    panels[0].plot([], [], color="0.3", marker="o", markersize=3.5, linewidth=1.0, label="points: validation")
    for axes, found in zip(panels, stages.values(), strict=True):
        for run in found:
            _draw(axes, run.train, "loss", style[run.name], label=run.name, alpha=0.55)
            _draw(axes, run.validation, "loss", style[run.name], marker="o", markersize=3.5, linewidth=1.0)
        axes.set(xlabel="epochs", ylabel="loss")
    return _legend(figure, panels)


def rate_figure(runs: Sequence[LoggedRun]) -> Figure | None:
    """Learning rate of the fastest group by epoch."""
    stages = _stages(runs, lambda run: any("learning_rate" in point for point in run.train))
    if not stages:
        return None
    style = styles(runs)
    figure, panels = _panels([f"learning rate in {stage}" for stage in stages], len(runs))
    for axes, found in zip(panels, stages.values(), strict=True):
        for run in found:
            _draw(axes, run.train, "learning_rate", style[run.name], label=run.name)
        axes.set(xlabel="epochs", ylabel="learning rate")
        axes.set_ylim(bottom=0)
        axes.ticklabel_format(axis="y", scilimits=(-2, 3))
    return _legend(figure, panels)


def _scores(points: Sequence[Point]) -> list[str]:
    """Names of the main scores of these points; where there are none of those, all others but the loss."""
    present = {name for point in points for name in point}
    main = [name for name in MAIN if name in present]
    return main or sorted(n for n in present - {"epoch", "step", "time", "neighbours"} if not n.startswith("loss"))[:6]


def validation_figure(runs: Sequence[LoggedRun]) -> Figure | None:
    """Scores on held-out samples by epoch of finetuning."""
    found = [run for run in runs if run.stage == FINETUNING]
    scores = list(dict.fromkeys(name for run in found for name in _scores(run.validation)))[:6]
    if not scores:
        return None
    style = styles(runs)
    figure, panels = _panels([f"validation: {heading(name)}" for name in scores], len(found))
    for axes, name in zip(panels, scores, strict=True):
        for run in found:
            _draw(axes, run.validation, name, style[run.name], label=run.name, marker="o", markersize=3)
        axes.set(xlabel="epochs of finetuning", ylabel=heading(name))
    return _legend(figure, panels)


def throughput_figure(runs: Sequence[LoggedRun]) -> Figure | None:
    """Images per second by epoch, and device hours."""
    timed = [run for run in runs if any("images_per_second" in point for point in run.train)]
    hours = [run for run in runs if run.device_hours is not None]
    if not timed:
        return None
    style = styles(runs)
    figure, panels = _panels(["throughput", "device hours, all starts"], max(len(timed), 1))
    for run in timed:
        label = f"{run.name}: {run.devices}"
        _draw(panels[0], run.train, "images_per_second", style[run.name], label=label)
    panels[0].set(xlabel="epochs", ylabel="images per second")
    panels[0].set_ylim(bottom=0)
    values = [run.device_hours or 0.0 for run in hours]
    bars = panels[1].barh([run.name for run in hours], values, color=[str(style[run.name]["color"]) for run in hours])
    panels[1].bar_label(bars, [f"{value:.3g}" for value in values], padding=3, fontsize=8)
    panels[1].tick_params(axis="y", labelsize=8)
    panels[1].invert_yaxis()
    panels[1].margins(x=0.15)
    panels[1].set(xlabel="device hours")
    return _legend(figure, panels)


def epochs_figure(runs: Sequence[LoggedRun]) -> Figure | None:
    """What is measured after 1, 2, 4, ... epochs of pretraining: its own losses and probes, and finetuned scores."""
    own = [run for run in runs if run.stage == PRETRAINING]
    placed = [run for run in runs if run.stage == FINETUNING and run.pretraining_epoch and run.best]
    panels_of = {("validation", "loss"): [(run.name, run.validation, "loss") for run in own]}
    for name in dict.fromkeys(name for run in own for name in _scores(run.probe)):
        panels_of[("probe", name)] = [(run.name, run.probe, name) for run in own]
    for name in dict.fromkeys(name for run in placed for name in _scores([run.best or {}])):
        panels_of[("finetuned", name)] = _finetuned(placed, name)
    drawn = {
        key: [each for each in series if any(each[2] in point and point["epoch"] > 0 for point in each[1])]
        for key, series in panels_of.items()
    }
    chosen = list({key: series for key, series in drawn.items() if series}.items())[:9]
    if not chosen:
        return None
    titles = {
        "validation": "validation of pretraining",
        "probe": "probe of frozen features",
        "finetuned": "finetuned, validation",
    }
    figure, panels = _panels([f"{titles[event]}: {heading(name)}" for (event, name), _ in chosen], 12)
    names = list(dict.fromkeys(label for _, series in chosen for label, _, _ in series))
    known = styles(runs)
    style = {label: known.get(label, {"color": COLOURS[(n + 3) % len(COLOURS)]}) for n, label in enumerate(names)}
    for axes, ((event, name), series) in zip(panels, chosen, strict=True):
        for label, points, value in series:
            after = [point for point in points if point["epoch"] > 0]
            _draw(axes, after, value, style[label], label=label, marker="o", markersize=4)
        if event == "finetuned":
            _baselines(axes, runs, name)
        _log2_axis(axes, [p["epoch"] for _, points, value in series for p in points if value in p and p["epoch"] > 0])
        axes.set(ylabel=heading(name))
        axes.set_title(axes.get_title(), fontsize=10, pad=16)
    return _legend(figure, panels, columns=min(len(chosen), 3))


def _finetuned(runs: Sequence[LoggedRun], name: str) -> list[Series]:
    """Scores of finetuned runs at their epoch of pretraining; those of one pretraining run and share are joined."""
    groups: dict[str, list[Point]] = {}
    for run in runs:
        if name in (run.best or {}):
            source = re.sub(r"(/checkpoints)?(/\d+)?/*$", "", run.origin or "")
            label = (
                f"finetuned from {short_name(source.rpartition('/')[2], 28)}, {100 * run.label_fraction:g} % of labels"
            )
            point = {"epoch": run.pretraining_epoch or 0.0, name: (run.best or {})[name]}
            groups.setdefault(label, []).append(point)
    return [(label, sorted(found, key=lambda point: point["epoch"]), name) for label, found in groups.items()]


def _baselines(axes: Axes, runs: Sequence[LoggedRun], name: str) -> None:
    """Level lines: runs from random parameters, and published scores of the same data set and shares of the labels."""
    for run in runs:
        if run.random and name in (run.best or {}):
            label = f"random initialisation: {run.name}"
            axes.axhline((run.best or {})[name], color="0.35", linestyle=":", linewidth=1.2, label=label)
    shares = {run.label_fraction for run in runs if run.stage == FINETUNING}
    lines: list[PublishedScores] = [e for e in published_of(runs) if e.fraction in shares and name in e.scores]
    for number, each in enumerate(lines):
        style: Style = {"color": "0.6", "linestyle": LEVELS[number % len(LEVELS)], "linewidth": 1.0}
        axes.axhline(each.scores[name], label=f"published: {each.model} ({each.dataset})", zorder=1, **style)


def _log2_axis(axes: Axes, epochs: Sequence[float]) -> None:
    """A logarithmic axis of epochs with ticks at powers of two, and the study's other epochs marked."""
    low, high = math.floor(math.log2(min(epochs))), math.ceil(math.log2(max(epochs)))
    axes.set_xscale("log", base=2)
    powers = [2.0**power for power in range(low, high + 1)]
    axes.set_xticks(powers, [f"{power:g}" for power in powers], fontsize=7.5)
    axes.xaxis.set_minor_locator(NullLocator())
    axes.set_xlim(2 ** (low - 0.35), 2 ** (high + 0.35))
    axes.set_xlabel("epochs of pretraining")
    for epoch in MARKED:
        if 2**low <= epoch <= 2**high:
            axes.axvline(epoch, color="0.75", linewidth=0.8, zorder=0)
            axes.annotate(
                str(epoch),
                (epoch, 1),
                (0, 1),
                xycoords=("data", "axes fraction"),
                textcoords="offset points",
                ha="center",
                va="bottom",
                fontsize=7,
                color="0.4",
            )


PICTURES: dict[str, Callable[[Sequence[LoggedRun]], Figure | None]] = {
    "loss.png": loss_figure,
    "learning_rate.png": rate_figure,
    "validation.png": validation_figure,
    "pretraining_epochs.png": epochs_figure,
    "throughput.png": throughput_figure,
}
"""What draws each picture."""
