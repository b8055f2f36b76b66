"""Programs as child processes that take turns, as many side by side as the memory holds."""

import argparse
import json
import os
import select
import signal
import sys
import tempfile
import time
from contextlib import suppress
from pathlib import Path
from subprocess import PIPE, Popen
from typing import Any

from benchmarks.plan import Group
from benchmarks.report import ROOT, Results, Row

COMMAND = (sys.executable, "-m", "benchmarks.child")
LONGEST_SET_UP, LONGEST_ROUND = 1800.0, 300.0
FEED_OPTIONS = ("threads", "workers", "records")
KEPT = ("JAX_COMPILATION_CACHE_DIR", "TORCHINDUCTOR_CACHE_DIR")
PLATFORMS: dict[str, dict[str, str]] = {"cpu": {"JAX_PLATFORMS": "cpu"}, "gpu": {}}
MEMORY = {"XLA_PYTHON_CLIENT_PREALLOCATE": "false", "XLA_PYTHON_CLIENT_MEM_FRACTION": "0.95"}
AGREEMENT = {
    "float32": {"loss": 1e-4, "grad_norm": 1e-3, "logits": 1e-3},
    "bfloat16": {"loss": 1e-2, "grad_norm": 5e-2, "logits": 5e-2},
}
"""Largest relative difference between first steps that compute the same."""

BUDGET_ENDED = "the budget of time ended before it could be measured"


class Child:
    """One program's process; the first request tells it what to set up."""

    def __init__(self, log: Path, environment: dict[str, str]):
        """Start it; what it prints goes to `log`."""
        self.log, everything = log, os.environ | environment
        with log.open("ab") as stderr:  # a group of its own, so that a compiler's helpers end with it
            self.process: Any = Popen(
                COMMAND, cwd=ROOT, env=everything, stdin=PIPE, stdout=PIPE, stderr=stderr, text=True, process_group=0
            )

    def answer(self, seconds: float, **request: Any) -> dict[str, Any]:
        """The answer to a request; a failure too is one, with `failed` and `memory`."""
        with suppress(BrokenPipeError):  # a child that has ended gives no line below
            print(json.dumps(request), file=self.process.stdin, flush=True)
        if not select.select([self.process.stdout], [], [], max(seconds, 0.1))[0]:
            return {"failed": f"no answer within {seconds:.0f} s", "memory": False, "late": True}
        if line := self.process.stdout.readline():
            return dict(json.loads(line))
        code, printed = self.process.wait(), self.log.read_text(errors="replace").split("\n")
        reason = f"the process ended with code {code}: {' '.join(printed[-2:])[:200]}"
        return {"failed": reason, "memory": code == -signal.SIGKILL}  # which ends a process where memory is short

    def close(self) -> None:
        """End the process and what it started."""
        with suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.communicate()


