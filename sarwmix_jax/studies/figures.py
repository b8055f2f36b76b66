"""A study's figures: score over label fraction, and reconstruction of dark and bright areas by variant."""

from collections.abc import Sequence
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import NullLocator

from sarwmix_jax.evaluation.brightness import PARTS
from sarwmix_jax.evaluation.results import heading
from sarwmix_jax.facts.published import PublishedScores
from sarwmix_jax.settings.study import RANDOM, initialisations
from sarwmix_jax.studies.collect import Collection, Spread
from sarwmix_jax.studies.tables import KINDS, percent

DPI = 200
COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#56b4e9", "#e69f00")
MARKERS = "osD^vP"
GREY = "#666666"


def style_of(collection: Collection, name: str) -> tuple[str, str]:
    """Colour and marker of an initialisation, the same in all figures; random parameters are black."""
    if name == RANDOM:
        return "black", "X"
    number = initialisations(collection.study).index(name)
    return COLOURS[number % len(COLOURS)], MARKERS[number % len(MARKERS)]


def draw_labels(path: Path, collection: Collection, published: Sequence[PublishedScores]) -> None:
    """Score over label fraction: one panel for finetuning and one for probes, the linear baseline dashed in both."""
    kinds = [kind for kind in ("finetuned", "probe") if collection.names(kind)] or ["probe"]
    figure = Figure(figsize=(1.2 + 3.6 * len(kinds), 3.7), layout="constrained")
    panels = figure.subplots(1, len(kinds), sharey=True, squeeze=False)[0]
    fractions = sorted(collection.study.fractions)
    for kind, axes in zip(kinds, panels, strict=True):
        for name in collection.names(kind):
            colour, marker = style_of(collection, name)
            _line(axes, collection, kind, name, fractions, colour=colour, marker=marker)
        for name in collection.names("baseline")[-1:]:  # class prevalence, far below, is in the table
            _line(axes, collection, "baseline", name, fractions, colour=GREY, dashes="--")
        if kind == "finetuned":
            _published(axes, collection, published)
        axes.set_title(KINDS[kind], fontsize=10)
        axes.set_xscale("log")
        counts = [collection.samples(fraction) for fraction in fractions]
        ticks = [percent(f) if n is None else f"{percent(f)}\n{n:,}" for f, n in zip(fractions, counts, strict=True)]
        axes.set_xticks(fractions, ticks)
        axes.xaxis.set_minor_locator(NullLocator())
        axes.set_xlabel("labelled share of the training split, and samples")
        axes.grid(alpha=0.3)
    panels[0].set_ylabel(f"{heading(collection.study.score)} on {collection.study.test}")
    entries = {label: line for axes in panels for line, label in zip(*axes.get_legend_handles_labels(), strict=True)}
    title = f"median and range of {len(collection.study.seeds)} seeds"
    figure.legend(
        entries.values(), entries, loc="outside lower center", ncols=2, fontsize=8, frameon=False, title=title
    ).get_title().set_fontsize(8)
    write_figure(figure, path)


def _line(
    axes: Axes,
    collection: Collection,
    kind: str,
    name: str,
    fractions: Sequence[float],
    *,
    colour: str,
    marker: str = "",
    dashes: str = "-",
) -> None:
    """Median with the range over seeds."""
    study = collection.study
    wanted = {"measured": kind, "initialisation": name, "score": study.score, "split": study.test}
    found = {f: s for f in fractions if (s := collection.spread(**wanted, fraction=f)) is not None}
    medians = [spread.median for spread in found.values()]
    axes.plot(list(found), medians, dashes, marker=marker, color=colour, markersize=5, linewidth=1.6, label=name)
    low, high = ([getattr(spread, end) for spread in found.values()] for end in ("low", "high"))
    axes.fill_between(list(found), low, high, color=colour, alpha=0.15, linewidth=0)


def _published(axes: Axes, collection: Collection, published: Sequence[PublishedScores]) -> None:
    """Published scores as hollow points, joined where there are several."""
    for number, model in enumerate(dict.fromkeys(each.model.partition(", ")[0] for each in published)):
        points = sorted(
            (each.fraction, each.scores[collection.study.score]) for each in published if each.model.startswith(model)
        )
        marker, label = MARKERS[number % len(MARKERS)], f"published: {model}"
        fractions, scores = zip(*points, strict=True)
        axes.plot(fractions, scores, marker=marker, color="0.45", linewidth=0.9, markersize=5, label=label, mfc="white")


def draw_reconstruction(path: Path, collection: Collection) -> None:
    """Squared error of each variant in dark, middle and bright pixels, and the correlation inside cells, per band."""
    rows = [row for row in collection.rows if row["measured"] == "reconstruction"]
    bands = list(dict.fromkeys(row["band"] for row in rows))
    titles = {f"pixel_{part}_squared_error_db2": f"{part} third: error, dB²" for part in PARTS}
    titles |= {"inside_correlation": "correlation inside cells"}
    figure = Figure(figsize=(10.5, 0.9 + 2.2 * len(bands)), layout="constrained")
    panels = figure.subplots(len(bands), len(titles), sharex=True, squeeze=False)
    names = collection.names("reconstruction")
    for band, line in zip(bands, panels, strict=True):
        for (score, title), axes in zip(titles.items(), line, strict=True):
            for place, name in enumerate(names):
                spread = collection.spread(measured="reconstruction", initialisation=name, band=band, score=score)
                if spread is not None:
                    _point(axes, place, spread, *style_of(collection, name))
            axes.set_xticks(range(len(names)), names, rotation=40, ha="right", fontsize=8)
            axes.set_xlim(-0.6, len(names) - 0.4)
            axes.tick_params(axis="y", labelsize=8)
            axes.grid(axis="y", alpha=0.3)
            if band == bands[0]:
                axes.set_title(title, fontsize=9)
        line[0].set_ylabel(band, fontsize=11)
    seeds = len(collection.study.seeds)
    figure.supxlabel(f"true backscatter in thirds of its pixels; median and range of {seeds} seeds", fontsize=8)
    write_figure(figure, path)


def _point(axes: Axes, place: int, spread: Spread, colour: str, marker: str) -> None:
    axes.plot([place, place], [spread.low, spread.high], color=colour, linewidth=1.4, alpha=0.5)
    axes.plot([place] * len(spread.by_seed), list(spread.by_seed.values()), "_", color=colour, markersize=9)
    axes.plot(place, spread.median, marker, color=colour, markersize=6)


def write_figure(figure: Figure, path: Path) -> None:
    """Write a figure as PNG, whole or not at all."""
    temporary = path.with_name(f".{path.name}.writing")
    FigureCanvasAgg(figure).print_figure(temporary, format="png", dpi=DPI, bbox_inches="tight")
    temporary.replace(path)


def draw_all(folder: Path, collection: Collection, published: Sequence[PublishedScores]) -> list[Path]:
    """Draw the figures for which there are results; returns their files."""
    drawn = []
    if any(row["measured"] in ("finetuned", "probe") for row in collection.rows):
        draw_labels(folder / "labels.png", collection, published)
        drawn.append(folder / "labels.png")
    if any(row["measured"] == "reconstruction" for row in collection.rows):
        draw_reconstruction(folder / "reconstruction.png", collection)
        drawn.append(folder / "reconstruction.png")
    return drawn
