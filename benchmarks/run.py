"""A whole benchmark run: probe the device, measure group after group, keep the files whole."""

import os
import platform
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from benchmarks.in_turn import Desk, run_group
from benchmarks.plan import Options, Workload, make_plan
from benchmarks.processes import ROOT, Child
from benchmarks.results import Results
from sarwmix_jax.version import __version__


def run(options: Options, out: Path, budget_minutes: float | None, say: Callable[[str], None]) -> Results:
    """Measure everything, or as much as the budget allows.

    Args:
        options: What the user asked for.
        out: Folder for the results.
        budget_minutes: After so long nothing new is begun; None: no limit.
        say: Called with lines of progress.

    Raises:
        UserError: The folder cannot be used.
    """
    deadline = float("inf") if budget_minutes is None else time.monotonic() + 60 * budget_minutes
    results = Results(out, about(options))
    with tempfile.TemporaryDirectory(prefix="sarwmix_bench_") as scratch:
        desk = Desk(options, results, deadline, Path(scratch), say)
        plan = make_plan(options)
        probe(plan[0].workload, desk)
        for group in plan:
            run_group(group, desk)
    results.finished = True
    results.save()
    return results


def probe(workload: Workload, desk: Desk) -> None:
    """What the device does at best, measured in a process of its own."""
    if desk.left <= 0:
        return
    desk.say("probing the device")
    platforms = {"JAX_PLATFORMS": "cpu"} if workload.device == "cpu" else {}
    child = Child(
        {"kind": "probe", "device": workload.device, "dtype": workload.dtype}, desk.scratch / "children.log", platforms
    )
    desk.results.device = child.ask({"do": "set_up"}, desk.left)
    child.close()
    desk.results.save()


def about(options: Options) -> dict[str, Any]:
    """Where, when and what of a run."""
    return {
        "sarwmix_jax": __version__,
        "commit": tell("git", "-C", str(ROOT), "rev-parse", "--short", "HEAD"),
        "started": datetime.now(UTC).isoformat(timespec="seconds"),
        "python": platform.python_version(),
        "system": platform.platform(),
        "processor": processor(),
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "load": os.getloadavg()[0],
        "driver": tell("nvidia-smi", "--query-gpu=driver_version,power.limit", "--format=csv,noheader"),
        "xla_flags": os.environ.get("XLA_FLAGS", ""),
        "options": asdict(options),
        "command": sys.argv[1:],
    }


def processor() -> str:
    """Name of the processor."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), "unknown")


def tell(*command: str) -> str | None:
    """What a small program says; None where it is not there or fails."""
    try:
        result = subprocess.run(command, capture_output=True, text=True, timeout=10, check=True)
    except (OSError, subprocess.SubprocessError):
        return None
    return result.stdout.strip() or None
