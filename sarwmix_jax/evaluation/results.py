"""The result of one checkpoint or baseline on one split, written as JSON, CSV and Markdown."""

import csv
import io
import json
import math
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

from sarwmix_jax.errors import UserError
from sarwmix_jax.metrics.intervals import Interval
from sarwmix_jax.metrics.scores import ClassScores, Scores

COLUMNS = {
    "multilabel": ("ap_macro", "ap_micro", "f1_macro", "f1_micro"),
    "single_label": ("accuracy", "f1_macro", "precision_macro", "recall_macro"),
    "flood": ("accuracy_percent", "f1", "precision", "recall"),
}
"""Scores in the Markdown table, by task; JSON has all."""

HEADINGS = {"ap": "AP", "f1": "F1", "accuracy_percent": "accuracy, %"}


@dataclass(frozen=True)
class Result:
    """Scores of one set of predictions, with everything that is needed to interpret them.

    Attributes:
        name: Name of the checkpoint or baseline.
        dataset: Data set, such as `bigearthnet_v2`.
        split: Split that was scored.
        scores: The scores.
        intervals: 95 % intervals by score name; empty where none were computed.
        clusters: Number and kind of the clusters that the intervals resample, such as `87 acquisitions`.
        selection: How the checkpoint was chosen and on which split; empty for a baseline.
        details: Further facts, plain values: seed, replicates, temperature, thresholds, ...
        notes: Sentences to print below a table.
    """

    name: str
    dataset: str
    split: str
    scores: Scores
    intervals: Mapping[str, Interval] = field(default_factory=dict)
    clusters: str = ""
    selection: str = ""
    details: Mapping[str, Any] = field(default_factory=dict)
    notes: Sequence[str] = ()


@dataclass(frozen=True)
class Published:
    """Scores of a publication, for comparison with measured ones.

    Attributes:
        name: Model, and place of the publication.
        scores: Scores by name as in `metrics.Scores.summary`.
        note: What matters in a comparison, such as another split.
    """

    name: str
    scores: Mapping[str, float]
    note: str = ""


def result_json(result: Result) -> str:
    """A result as JSON.

    Raises:
        UserError: A value is NaN or infinite.
    """
    try:
        return json.dumps(asdict(result), indent=2, allow_nan=False) + "\n"
    except ValueError as error:
        raise UserError(f"result of {result.name}: a value is NaN or infinite; it cannot be written") from error


def read_result(path: Path) -> Result:
    """Read a result that `result_json` wrote.

    Raises:
        UserError: The file is missing or does not hold a result.
    """
    try:
        values = json.loads(path.read_text())
        scores = values["scores"]
        scores["per_class"] = tuple(ClassScores(**row) for row in scores["per_class"])
        if scores["confusion"] is not None:
            scores["confusion"] = tuple(map(tuple, scores["confusion"]))
        values["intervals"] = {name: Interval(**interval) for name, interval in values["intervals"].items()}
        return Result(**values | {"scores": Scores(**scores), "notes": tuple(values["notes"])})
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise UserError(f"{path}: not a result of an evaluation ({type(error).__name__}: {error})") from error


