"""What a study has found so far: all scores as one table, and their spread over seeds."""

import csv
import io
import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Any

from sarwmix_jax.settings.study import Line, StudySettings, initialisations
from sarwmix_jax.studies.folder import StudyFolder

Row = dict[str, Any]
COLUMNS = (
    *("measured", "initialisation", "fraction", "samples", "recipe", "selected", "seed"),
    *("split", "band", "score", "value", "step"),
)
"""Columns of the long table; what does not apply is empty."""


@dataclass(frozen=True)
class Spread:
    """One score over seeds, in the order of the seeds.

    Attributes:
        by_seed: The values.
    """

    by_seed: dict[int, float]

    @property
    def median(self) -> float:
        """Median over seeds."""
        return median(self.by_seed.values())

    @property
    def low(self) -> float:
        """Smallest value."""
        return min(self.by_seed.values())

    @property
    def high(self) -> float:
        """Largest value."""
        return max(self.by_seed.values())

    def text(self, digits: int = 3, sign: str = "") -> str:
        """Median, with smallest and largest value in brackets."""
        return f"{self.median:{sign}.{digits}f} [{self.low:{sign}.{digits}f}, {self.high:{sign}.{digits}f}]"

    def gain(self, other: "Spread") -> "Spread | None":
        """This minus the other, seed by seed; None without a common seed."""
        common = {seed: value - other.by_seed[seed] for seed, value in self.by_seed.items() if seed in other.by_seed}
        return Spread(common) if common else None


@dataclass(frozen=True)
class Collection:
    """All rows of a study's steps that are done.

    Attributes:
        study: The study.
        rows: The long table.
        missing: Names of the steps that are not done, with their state.
        recipes: Selected finetuning recipe by initialisation and fraction.
    """

    study: StudySettings
    rows: Sequence[Row]
    missing: dict[str, str]
    recipes: dict[tuple[str, float], str]

    def spread(self, **wanted: Any) -> Spread | None:
        """A score over seeds, of the rows that have these values; None where there are none."""
        found = {
            row["seed"]: row["value"]
            for row in self.rows
            if row.get("selected") is not False and all(row.get(name) == value for name, value in wanted.items())
        }
        return Spread(dict(sorted(found.items()))) if found else None

    def names(self, measured: str) -> list[str]:
        """Initialisations (or baselines) that have rows of this kind, in order."""
        return list(dict.fromkeys(row["initialisation"] for row in self.rows if row["measured"] == measured))

    def samples(self, fraction: float) -> int | None:
        """Labelled samples of a fraction."""
        return next((row["samples"] for row in self.rows if row["fraction"] == fraction), None)


def collect(folder: StudyFolder) -> Collection:
    """Read all results.

    Raises:
        UserError: A result is damaged.
    """
    found = folder.results()
    rows = [row | {"step": name} for name, result in found.items() for row in result["rows"]]
    order = {name: number for number, name in enumerate(initialisations(folder.study))}
    rows.sort(key=lambda row: order.get(row["initialisation"], len(order)))  # baselines come last
    missing = {step.name: folder.state(step) for step in folder.steps if step.name not in found}
    recipes = select_recipes(folder.study, rows)
    for row in rows:
        if row["measured"] == "finetuned":
            row["selected"] = row["recipe"] == recipes[row["initialisation"], row["fraction"]]
    return Collection(folder.study, rows, missing, recipes)


def select_recipes(study: StudySettings, rows: Iterable[Row]) -> dict[tuple[str, float], str]:
    """Of each initialisation and fraction the recipe with the highest median over seeds on validation.

    The same recipes are tried for every initialisation; the test split has no part in the choice. Of equally good ones
    it is the first in the study. Only seeds for which all recipes are done count, if there are any.
    """
    values: dict[tuple[str, float], dict[str, dict[int, float]]] = {}
    for row in rows:
        key = (row["measured"], row.get("split"), row["score"])
        if key == ("finetuned", study.validation, study.score):
            recipes = values.setdefault((row["initialisation"], row["fraction"]), {})
            recipes.setdefault(row["recipe"], {})[row["seed"]] = row["value"]
    chosen = {}
    for place, recipes in values.items():
        common = set.intersection(*map(set, recipes.values()))
        best = {
            name: median(recipes[name][seed] for seed in common or recipes[name])
            for name in (Line.of(text).name for text in study.tries)
            if name in recipes
        }
        chosen[place] = max(best, key=lambda name: best[name])
    return chosen


def long_table(collection: Collection) -> dict[str, str]:
    """All rows as CSV and as JSON, by file name."""
    text = io.StringIO()
    writer = csv.DictWriter(text, COLUMNS, restval="", lineterminator="\n")
    writer.writeheader()
    plain = [{name: row[name] for name in COLUMNS if row.get(name) is not None} for row in collection.rows]
    writer.writerows(plain)
    return {"results.csv": text.getvalue(), "results.json": json.dumps(plain, indent=1) + "\n"}
