"""Reads `log.txt` of the published system: JSON lines with `epoch`, `n_parameters`, `train_*` and `test_*`.

Its epochs count from 0, and its `test_*` figures are those of the validation split (specification: notes on its logs).
"""

import re
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

from sarwmix_jax.metrics.selection import WEIGHTS, weighted
from sarwmix_jax.reports.lines import Point, lost_note, number, points
from sarwmix_jax.reports.summary import PRETRAINING, LoggedRun, lowest_loss

ORIGIN = "log of the published system: its test_* figures are VALIDATION figures; it has no times, so no device hours"

METRICS = {
    "ap": "ap",
    "map": "ap",
    "averageprecision": "ap",
    "f1": "f1",
    "precision": "precision",
    "recall": "recall",
}
"""Scores by the words that name them, without `macro` or `micro`."""


def is_published(entry: Mapping[str, Any]) -> bool:
    """Whether a line is one of `log.txt`."""
    return "event" not in entry and any(name.startswith(("train_", "test_")) for name in entry)


def read_published_log(path: Path, entries: Sequence[Mapping[str, Any]], notes: Sequence[str]) -> LoggedRun:
    """A run from the lines of its `log.txt`; an epoch that was done again replaces it and all later ones."""
    lost: Counter[str] = Counter()
    by_epoch, restarts, without = _by_epoch(entries)
    renamed = _known_scores(by_epoch.values())
    parts = {"train": [], "test": []}  # type: dict[str, list[dict[str, Any]]]
    for epoch, entry in sorted(by_epoch.items()):
        for part, found in parts.items():
            values = {name.removeprefix(f"{part}_"): v for name, v in entry.items() if name.startswith(f"{part}_")}
            if values:
                known = renamed if part == "test" else {"lr": "learning_rate"}
                found.append({"epoch": epoch + 1} | {known.get(name, name): value for name, value in values.items()})
    train, validation = (points(found, (), lost) for found in parts.values())
    own = [ORIGIN, *notes, *lost_note(lost)]
    own += [f"read {', '.join(f'test_{old} as {new}' for old, new in renamed.items())}"] * bool(renamed)
    own += [f"{restarts} restarts from an earlier epoch: what was done again counts"] * bool(restarts)
    own += [f"{without} lines without an epoch: left out"] * bool(without)
    own += ["no validation in the log"] * (not validation)
    scores = {name for point in validation for name in point} - {"epoch", "loss"}
    task = "finetuning (published log)" if scores else PRETRAINING
    best, rule = _best(validation)
    return LoggedRun(path, task, train, validation, best=best, selected=rule, notes=own)


def _by_epoch(entries: Sequence[Mapping[str, Any]]) -> tuple[dict[float, Mapping[str, Any]], int, int]:
    """Entries by epoch; how many began again at an earlier epoch; how many have none."""
    kept: dict[float, Mapping[str, Any]] = {}
    restarts = without = 0
    for entry in entries:
        epoch = number(entry.get("epoch"))
        if epoch is None:
            without += 1
            continue
        if any(each >= epoch for each in kept):
            restarts += 1
            kept = {each: value for each, value in kept.items() if each < epoch}
        kept[epoch] = entry
    return kept, restarts, without


def _known_scores(entries: Collection[Mapping[str, Any]]) -> dict[str, str]:
    """This package's names of scores by those of the log, where these are clear and all values shares of one."""
    renamed: dict[str, str] = {}
    for name in dict.fromkeys(name for entry in entries for name in entry if name.startswith("test_")):
        text = re.sub("[^a-z0-9]", "", name.removeprefix("test_").lower())
        average = next((each for each in ("macro", "micro") if each in text), None)
        metric = METRICS.get(re.sub("multilabel|score|macro|micro", "", text))
        values = [number(entry.get(name)) for entry in entries]
        new = f"{metric}_{average}"
        clear = metric is not None and average is not None and new not in renamed.values()
        if clear and all(0 <= value <= 1 for value in values if value is not None):
            renamed[name.removeprefix("test_")] = new
    return renamed


def _best(validation: Sequence[Point]) -> tuple[Point | None, str]:
    """The validation that the published weighted rule selects, or the lowest loss, or the last one."""
    scored = [point for point in validation if set(WEIGHTS) <= set(point)]
    if scored:
        return max(scored, key=weighted), "weighted"
    if (best := lowest_loss(validation)) is not None:
        return best, "lowest_loss"
    return (validation[-1], "last") if validation else (None, "")
