"""A study's tables in Markdown: scores by label fraction, and reconstruction errors by variant."""

from collections.abc import Sequence
from pathlib import Path

from sarwmix_jax.data.records import read_contract
from sarwmix_jax.errors import UserError
from sarwmix_jax.evaluation.brightness import PARTS
from sarwmix_jax.evaluation.results import heading, markdown_rows
from sarwmix_jax.facts.published import PUBLISHED, PublishedScores
from sarwmix_jax.settings.study import RANDOM, Line, StudySettings
from sarwmix_jax.studies.collect import Collection, Spread
from sarwmix_jax.studies.folder import StudyFolder
from sarwmix_jax.studies.plan import records_of

KINDS = {"finetuned": "finetuned", "probe": "frozen features, probed", "baseline": "baseline"}
UNWEIGHTED = "off"
"""With a variant of this name the others are compared, seed by seed."""
NAMED = 8
"""Missing steps that are named; the number of the others is stated."""


def percent(fraction: float) -> str:
    """Such as `12.5 %`."""
    return f"{100 * fraction:.4g} %"


def published_scores(folder: StudyFolder) -> list[PublishedScores]:
    """Published scores on the study's data set that have its score."""
    try:
        dataset = read_contract(Path(records_of(folder.study, folder.path))).name
    except UserError:  # no step that writes or reads the records is done
        return []
    return [each for each in PUBLISHED if each.dataset == dataset and folder.study.score in each.scores]


def label_table(collection: Collection, published: Sequence[PublishedScores]) -> str:
    """Scores on the test split by label fraction: finetuned, probed, baselines; then published ones."""
    study = collection.study
    fractions = sorted(study.fractions)
    heads = [f"{percent(f)}{'' if (n := collection.samples(f)) is None else f' ({n:,} samples)'}" for f in fractions]
    lines = [[f"{heading(study.score)} on {study.test}", *heads], ["---", *["---:"] * len(heads)]]
    for kind, words in KINDS.items():
        spreads = {name: _over_fractions(collection, kind, name, fractions) for name in collection.names(kind)}
        for name, found in spreads.items():
            lines.append([f"{name}, {words}", *(_cell(each, study) for each in found)])
        for name in (name for name in spreads if RANDOM in spreads and name != RANDOM):
            gains = _gains(spreads[name], spreads[RANDOM])
            lines.append([f"gain of {name} over {RANDOM}, {words}", *(_cell(each, study, "+") for each in gains)])
    for model in dict.fromkeys(each.model.partition(", ")[0] for each in published):
        by_fraction = {each.fraction: each.scores[study.score] for each in published if each.model.startswith(model)}
        lines.append(
            [f"published: {model}", *(f"{by_fraction[f]:.4f}" if f in by_fraction else "-" for f in fractions)]
        )
    return markdown_rows(lines) + "\n" + "\n".join(f"- {note}" for note in _notes(collection, published)) + "\n"


def _cell(spread: Spread | None, study: StudySettings, sign: str = "") -> str:
    """A spread as text, with the number of seeds where some are missing."""
    if spread is None:
        return "-"
    count, all_seeds = len(spread.by_seed), len(study.seeds)
    return spread.text(sign=sign) + ("" if count == all_seeds else f" ({count} of {all_seeds} seeds)")


def _gains(spreads: Sequence[Spread | None], others: Sequence[Spread | None]) -> list[Spread | None]:
    """Differences of the same seed."""
    pairs = zip(spreads, others, strict=True)
    return [one.gain(other) if one is not None and other is not None else None for one, other in pairs]


def _over_fractions(collection: Collection, kind: str, name: str, fractions: Sequence[float]) -> list[Spread | None]:
    study = collection.study
    wanted = {"measured": kind, "initialisation": name, "score": study.score, "split": study.test}
    return [collection.spread(**wanted, fraction=fraction) for fraction in fractions]


def _notes(collection: Collection, published: Sequence[PublishedScores]) -> list[str]:
    study = collection.study
    notes = [
        f"Median [smallest, largest] over {len(study.seeds)} seeds; a seed also decides which samples have labels."
    ]
    if RANDOM in collection.names("finetuned") + collection.names("probe"):
        notes.append("Gains are differences of the same seed and the same labelled samples.")
    if collection.recipes and len(study.tries) > 1:
        tried = ", ".join(Line.of(text).name for text in study.tries)
        notes.append(f"Finetuning recipes tried for every initialisation: {tried}. Selected on {study.validation}:")
        for name in dict.fromkeys(name for name, _ in collection.recipes):
            chosen = (f"{percent(f)} {r}" for (n, f), r in sorted(collection.recipes.items()) if n == name)
            notes.append(f"{name}: {', '.join(chosen)}.")
    notes += dict.fromkeys(f"published on {each.dataset}: {each.note}." for each in published)
    return notes + missing_notes(collection)


def missing_notes(collection: Collection) -> list[str]:
    """Which steps are not done."""
    missing = list(collection.missing.items())
    if not missing:
        return []
    named = "; ".join(f"{name} ({state.partition(':')[0]})" for name, state in missing[:NAMED])
    more = f"; and {len(missing) - NAMED} more" if len(missing) > NAMED else ""
    return [f"Not done yet, and not in these figures: {named}{more}."]


def reconstruction_table(collection: Collection) -> str:
    """Squared errors in dB^2 over hidden cells, all and by true backscatter, and the correlation inside cells."""
    bands = list(dict.fromkeys(row["band"] for row in collection.rows if row["measured"] == "reconstruction"))
    scores = {"all, dB^2": "squared_error_db2"}
    scores |= {f"{part} pixels": f"pixel_{part}_squared_error_db2" for part in PARTS}
    scores |= {f"{part} cells": f"cell_{part}_squared_error_db2" for part in PARTS}
    scores |= {"correlation inside cells": "inside_correlation"}
    text = ""
    for band in bands:
        lines = [[band, *scores], ["---", *["---:"] * len(scores)]]
        found = {
            name: [
                collection.spread(measured="reconstruction", initialisation=name, band=band, score=score)
                for score in scores.values()
            ]
            for name in collection.names("reconstruction")
        }
        for name, spreads in found.items():
            lines.append([name, *(_cell(each, collection.study) for each in spreads)])
        for name in (name for name in found if UNWEIGHTED in found and name != UNWEIGHTED):
            gains = _gains(found[name], found[UNWEIGHTED])
            lines.append([f"{name} minus {UNWEIGHTED}", *(_cell(each, collection.study, "+") for each in gains)])
        text += markdown_rows(lines) + "\n"
    samples = next((row["samples"] for row in collection.rows if row["measured"] == "reconstruction"), 0)
    notes = [
        f"Squared error of the reconstruction in dB, without any weights, over the hidden cells of {samples:,} records "
        f"of {collection.study.test}; median [smallest, largest] over {len(collection.study.seeds)} seeds.",
        "Dark, middle and bright are thirds of the true backscatter of these records: of single pixels, speckle "
        "included, and of the means of cells of 32 x 32 px.",
        *(_limits(collection, band) for band in bands),
    ]
    return text + "\n".join(f"- {note}" for note in [*notes, *missing_notes(collection)]) + "\n"


def _limits(collection: Collection, band: str) -> str:
    parts = []
    for what in ("pixel", "cell"):
        names = (f"{what}_dark_below_db", f"{what}_bright_from_db")
        spreads = (collection.spread(measured="reconstruction", band=band, score=name) for name in names)
        parts.append(" and ".join(f"{each.median:.2f}" for each in spreads if each is not None))
    return f"{band}: the limits are {parts[0]} dB for pixels, {parts[1]} dB for cells."
