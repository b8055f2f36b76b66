"""What the log of a run has: all lines, and the values by step."""

import json
from contextlib import suppress
from pathlib import Path
from typing import Any

from sarwmix_jax.training.logs import FILE_NAME


def read_log(workdir: Path) -> list[dict[str, Any]]:
    """All lines of a run's log; a line that a crash has truncated is left out."""
    entries = []
    for line in (workdir / FILE_NAME).read_text().splitlines():
        with suppress(json.JSONDecodeError):
            entries.append(json.loads(line))
    return entries


def training_curve(entries: list[dict[str, Any]], event: str = "train") -> list[dict[str, Any]]:
    """Entries of one kind by step; after a restart from an earlier step, the later entries are used."""
    by_step: dict[int, dict[str, Any]] = {}
    for entry in entries:
        if entry["event"] == "start":
            by_step = {step: value for step, value in by_step.items() if step <= entry["step"]}
        elif entry["event"] == event:
            by_step[entry["step"]] = entry
    return [by_step[step] for step in sorted(by_step)]