class Bench:
    """Measures groups of programs until the budget ends.

    Attributes:
        wave: Number of the present set of programs that take turns.
        children: Those that are set up, by the program's name.
    """

    def __init__(self, options: argparse.Namespace, results: Results):
        self.options, self.results, self.started = options, results, time.monotonic()
        self.deadline = self.started + 60 * options.budget
        self.wave, self.children, self.scratch = 0, dict[str, Child](), Path()

    def run(self, plan: list[Group]) -> None:
        """Measure everything, or as much as the budget allows; every program ends as a row."""
        with tempfile.TemporaryDirectory(prefix="sarwmix_bench_") as scratch:
            self.scratch = Path(scratch)
            for group in plan:
                self.log(str(group.workload))
                try:
                    self.measure([self.results.row(group.workload, program) for program in group.programs])
                finally:
                    self.close()
        self.results.finished = True
        self.results.save()

    def log(self, text: str) -> None:
        """Write down what was measured, and print a line of progress."""
        self.results.save()
        print(f"{time.monotonic() - self.started:7.1f} s  {text}", file=sys.stderr, flush=True)

    def close(self, keep: str = "") -> None:
        """End all children but one."""
        for name in [name for name in self.children if name != keep]:
            self.children.pop(name).close()

    def measure(self, rows: list[Row]) -> None:
        """Time programs in turn, always with the first among them, side by side where the memory holds them."""
        crowded = self.take_turns(rows)
        while crowded:
            waiting, crowded = crowded, self.take_turns([rows[0], *crowded])
            if crowded == waiting:  # no room beside the first: each of the two is started for each of its rounds
                self.take_turns([rows[0], crowded.pop(0)], together=False)

    def take_turns(self, rows: list[Row], together: bool = True) -> list[Row]:
        """Rounds in turn, every other one backwards; gives the programs that had no room beside the others."""
        self.wave += 1
        self.close(keep=rows[0]["program"]["name"] if together else "")
        crowded: list[Row] = []
        for row in rows if together else ():
            if crowded or self.open(row):
                crowded.append(row)
        for number in range(self.options.rounds):
            for row in rows[:: -1 if number % 2 else 1]:
                if not together:
                    self.close()
                    self.open(row)
                self.round(row, number)
        return crowded

    def open(self, row: Row) -> bool:
        """Start and set up a program unless it runs or has failed; True where only the others take its memory."""
        name, options = row["program"]["name"], self.options
        if name in self.children or row["status"] == "failed":
            return False
        # the rounds of those set up are not given up for a further set-up
        seconds = self.deadline - time.monotonic() - len(self.children) * options.rounds * options.round_seconds
        if seconds <= 0:
            return self.end(row, "skipped", BUDGET_ENDED)
        self.log(f"  {name}: setting up")
        child = Child(self.scratch / "log", self.environment(row))
        feeding = {key: getattr(options, key) for key in FEED_OPTIONS} | {"folder": f"{self.scratch}/records"}
        answer = child.answer(min(seconds, LONGEST_SET_UP), **row["workload"], **row["program"], **feeding)
        problem = answer.get("failed") or disagreement(row, answer, self.results.rows)
        if problem:
            child.close()
            if answer.get("memory") and self.children:
                return True
            return self.end(row, "skipped" if answer.get("late") else "failed", problem)
        self.children[name] = child
        row["setup"] = row["setup"] or answer  # a second start finds its compilation ready
        if options.profile and row is self.results.rows[0] and not row["rounds"]:
            child.answer(LONGEST_ROUND, steps=3, profile=str(self.results.folder.resolve() / "trace"))
        return False

    def environment(self, row: Row) -> dict[str, str]:
        """Of a child: memory taken as needed, flags of the variant, compilations kept for a second start."""
        flags = {"XLA_FLAGS": f"{os.environ.get('XLA_FLAGS', '')} {row['program']['xla_flags']}".strip()}
        kept = {name: str(self.scratch / name) for name in KEPT if name not in os.environ}
        return {**MEMORY, **kept, **flags, **PLATFORMS[row["workload"]["device"]]}

    def round(self, row: Row, number: int) -> None:
        """One round of one program, if it runs and time is left."""
        name, batch = row["program"]["name"], row["workload"]["batch"]
        if name not in self.children or time.monotonic() >= self.deadline:
            return
        steps = max(1, round(self.options.round_seconds / row["setup"]["step_seconds"]))
        answer = self.children[name].answer(LONGEST_ROUND, steps=steps)
        if "failed" in answer:
            self.children.pop(name).close()
            self.end(row, "failed", answer["failed"])
            return
        row["status"] = "measured"
        row["rounds"].append({"wave": self.wave, "number": number, **answer})
        self.log(f"  {name}: round {number + 1}, {batch * answer['steps'] / answer['seconds']:,.5g} images/s")

    def end(self, row: Row, status: str, reason: str) -> bool:
        """Close a row that has no measurement, or keep the one it has; gives False."""
        if row["status"] != "measured":
            row["status"], row["reason"] = status, reason
        self.log(f"  {row['program']['name']}: {reason}")
        return False


def disagreement(row: Row, setup: dict[str, Any], rows: list[Row]) -> str | None:
    """How a JAX program's first step differs beyond rounding from that of its workload's first; None if it does not."""
    reference = next(each for each in rows if each["workload"] == row["workload"])
    if any(row["program"][name] != reference["program"][name] for name in ("kind", "feed")):
        return None  # other images
    for name, expected in reference["setup"].get("first", {}).items():
        value, allowed = setup["first"][name], AGREEMENT[row["workload"]["dtype"]][name]
        if not abs(value / expected - 1) <= allowed:
            return f"its first step gives {name} {value:.6g}, that of {reference['program']['name']} {expected:.6g}"
    return None
