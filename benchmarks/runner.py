"""Programs as child processes that take turns, as many at a time as fit in memory."""

import argparse
import json
import os
import select
import signal
import sys
import tempfile
import time
from contextlib import suppress
from dataclasses import asdict
from itertools import dropwhile
from pathlib import Path
from subprocess import PIPE, Popen
from typing import Any

from benchmarks.programs import Group, Program
from benchmarks.report import ROOT, Results

COMMAND = (sys.executable, "-m", "benchmarks.child")
LONGEST_SET_UP, LONGEST_ROUND = 1800.0, 300.0
KEPT = ("JAX_COMPILATION_CACHE_DIR", "TORCHINDUCTOR_CACHE_DIR")
PLATFORMS: dict[str, dict[str, str]] = {"cpu": {"JAX_PLATFORMS": "cpu"}, "gpu": {}}
MEMORY = {"XLA_PYTHON_CLIENT_PREALLOCATE": "false", "XLA_PYTHON_CLIENT_MEM_FRACTION": "0.95"}
AGREEMENT = {
    "float32": {"loss": 1e-4, "grad_norm": 1e-3, "logits": 1e-3},
    "bfloat16": {"loss": 1e-2, "grad_norm": 5e-2, "logits": 5e-2},
}
"""Largest relative difference between the results of first steps with the same computation."""


class Child:
    """The process of one program; the first request is the specification."""

    def __init__(self, log: Path, environment: dict[str, str]):
        """Start it; what it prints goes to `log`."""
        self.log, everything = log, os.environ | environment
        with log.open("ab") as stderr:  # a separate process group, so that a compiler's processes end with it
            self.process: Any = Popen(
                COMMAND, cwd=ROOT, env=everything, stdin=PIPE, stdout=PIPE, stderr=stderr, text=True, process_group=0
            )

    def answer(self, seconds: float, **request: Any) -> dict[str, Any]:
        """The answer to a request; a failure is an answer too, with `failed`."""
        with suppress(BrokenPipeError):  # a child that has ended sends no line below
            print(json.dumps(request, default=str), file=self.process.stdin, flush=True)
        if not select.select([self.process.stdout], [], [], max(seconds, 0.1))[0]:
            return {"failed": f"no answer within {seconds:.0f} s"}
        if line := self.process.stdout.readline():
            return dict(json.loads(line))
        code, printed = self.process.wait(), self.log.read_text(errors="replace").split("\n")
        return {"failed": f"the process ended with code {code}: {' '.join(printed[-2:])[:200]}"}

    def close(self) -> None:
        """End the process and its child processes."""
        with suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.communicate()


class Bench:
    """Measures groups of programs until the budget ends.

    Attributes:
        wave: Number of the current set of programs that take turns.
        children: Processes of the programs that are set up.
    """

    def __init__(self, options: argparse.Namespace, results: Results):
        self.options, self.results, self.started = options, results, time.monotonic()
        self.deadline = self.started + 60 * options.budget
        self.wave, self.children, self.scratch = 0, dict[Program, Child](), Path()

    def run(self, plan: list[Group]) -> None:
        """Measure everything, or as much as the budget allows; every program becomes a row of the report."""
        with tempfile.TemporaryDirectory(prefix="sarwmix_bench_") as scratch:
            self.scratch = Path(scratch)
            try:
                for group in plan:
                    self.log(group[0].workload)
                    later = self.take_turns(group)
                    while later:  # programs that do not fit in memory follow in a later set with the first one
                        later = self.take_turns([group[0], *later])
            finally:
                self.close()
        self.results.finished = True
        self.results.save()

    def log(self, text: str) -> None:
        """Save the measurements, and print a line of progress."""
        self.results.save()
        print(f"{time.monotonic() - self.started:7.1f} s  {text}", file=sys.stderr, flush=True)

    def close(self, keep: Program | None = None) -> None:
        """End all children but one."""
        for program in self.children.keys() - {keep}:
            self.children.pop(program).close()

    def take_turns(self, programs: Group) -> Group:
        """Rounds in turn, every other one in reverse order; returns the programs that follow later."""
        self.wave += 1
        self.close(keep=programs[0])
        later = list(dropwhile(self.open, programs))
        for number in range(self.options.rounds):
            for program in programs[:: -1 if number % 2 else 1]:
                self.round(program, number)
        return later

    def open(self, program: Program) -> bool:
        """Start and set up a program, unless it runs or has failed; False where it failed in a set of three or more."""
        if program in self.children or program.reason:
            return True
        # time for the rounds of programs that are set up is not used for a further set-up
        rounds_seconds = len(self.children) * self.options.rounds * self.options.round_seconds
        seconds = self.deadline - time.monotonic() - rounds_seconds
        if seconds <= 0:
            self.end(program, "the budget of time ended before more could be measured")
            return True
        self.log(f"  {program.name}: setting up")
        child = Child(self.scratch / "log", self.environment(program))
        spec = vars(self.options) | asdict(program) | {"folder": self.scratch / "records"}
        answer = child.answer(min(seconds, LONGEST_SET_UP), **spec)
        problem = answer.get("failed") or disagreement(program, answer, self.results.programs)
        if not problem:
            self.children[program] = child
            program.setup = program.setup or answer  # a second start finds its program in the cache
            if self.options.profile and program is self.results.programs[0] and not program.rounds:
                child.answer(LONGEST_ROUND, steps=3, profile=self.results.folder.resolve() / "trace")
            return True
        child.close()
        if "failed" in answer and len(self.children) > 1:  # possibly for lack of memory
            return False
        self.end(program, problem)
        return True

    def environment(self, program: Program) -> dict[str, str]:
        """Environment of a child: memory on demand, flags of the variant, compiled programs cached."""
        flags = {"XLA_FLAGS": f"{os.environ.get('XLA_FLAGS', '')} {program.xla_flags}".strip()}
        kept = {name: str(self.scratch / name) for name in KEPT if name not in os.environ}
        return {**MEMORY, **kept, **flags, **PLATFORMS[program.device]}

    def round(self, program: Program, number: int) -> None:
        """One round of one program, if it is running and time is left."""
        if program not in self.children or time.monotonic() >= self.deadline:
            return
        steps = max(1, round(self.options.round_seconds / program.setup["step_seconds"]))
        answer = self.children[program].answer(LONGEST_ROUND, steps=steps)
        if "failed" in answer:
            self.children.pop(program).close()
            self.end(program, answer["failed"])
            return
        program.rounds.append({"wave": self.wave, "number": number, **answer})
        speed = program.batch * steps / answer["seconds"]
        self.log(f"  {program.name}: round {number + 1}, {speed:,.5g} images/s")

    def end(self, program: Program, reason: str) -> None:
        """End the measurement of a program with the reason."""
        program.reason = reason
        self.log(f"  {program.name}: {reason}")


def disagreement(program: Program, setup: dict[str, Any], programs: list[Program]) -> str | None:
    """How a JAX program's first step differs, beyond rounding, from that of its workload's first program; else None."""
    reference = next(each for each in programs if each.workload == program.workload)
    if (program.kind, program.feed) != (reference.kind, reference.feed):
        return None  # other images
    for name, expected in reference.setup.get("first", {}).items():
        value, allowed = setup["first"][name], AGREEMENT[program.dtype][name]
        if not abs(value / expected - 1) <= allowed:
            return f"its first step gives {name} {value:.6g}, that of {reference.name} {expected:.6g}"
    return None