def class_csv(result: Result) -> str:
    """One line per class, with a heading; undefined values are empty."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    names = [column.name for column in fields(ClassScores)]
    writer.writerow(names)
    for row in result.scores.per_class:
        values = [getattr(row, name) for name in names]
        writer.writerow([f"{value:.6g}" if isinstance(value, float) else value for value in values])
    return text.getvalue()


def markdown_table(results: Sequence[Result], published: Sequence[Published] = ()) -> str:
    """Results as lines of one table with their intervals, then published scores, then notes.

    Raises:
        UserError: There are no results, or they are of different tasks, data sets or splits.
    """
    if not results:
        raise UserError("no results for a table: evaluate a checkpoint first")
    first = results[0]
    for result in results[1:]:
        for what in ("dataset", "split"):
            if getattr(result, what) != getattr(first, what):
                raise UserError(
                    f"{first.name} and {result.name} are not comparable: {what} {getattr(first, what)} and "
                    f"{getattr(result, what)}; make one table for each"
                )
        if (result.scores.task, result.scores.samples) != (first.scores.task, first.scores.samples):
            raise UserError(f"{first.name} and {result.name} are not comparable: tasks or numbers of samples differ")
    columns = COLUMNS[first.scores.task]
    lines = [["", *map(heading, columns)], ["---", *["---:"] * len(columns)]]
    lines += [[r.name, *(_cell(r.scores.summary[c], c, r.intervals.get(c)) for c in columns)] for r in results]
    for other in published:
        lines.append([f"published: {other.name}", *(_cell(other.scores.get(c), c, None) for c in columns)])
    return markdown_rows(lines) + "\n" + "\n".join(f"- {note}" for note in _notes(results, published)) + "\n"


def markdown_rows(lines: Sequence[Sequence[str]]) -> str:
    """Lines of cells as the rows of a Markdown table."""
    return "".join(f"| {' | '.join(cell.replace('|', '/') for cell in line)} |\n" for line in lines)


def heading(name: str) -> str:
    """A score's name for display: `ap_macro` is macro AP."""
    if name in HEADINGS:
        return HEADINGS[name]
    metric, _, average = name.rpartition("_")
    return f"{average} {HEADINGS.get(metric, metric)}" if metric else name


def _cell(value: float | None, name: str, interval: Interval | None) -> str:
    if value is None or math.isnan(value):
        return "-"
    digits = 2 if name.endswith("_percent") else 4
    if interval is None or interval.low is None:
        return f"{value:.{digits}f}"
    return f"{value:.{digits}f} [{interval.low:.{digits}f}, {interval.high:.{digits}f}]"


def _notes(results: Sequence[Result], published: Sequence[Published]) -> list[str]:
    first = results[0]
    scores = first.scores
    notes = [f"{first.dataset}, {first.split} split, {scores.samples:,} samples."]
    for unit in dict.fromkeys(r.clusters for r in results if r.clusters):
        notes.append(f"Brackets: 95 % bootstrap intervals that resample {unit}.")
    for result in results:
        reasons = dict.fromkeys(i.reason for i in result.intervals.values() if i.reason)
        notes += [f"{result.name}: no interval for some scores ({reason})." for reason in reasons]
        if result.selection:
            notes.append(f"{result.name}: {result.selection}.")
        notes += [f"{result.name}: {note}" for note in result.notes]
    if scores.without_positives:
        counted = "count as AP 0 in macro AP" if scores.task == "multilabel" else "have no recall"
        notes.append(f"{scores.without_positives} of {len(scores.per_class)} classes without positives {counted}.")
    return notes + [f"{other.name}: {other.note}" for other in published if other.note]


def write_files(folder: Path, texts: Mapping[str, str | bytes]) -> None:
    """Writes files to a folder, all or none: none is renamed to its final name before all are written.

    Raises:
        UserError: The folder cannot be written to.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=folder, prefix=".writing_") as place:
            for name, text in texts.items():
                (Path(place) / name).write_bytes(text.encode() if isinstance(text, str) else text)
            for name in texts:
                if (folder / name).is_dir():
                    raise IsADirectoryError(f"{name} is a folder")
            for name in texts:
                (Path(place) / name).replace(folder / name)
    except OSError as error:
        raise UserError(f"{folder}: cannot write results ({error}); choose another folder") from error


def write_result(folder: Path, result: Result) -> None:
    """Writes `result.json`, `classes.csv` and `result.md`.

    Raises:
        UserError: A value is NaN or infinite, or the folder cannot be written to.
    """
    files = {
        "result.json": result_json(result),
        "classes.csv": class_csv(result),
        "result.md": markdown_table([result]),
    }
    write_files(folder, files)
