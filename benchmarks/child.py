"""A child process that sets up one program and times it on request.

It reads JSON objects from stdin, one per line: first the specification of the program, then requests. It answers each
one with a JSON object on stdout and computes nothing in between. Output of libraries goes to stderr. A failure is an
answer too: `failed` gives the reason, and the process ends.
"""

import json
import math
import os
import resource
import sys
import time
import traceback
from contextlib import nullcontext
from typing import Any

from sarwmix_jax.errors import UserError

WARM_STEPS = 5
"""On a CPU, step times are stable after three to four steps."""

Work = Any
"""A program to time: `JaxProgram` or `TorchProgram`.

`step()` starts one step, `wait()` returns when all started steps are done, `numbers()` returns values that show whether
the last step was right, `peak_bytes()` the largest use of device memory, or None where the device does not count it.
`facts` are reported and known once the program is built; `read_ahead` is the number of steps whose batches may be
ready. A JAX program also has `trace(folder)`, a profiler.
"""


def build(spec: dict[str, Any]) -> Work:
    """The program of a specification from the parent."""
    if spec["kind"] == "jax":
        from benchmarks.jax_program import JaxProgram

        return JaxProgram(spec)
    from benchmarks.torch_program import checked_program

    return checked_program(spec)


def set_up(work: Work) -> dict[str, Any]:
    """Runs the first steps."""
    first_seconds = timed(work, 1)
    first = finite(work.numbers())
    seconds = min(timed(work, 1) for _ in range(WARM_STEPS))
    return {"compile_seconds": max(first_seconds - seconds, 0.0), "first": first, "step_seconds": seconds} | work.facts


def answer(work: Work, steps: int, profile: str = "") -> dict[str, Any]:
    """Time of consecutive steps with one wait at the end, after the steps whose batches are ready."""
    timed(work, work.read_ahead)
    with work.trace(profile) if profile else nullcontext():
        seconds = timed(work, steps)
    peak = work.peak_bytes() or resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    return {"steps": steps, "seconds": seconds, "peak_bytes": peak, **finite(work.numbers())}


def timed(work: Work, steps: int) -> float:
    """Seconds that `steps` steps take."""
    started = time.perf_counter()
    for _ in range(steps):
        work.step()
    work.wait()
    return time.perf_counter() - started


def finite(numbers: dict[str, float]) -> dict[str, float]:
    """The same numbers.

    Raises:
        UserError: One is not finite.
    """
    if not all(map(math.isfinite, numbers.values())):
        raise UserError(f"a step gave {numbers}")
    return numbers


def main() -> None:
    """Answer requests until there are none."""
    replies = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)  # from now on, everything that libraries print goes to stderr
    try:
        work = build(json.loads(sys.stdin.readline()))
        print(json.dumps(set_up(work)), file=replies)
        for line in sys.stdin:
            print(json.dumps(answer(work, **json.loads(line))), file=replies)
    except Exception as error:  # becomes a row of the report with its reason
        traceback.print_exc()
        reason = " ".join(f"{type(error).__name__}: {error}".split()).removeprefix("UserError: ")
        print(json.dumps({"failed": reason[:300]}), file=replies)


if __name__ == "__main__":
    main()
    os._exit(0)  # without waiting for the libraries' thread pools and compilers
