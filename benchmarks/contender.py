"""One contender: a child process that sets up a piece of work and times it when told to.

It reads one JSON object a line from stdin and answers each with one on stdout; between two requests it computes
nothing. What libraries print goes to stderr. A failure is an answer too: `failed` says why, `memory` whether more
memory would have helped.
"""

import json
import os
import sys
import time
import traceback
from pathlib import Path
from typing import Any, TextIO

from benchmarks.work import Unavailable, Work
from sarwmix_jax.errors import UserError

MEMORY_WORDS = ("resource_exhausted", "out of memory", "out_of_memory", "bad_alloc", "cannot allocate memory")
LONGEST_REASON = 300


def make_work(spec: dict[str, Any]) -> Work:
    """The work that a specification from the parent describes."""
    work: Work
    if spec["kind"] == "torch":
        from benchmarks.torch_peer import TorchPeer

        work = TorchPeer(spec)
    elif spec["kind"] == "host":
        from benchmarks.feeds import HostInput

        work = HostInput(spec)
    elif spec["kind"] == "probe":
        from benchmarks.probe import Probe

        return Probe(spec)  # type: ignore[return-value]
    else:
        from benchmarks.ours import Ours

        work = Ours(spec)
    return work


def answer(work: Work, request: dict[str, Any]) -> dict[str, Any]:
    """Do what the parent asks for."""
    what = request["do"]
    if what == "set_up":
        return work.set_up()
    if what == "round":
        return timed_round(work, request["steps"])
    if what == "steps":
        return {"step_seconds": single_steps(work, request["steps"])}
    if what == "profile":
        from benchmarks.profiling import profile

        return profile(work, Path(request["folder"]), request["steps"])
    return work.facts()


def timed_round(work: Work, steps: int) -> dict[str, Any]:
    """Steps started one after the other and waited for once."""
    work.before_round()
    started = time.perf_counter()
    for _ in range(steps):
        work.step()
    work.wait()
    seconds = time.perf_counter() - started
    return {"steps": steps, "seconds": seconds} | work.after_round()


def single_steps(work: Work, steps: int) -> list[float]:
    """Seconds of single steps, each waited for."""
    work.before_round()
    times = []
    for _ in range(steps):
        started = time.perf_counter()
        work.step()
        work.wait()
        times.append(time.perf_counter() - started)
    return times


def failure(error: BaseException) -> dict[str, Any]:
    """A failure as an answer, in one line."""
    text = " ".join(str(error).split())
    memory = isinstance(error, MemoryError) or any(word in text.lower() for word in MEMORY_WORDS)
    known = isinstance(error, Unavailable | UserError)
    reason = text if known else f"{type(error).__name__}: {text}"
    return {"failed": reason[:LONGEST_REASON], "memory": memory}


def private_stdout() -> TextIO:
    """The stdout that the parent reads; whoever else prints does so on stderr from now on."""
    stream = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)
    return stream


def main() -> int:
    """Answer requests until there are none."""
    replies = private_stdout()
    spec = json.loads(sys.argv[1])
    work = None
    for line in sys.stdin:
        request = json.loads(line)
        if request["do"] == "quit":
            break
        try:
            work = make_work(spec) if work is None else work
            reply = answer(work, request)
        except Exception as error:  # becomes a row of the report with its reason
            traceback.print_exc()
            reply = failure(error)
        print(json.dumps(reply), file=replies, flush=True)
    return 0


if __name__ == "__main__":
    code = main()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)  # pools and compilers of the libraries have nothing left to say
