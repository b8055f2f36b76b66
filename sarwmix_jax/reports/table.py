"""The table of a report: one row a run, as Markdown, CSV and JSON."""

import csv
import io
import json
from collections.abc import Sequence
from typing import Any

from sarwmix_jax.errors import UserError
from sarwmix_jax.evaluation.results import heading, markdown_rows
from sarwmix_jax.facts.published import PUBLISHED, PublishedScores
from sarwmix_jax.reports.summary import LoggedRun

Row = dict[str, Any]

MAIN = ("ap_macro", "ap_micro", "f1_macro", "f1_micro", "accuracy", "accuracy_percent", "f1")
"""Scores of the Markdown table; CSV and JSON have all."""

FIRST = ("run", "task", "epochs", "pretraining_epoch", "selected", "train/loss", "validation/loss")
LAST = ("images_per_second", "device_hours", "goodput", "status")

COUNTED = (
    "Device hours: from the first to the last line of every start of a run, times its devices, summed. Compilation, "
    "validation, probes, checkpoints and steps that were done again are counted; reading settings and building the "
    "model before the first line are not. A run without an end counts to its last line."
)


def table_rows(runs: Sequence[LoggedRun], sort: str) -> list[Row]:
    """Rows with the same columns, sorted: scores from the highest, losses and all else from the lowest.

    Rows without the value come last.

    Raises:
        UserError: No run has a column of this name.
    """
    rows = [run.row() for run in runs]
    scores = sorted({name for row in rows for name in row if "/" in name} - {"train/loss"}, key=_place)
    before = [name for name in rows[0] if "/" not in name or name == "train/loss"]
    middle = before.index("train/loss") + 1
    columns = [*before[:middle], *scores, *before[middle:]]
    if sort not in columns:
        raise UserError(f"--sort {sort}: no run has it; use one of {', '.join(columns)}")
    filled: list[Row] = [{name: row.get(name) for name in columns} for row in rows]
    falls = sort in scores and not sort.endswith("loss") and "loss_per_band" not in sort
    known = [row for row in filled if row[sort] is not None]
    return sorted(known, key=lambda row: row[sort], reverse=falls) + [row for row in filled if row[sort] is None]


def _place(name: str) -> tuple[bool, bool, int, str]:
    """Validation before probe, the loss first, then the main scores in their order."""
    event, _, score = name.partition("/")
    return event != "validation", score != "loss", MAIN.index(score) if score in MAIN else len(MAIN), score


def table_json(rows: Sequence[Row], runs: Sequence[LoggedRun]) -> str:
    """All rows, with the notes of every run."""
    notes = {run.name: list(run.notes) for run in runs}
    found = [row | {"notes": notes[row["run"]]} for row in rows]
    return json.dumps({"runs": found, "counted": COUNTED}, indent=2, allow_nan=False) + "\n"


def table_csv(rows: Sequence[Row]) -> str:
    """All rows with a heading; what is not known is empty."""
    text = io.StringIO()
    writer = csv.DictWriter(text, rows[0], lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()


def table_markdown(rows: Sequence[Row], runs: Sequence[LoggedRun]) -> str:
    """The main columns, then published scores of the same data sets, then notes."""
    validation = [name for name in rows[0] if name.startswith("validation/")]
    main = [f"validation/{name}" for name in MAIN]
    scores = [name for name in main if name in validation]
    scores += [] if scores else [name for name in validation if not name.startswith("validation/loss")][:4]
    scores += [name for name in (f"probe/{score}" for score in ("ap_macro", "accuracy")) if name in rows[0]]
    columns = [name for name in (*FIRST, *scores, *LAST) if any(row.get(name) is not None for row in rows)]
    lines = [[_heading(name) for name in columns], ["---", *["---:"] * (len(columns) - 1)]]
    lines += [[_cell(row[name]) for name in columns] for row in rows]
    text = markdown_rows(lines) + "\nScores are those of the selected validation.\n"
    if published := published_of(runs):
        text += "\n" + published_table(published)
    notes = [f"{run.name}: {note}" for run in runs for note in run.notes]
    counted = [COUNTED] if "device_hours" in columns else []
    return text + "\n" + "".join(f"- {note}.\n" for note in (each.rstrip(".") for each in (*counted, *notes)))


def published_of(runs: Sequence[LoggedRun]) -> list[PublishedScores]:
    """Published scores on the data sets of the runs with labels."""
    named = {name for run in runs for name in run.datasets}
    return [each for each in PUBLISHED if each.dataset in named]


def published_table(published: Sequence[PublishedScores]) -> str:
    """Published scores, apart from those of the runs, with their notes."""
    names = list(published[0].scores)
    lines = [["published", "data set", *map(heading, names)], ["---", "---", *["---:"] * len(names)]]
    lines += [[each.model, each.dataset, *(_cell(each.scores[name]) for name in names)] for each in published]
    notes = dict.fromkeys(f"{each.dataset}: {each.note}" for each in published)
    return markdown_rows(lines) + "\n" + "".join(f"- Published scores of {note}.\n" for note in notes)


def _heading(name: str) -> str:
    event, _, score = name.rpartition("/")
    words = {"images_per_second": "images/s", "device_hours": "device hours", "pretraining_epoch": "pretraining epochs"}
    return f"{event} {heading(score)}".strip() if event else words.get(name, name)


def _cell(value: Any) -> str:
    if value is None:
        return "-"
    return f"{value:.4g}" if isinstance(value, float) else str(value)
