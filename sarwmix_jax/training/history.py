"""What the log of a run has: all lines, the values by step, and which start did which steps."""

import json
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from sarwmix_jax.training.logs import FILE_NAME

Entry = dict[str, Any]


def read_log(workdir: Path) -> list[Entry]:
    """All lines of a run's log; one that a crash has truncated, or that is damaged, is left out."""
    entries = []
    for line in (workdir / FILE_NAME).read_text(errors="replace").splitlines():
        with suppress(json.JSONDecodeError):
            entries.append(json.loads(line))
    return [entry for entry in entries if isinstance(entry, dict) and "event" in entry]


def training_curve(entries: list[Entry], event: str = "train") -> list[Entry]:
    """Entries of one kind by step; after a restart from an earlier step, the later entries are used."""
    by_step: dict[int, Entry] = {}
    for entry in entries:
        if entry["event"] == "start":
            by_step = {step: value for step, value in by_step.items() if step <= entry["step"]}
        elif entry["event"] == event:
            by_step[entry["step"]] = entry
    return [by_step[step] for step in sorted(by_step)]


@dataclass(frozen=True)
class Part:
    """Steps of a run that one start did, and that no later start did again.

    Attributes:
        first: Steps done before them.
        start: The line about the start.
        lines: Lines about training, by step.
    """

    first: int
    start: Entry
    lines: dict[int, Entry] = field(default_factory=dict)

    @property
    def last(self) -> int:
        """The last logged step."""
        return max(self.lines, default=self.first)

    def until(self, step: int) -> "Part":
        """The steps up to this one."""
        return Part(self.first, self.start, {done: line for done, line in self.lines.items() if done <= step})


def parts_of_run(entries: Sequence[Entry]) -> list[Part]:
    """The parts of a run, in order of steps."""
    parts: list[Part] = []
    for entry in entries:
        if not isinstance(entry.get("step"), int):
            continue
        if entry["event"] == "start":
            parts = [part.until(entry["step"]) for part in parts if part.first < entry["step"]]
            parts.append(Part(entry["step"], entry))
        elif entry["event"] == "train" and parts:
            parts[-1].lines[entry["step"]] = entry
    return parts
