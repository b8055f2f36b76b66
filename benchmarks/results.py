"""What was measured, written down at once: whoever ends the run, the files on the disk are whole."""

import json
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from benchmarks.plan import Contender, Workload
from benchmarks.report import markdown
from sarwmix_jax.errors import UserError

JSON_NAME, MARKDOWN_NAME = "bench.json", "bench.md"


@dataclass
class Row:
    """One contender on one workload.

    Attributes:
        status: "measured", "failed" or "skipped"; "begun" while it is measured.
        reason: Why it failed or was skipped.
        setup: What its process told after setting up.
        rounds: Timed rounds, each with `wave`, `number`, `steps`, `seconds` and what the work reported.
        step_seconds: Single steps, each waited for.
        facts: Peak memory and versions.
        alone: Whether memory had no room for it beside the reference, so that there is no ratio in turn.
    """

    workload: dict[str, Any]
    contender: dict[str, Any]
    status: str = "begun"
    reason: str = ""
    setup: dict[str, Any] = field(default_factory=dict)
    rounds: list[dict[str, Any]] = field(default_factory=list)
    step_seconds: list[float] = field(default_factory=list)
    facts: dict[str, Any] = field(default_factory=dict)
    alone: bool = False
    profile: dict[str, Any] | None = None


class Results:
    """The rows of one run and what is true of all, in `bench.json` and `bench.md` of a folder."""

    def __init__(self, folder: Path, about: dict[str, Any]):
        """Begin in a folder that holds no results yet.

        Raises:
            UserError: It does, or it cannot be written.
        """
        if (folder / JSON_NAME).exists():
            raise UserError(f"{folder / JSON_NAME} already exists; choose another --out")
        self.folder, self.about, self.device = folder, about, dict[str, Any]()
        self.rows: list[Row] = []
        self.finished = False
        try:
            folder.mkdir(parents=True, exist_ok=True)
            self.save()
        except OSError as error:
            raise UserError(f"cannot write {folder}: {error.strerror}; choose another --out") from error

    def row(self, workload: Workload, contender: Contender) -> Row:
        """The row of a contender, new unless it was measured before on the same workload."""
        for row in self.rows:
            if row.workload == asdict(workload) and row.contender["name"] == contender.name:
                return row
        self.rows.append(Row(asdict(workload), asdict(contender)))
        return self.rows[-1]

    def save(self) -> None:
        """Write both files, each whole or not at all."""
        data = {
            "about": self.about,
            "device": self.device,
            "finished": self.finished,
            "rows": [asdict(row) for row in self.rows],
        }
        for name, text in ((JSON_NAME, json.dumps(data, indent=1)), (MARKDOWN_NAME, markdown(data))):
            temporary = self.folder / f".{name}.tmp"
            temporary.write_text(text)
            temporary.replace(self.folder / name)
