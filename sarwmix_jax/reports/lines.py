"""Lines of a log file: JSON objects, numbers apart from what is not one."""

import json
import math
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from sarwmix_jax.errors import UserError

Point = dict[str, float]
"""Finite numbers of one log line by name; `epoch` is the number of epochs done, a fraction where needed."""

NOT_FINITE = ("nan", "inf", "-inf")
"""How `log.jsonl` writes numbers that JSON does not have."""


def read_lines(path: Path) -> tuple[list[dict[str, Any]], list[str]]:
    """JSON objects of a log, and notes about what could not be read.

    Raises:
        UserError: The file cannot be read, or not one of its lines is a JSON object.
    """
    try:
        lines = path.read_text(errors="replace").splitlines()
    except OSError as error:
        raise UserError(f"{path} cannot be read as a log ({error}); give a log.jsonl or log.txt") from error
    entries, wrong = [], []
    for number, line in enumerate(lines, start=1):
        if line.strip():
            entry = _object(line)
            if entry is None:
                wrong.append(number)
            else:
                entries.append(entry)
    if wrong and not entries:
        raise UserError(f"{path} is not a log: line {wrong[0]} is not a JSON object; give a log.jsonl or log.txt")
    notes = ["the log is empty"] if not entries else []
    if wrong == [len(lines)]:
        notes.append("the last line is truncated, as after a crash or while it is written: left out")
    elif wrong:
        notes.append(f"{len(wrong)} lines are not JSON objects, the first is line {wrong[0]}: left out")
    return entries, notes


def _object(line: str) -> dict[str, Any] | None:
    try:
        entry = json.loads(line)
    except ValueError:
        return None
    return entry if isinstance(entry, dict) else None


def number(value: Any) -> float | None:
    """A finite number, else None."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        return None
    return float(value)


def points(entries: Sequence[Mapping[str, Any]], bands: Sequence[str], lost: Counter[str]) -> list[Point]:
    """Finite numbers of log entries that have an epoch; values per band are named by band.

    Args:
        entries: Entries of one kind.
        bands: Names of the bands.
        lost: Counts by name what is not finite, and is left out.
    """
    found = []
    for entry in entries:
        point: Point = {}
        for name, value in _flat(entry, bands):
            if (finite := number(value)) is not None:
                point[name] = finite
            elif isinstance(value, float) or value in NOT_FINITE:
                lost[name] += 1
        if "epoch" in point:
            found.append(point)
    return found


def _flat(entry: Mapping[str, Any], bands: Sequence[str]) -> list[tuple[str, Any]]:
    flat: list[tuple[str, Any]] = []
    for name, value in entry.items():
        if isinstance(value, list):
            if name.endswith("_per_band") and len(value) == len(bands):
                flat += [(f"{name}/{band}", part) for band, part in zip(bands, value, strict=True)]
        elif isinstance(value, str | int | float):
            flat.append((name, value))
    return flat


def lost_note(lost: Counter[str]) -> list[str]:
    """One line about values that are not finite; none where there are none."""
    if not lost:
        return []
    return [f"not finite and left out: {', '.join(f'{name} ({count} times)' for name, count in lost.items())}"]
