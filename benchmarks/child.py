"""One program: a child process that sets up a piece of work and times it when asked to.

It reads a JSON object a line from stdin, first the specification of the work, then requests, and answers each with one
on stdout; between two requests it computes nothing. What libraries print goes to stderr. A failure is an answer too:
`failed` gives the reason; the process then ends.
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
"""A CPU's step times settle after three to four."""

Work = Any
"""What a program does, whatever it is made of: `JaxProgram` or `TorchProgram`.

`step()` starts one step, `wait()` returns when all that was started is done, `numbers()` gives what shows whether the
last step was right, `peak_bytes()` the most device memory held at once, or None where the device does not count it.
`facts` is worth reporting and known once it is built; `read_ahead` is for how many steps batches may lie ready. A JAX
program also has `trace(folder)`, a profiler.
"""


def build(spec: dict[str, Any]) -> Work:
    """The work that a specification from the parent describes."""
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
    """Steps started one after the other and waited for once, after those for which batches lie ready."""
    timed(work, work.read_ahead)
    with work.trace(profile) if profile else nullcontext():
        seconds = timed(work, steps)
    peak = work.peak_bytes() or resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    return {"steps": steps, "seconds": seconds, "peak_bytes": peak, **finite(work.numbers())}


def timed(work: Work, steps: int) -> float:
    """Seconds that some steps take."""
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
    os.dup2(2, 1)  # whoever else prints does so on stderr from now on
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
    os._exit(0)  # pools and compilers of the libraries have nothing left to do
