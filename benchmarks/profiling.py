"""Traces some steps of one of ours and accounts for their time."""

from pathlib import Path
from typing import Any

import jax

from benchmarks.hlo import read_instructions
from benchmarks.trace import account, kernels, read_events
from benchmarks.work import Unavailable


def profile(work: Any, folder: Path, steps: int) -> dict[str, Any]:
    """Trace `steps` steps into `folder` and give the account.

    Raises:
        Unavailable: The work is not one of ours, or the profiler wrote nothing that can be read.
    """
    compiled = getattr(work, "compiled", None)
    if compiled is None:
        raise Unavailable("only our own steps are traced")
    options = jax.profiler.ProfileOptions()
    options.python_tracer_level = 0  # its events would crowd out the kernels
    options.host_tracer_level = 2 if work.spec["device"] == "cpu" else 1
    work.before_round()
    with jax.profiler.trace(str(folder), profiler_options=options):
        for _ in range(steps):
            work.step()
        work.wait()
    traces = sorted(folder.rglob("*.trace.json.gz"))
    if not traces:
        raise Unavailable("the profiler wrote no trace")
    found = kernels(read_events(traces[-1]))
    if not found:
        raise Unavailable("the trace holds no kernels")
    return account(found, read_instructions(compiled.as_text()), steps)
