"""The report of a benchmark as JSON and Markdown, written after every measurement, each file whole or not at all."""

import json
import platform
import subprocess
from collections.abc import Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

from benchmarks.programs import Group, Program
from sarwmix_jax.errors import UserError

JSON, MARKDOWN = "bench.json", "bench.md"
ROOT = Path(__file__).parents[1]
CONDITIONS = {
    "started": "date -u +%Y-%m-%dT%H:%M:%SZ",
    "commit": "git describe --always --dirty",
    "system": "uname -srm",
    "processor": "grep -m1 'model name' /proc/cpuinfo | cut -d: -f2",
    "cores": "nproc",
    "load at the start": "cut -d' ' -f1 /proc/loadavg",
    "GPU driver and power limit": "nvidia-smi --query-gpu=driver_version,power.limit --format=csv,noheader",
    "XLA_FLAGS": "echo $XLA_FLAGS",
}
"""Conditions of a whole run by shell command; conditions without output are left out."""

COLUMNS = [
    "program",
    "images/s",
    "first ÷ it",
    "step ms (quickest to slowest round)",
    "peak memory",
    "compile s",
    "kernels",
    "GB moved",
    "remarks",
]
NOTE = """Programs of a table took turns in one run, every other round in reverse order. Speeds are medians over rounds;
*first ÷ it*, the speed of the first program relative to this one, is the median over pairs of rounds. Kernels, and the
bytes that they move without any cache, are read from the compiled program."""


class Results:
    """The programs of one run and its conditions."""

    def __init__(self, folder: Path, command: Sequence[str], plan: Sequence[Group]):
        """Start in a folder without results.

        Raises:
            UserError: The folder holds results, or cannot be written.
        """
        if (folder / JSON).exists():
            raise UserError(f"{folder / JSON} already exists; choose another --out")
        self.folder, self.finished = folder, False
        self.programs = list(dict.fromkeys(program for group in plan for program in group))
        self.about = conditions() | {"command": " ".join(command)}
        try:
            folder.mkdir(parents=True, exist_ok=True)
            self.save()
        except OSError as error:
            raise UserError(f"cannot write {folder}: {error.strerror}; choose another --out") from error

    def save(self) -> None:
        """Write both files, each whole or not at all."""
        data = {"about": self.about, "finished": self.finished, "programs": list(map(asdict, self.programs))}
        text = markdown(self.programs, self.about, self.finished)
        for name, content in ((JSON, json.dumps(data, indent=1)), (MARKDOWN, text)):
            temporary = self.folder / f".{name}.tmp"
            temporary.write_text(content)
            temporary.replace(self.folder / name)


def conditions() -> dict[str, str]:
    """Time, machine and commit of a run."""
    run = partial(subprocess.run, shell=True, cwd=ROOT, capture_output=True, text=True, check=False)
    found = {name: run(command).stdout.strip() for name, command in CONDITIONS.items()}
    return {"Python": platform.python_version()} | {name: text for name, text in found.items() if text}


def markdown(programs: Sequence[Program], about: dict[str, str], finished: bool) -> str:
    """The whole report; a program that was not measured is a row with the reason."""
    tables: dict[str, Group] = {}
    for program in programs:
        about = about | program.setup.get("versions", {})
        tables.setdefault(program.workload, []).append(program)
    parts = ["# Benchmark"] + ([] if finished else ["**Not finished: this is what was measured so far.**"])
    parts += ["\n".join(f"- {name}: {value}" for name, value in about.items()), NOTE]
    for workload, group in tables.items():
        lines = [COLUMNS, ["---", *["---:"] * (len(COLUMNS) - 2), "---"], *(cells(each, group[0]) for each in group)]
        parts += [f"## {workload}", "\n".join(f"| {' | '.join(line)} |" for line in lines)]
    return "\n\n".join(parts) + "\n"


def cells(program: Program, first: Program) -> list[str]:
    """One line of a table."""
    setup, rounds = program.setup, program.rounds
    compiled = [f"{setup['compile_seconds']:.1f}" if setup else ""]
    compiled += [f"{setup['kernels']:,}", f"{setup['bytes'] / 1e9:.2f}"] if "kernels" in setup else ["", ""]
    if not rounds:
        return [program.name, "", "", "", "", *compiled, program.reason or "not yet measured"]
    times = [1000 * each["seconds"] / each["steps"] for each in rounds]
    speed = f"{1000 * program.batch / median(times):,.5g}"
    spread = f"{median(times):,.5g} ({min(times):,.5g} to {max(times):,.5g})"
    ratio = "" if program is first else speed_ratio(first.rounds, rounds)
    golden = f"golden numbers to {setup['golden']:.0e}" if "golden" in setup else ""
    remarks = "; ".join(filter(None, (f"{len(rounds)} rounds", golden, setup.get("remarks"), program.reason)))
    return [program.name, speed, ratio, spread, f"{rounds[-1]['peak_bytes'] / 2**30:.2f} GiB", *compiled, remarks]


def speed_ratio(first: list[dict[str, Any]], other: list[dict[str, Any]]) -> str:
    """Speed of the first program relative to the other: median of the ratios of rounds that took turns.

    Empty where no rounds of the two took turns.
    """
    speeds, others = (
        {(each["wave"], each["number"]): each["steps"] / each["seconds"] for each in rounds}
        for rounds in (first, other)
    )
    ratios = [speeds[turn] / others[turn] for turn in speeds.keys() & others]
    return f"{median(ratios):.3f}" if ratios else ""
