"""Reads `log.jsonl`, the log of a run of this package, over all its starts."""

import itertools
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from sarwmix_jax.errors import UserError
from sarwmix_jax.facts.bands import BANDS
from sarwmix_jax.reports.goodput import goodput, goodput_note, spent
from sarwmix_jax.reports.lines import Point, lost_note, number, points, read_lines
from sarwmix_jax.reports.summary import PRETRAINING, LoggedRun, lowest_loss
from sarwmix_jax.training.history import training_curve
from sarwmix_jax.training.labelled import TASKS
from sarwmix_jax.training.logs import FILE_NAME

Entry = dict[str, Any]


def read_project_log(path: Path, entries: Sequence[Entry], notes: Sequence[str]) -> LoggedRun:
    """A run from the lines of its `log.jsonl`; after a restart from an earlier step, the later entries count."""
    known = [entry for entry in entries if entry.get("event") not in _STEPPED or isinstance(entry.get("step"), int)]
    starts = [entry for entry in known if entry.get("event") == "start"]
    settings = starts[-1].get("settings", {}) if starts else {}
    task = settings.get("task", PRETRAINING if "mask" in settings else "unknown")
    bands, lost = settings.get("model", {}).get("bands", BANDS), Counter[str]()
    lines = {event: training_curve(known, event) for event in ("train", "validation", "probe")}
    curves = {event: points(found, bands, lost) for event, found in lines.items()}
    best, rule = _best(task, lines["validation"], curves["validation"], bands)
    origin, epoch, about = _origin(known, settings)
    own = [*notes, *lost_note(lost), *about]
    own += ["no `start` in the log: task, settings and devices are not known"] * (bool(entries) and not starts)
    own += ["no validation in the log"] * (bool(starts) and not lines["validation"])
    again = sum(1 for one, two in itertools.pairwise(starts) if _reached(known, one, two) > two["step"])
    own += [f"{again} restarts from an earlier step: what was done again counts in the curves once"] * bool(again)
    seconds = spent(known)
    own += goodput_note(seconds)
    return LoggedRun(
        path,
        task,
        train=curves["train"],
        validation=curves["validation"],
        probe=curves["probe"],
        best=best,
        selected=rule,
        status=_status(known),
        notes=own,
        steps=max((entry["step"] for entry in lines["train"]), default=None),
        datasets=_datasets(starts),
        label_fraction=settings.get("data", {}).get("label_fraction", 1.0),
        origin=origin,
        random=bool(starts) and "init_from" in settings and settings["init_from"] is None and task in TASKS,
        pretraining_epoch=epoch,
        starts=len(starts),
        devices=_devices(starts),
        device_hours=_device_hours(known),
        goodput=goodput(seconds),
    )


_STEPPED = ("start", "train", "validation", "probe")


def _reached(entries: Sequence[Entry], first: Entry, second: Entry) -> int:
    """Largest step that was logged between two starts."""
    places = [number for number, entry in enumerate(entries) if entry is first or entry is second]
    steps = [entry["step"] for entry in entries[places[0] : places[1]] if entry.get("event") in _STEPPED]
    return int(max(steps))


def _best(task: str, lines: Sequence[Entry], found: Sequence[Point], bands: Sequence[str]) -> tuple[Point | None, str]:
    """The validation that the first rule of the task selected, or the lowest loss."""
    rule = TASKS[task].rules[0] if task in TASKS else "lowest_loss"
    marked = [line for line in lines if rule in (line.get("best") or ())]
    selected = points(marked[-1:], bands, Counter())
    if selected:
        return selected[0], rule
    best = lowest_loss(found)
    return best, "lowest_loss" if best else ""


def _status(entries: Sequence[Entry]) -> str:
    """How the last start ended."""
    last: Entry = next((e for e in reversed(entries) if e.get("event") in ("start", "end", "not_finite")), {})
    if last.get("event") == "end":
        return f"interrupted by {last['interrupted']}" if last.get("interrupted") else "finished"
    if last.get("event") == "not_finite":
        return "ended: the loss was not finite"
    return "running, or ended without notice" if last else "not started"


def _devices(starts: Sequence[Entry]) -> str:
    """Devices of all starts, as `2 x cpu`."""
    counts: list[Counter[str]] = [Counter(start.get("devices", ())) for start in starts]
    kinds = [" + ".join(f"{number_of} x {kind}" for kind, number_of in count.items()) for count in counts]
    return ", then ".join(kind for kind, _ in itertools.groupby(kinds) if kind)


def _device_hours(entries: Sequence[Entry]) -> float | None:
    """Hours from first to last line of every start, times the devices of that start, summed; None without a start."""
    hours, devices, began = None, 0, 0.0
    last = began
    for entry in [*entries, {"event": "start"}]:
        time = number(entry.get("time"))
        if entry.get("event") == "start":
            hours = hours if not devices else (hours or 0.0) + devices * max(last - began, 0.0) / 3600
            devices, began = len(entry.get("devices", ())), time or 0.0
            last = began
        elif entry.get("event") != "begin" and time is not None:  # `begin` belongs to the start that follows
            last = time
    return hours


def _datasets(starts: Sequence[Entry]) -> tuple[str, ...]:
    """Names of the data sets, as their contracts have them."""
    sets = starts[-1].get("source", {}).get("sets", ()) if starts else ()
    return tuple(dict.fromkeys(str(each["name"]) for each in sets if "name" in each))


def _origin(entries: Sequence[Entry], settings: Mapping[str, Any]) -> tuple[str | None, float | None, list[str]]:
    """What the run was initialised from, its epochs of pretraining, and notes."""
    begun = [entry for entry in entries if entry.get("event") == "begin" and "checkpoint" in entry]
    place = begun[-1]["checkpoint"] if begun else settings.get("init_from")
    if place is None:
        return None, None, []
    known = begun[-1] if begun else {}
    if known.get("kind", PRETRAINING) != PRETRAINING:
        return place, None, [f"initialised from {place}, a {known['kind']}: not placed at a pretraining epoch"]
    epoch = number(known.get("at_epoch"))
    if epoch is None and isinstance(known.get("at_step"), int):
        epoch = _epoch_of(Path(place), known["at_step"])
    unknown = [f"the epochs of pretraining behind {place} are not known: not placed at a pretraining epoch"]
    return place, epoch, unknown if epoch is None and settings.get("task") is not None else []


def _epoch_of(place: Path, step: int) -> float | None:
    """Epochs of a pretraining run at a step, from the run's own log if that is still there."""
    for folder in (place, *list(place.parents)[:2]):
        if (folder / FILE_NAME).is_file():
            try:
                entries, _ = read_lines(folder / FILE_NAME)
            except UserError:
                return None
            of_pretraining = any("mask" in entry.get("settings", {}) for entry in entries)
            found = [number(entry.get("epoch")) for entry in entries if entry.get("step") == step]
            return next((epoch for epoch in found if epoch is not None), None) if of_pretraining else None
    return None
