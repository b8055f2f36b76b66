"""A profiler's trace as an account: milliseconds of a step by kind of work."""

import gzip
import json
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from benchmarks import hlo

BY_KERNEL = (
    (hlo.COLLECTIVES, re.compile(r"nccl|all.?reduce|all.?gather|reduce.?scatter", re.I)),
    (hlo.ATTENTION, re.compile(r"fmha|flash|attention|cudnn.*sdpa", re.I)),
    (hlo.PRODUCTS, re.compile(r"gemm|nvjet|cutlass|xmma|cublas|matmul|wgmma", re.I)),
    (hlo.COPIES, re.compile(r"memcpy|memset|copy|transpose", re.I)),
    (hlo.SOFTMAX, re.compile(r"softmax", re.I)),
)
"""Kinds by the name of a kernel, for those that carry no name of an instruction (as inside CUDA graphs)."""


def read_events(path: Path) -> list[dict[str, Any]]:
    """Events of a `.trace.json.gz`."""
    with gzip.open(path, "rt") as file:
        events: list[dict[str, Any]] = json.load(file)["traceEvents"]
    return events


def kernels(events: Iterable[dict[str, Any]]) -> list[dict[str, Any]]:
    """What ran on the device: kernels on a GPU's streams, or a CPU's instructions.

    Profilers repeat a GPU's kernels on derived lines ("XLA Ops" and others); only the streams count.
    """
    events = list(events)
    named = {(e["pid"], e.get("tid"), e["name"]): e["args"]["name"] for e in events if e.get("ph") == "M" and _names(e)}

    def process(event: dict[str, Any]) -> str:
        return str(named.get((event["pid"], None, "process_name"), ""))

    def thread(event: dict[str, Any]) -> str:
        return str(named.get((event["pid"], event["tid"], "thread_name"), ""))

    complete = [event for event in events if event.get("ph") == "X"]
    on_device = [e for e in complete if process(e).startswith("/device:GPU") and thread(e).startswith("Stream")]
    return on_device or [e for e in complete if "hlo_op" in e.get("args", {})]


def _names(event: dict[str, Any]) -> bool:
    return event["name"] in ("process_name", "thread_name")


def account(kernels: list[dict[str, Any]], instructions: dict[str, hlo.Instruction], steps: int) -> dict[str, Any]:
    """Milliseconds of one step by kind, and how long nothing ran.

    Args:
        kernels: Trace events, times in microseconds.
        instructions: Those of the compiled step.
        steps: Steps in the trace.

    Returns:
        `kinds` (largest first), `busy_ms` (their sum: more than the span where several run at once), `span_ms`,
        `idle_ms`, `steps`, `kernels` of a step, `top`: the kernels that take longest, and a `note`.
    """
    kinds: dict[str, float] = {}
    single: dict[tuple[str, str], float] = {}
    intervals = []
    for event in kernels:
        name = event.get("args", {}).get("hlo_op", event["name"])
        instruction = instructions.get(hlo.plain_name(name))
        if instruction is not None and instruction.opcode in hlo.CONTAINERS:
            continue
        kind = kernel_kind(event["name"]) if instruction is None else instruction.kind
        milliseconds = event["dur"] / 1000 / steps
        kinds[kind] = kinds.get(kind, 0.0) + milliseconds
        single[name, kind] = single.get((name, kind), 0.0) + milliseconds
        intervals.append((event["ts"], event["ts"] + event["dur"]))
    span, covered = cover(intervals)
    top = sorted(single.items(), key=lambda item: -item[1])[:20]
    return {
        "steps": steps,
        "kinds": dict(sorted(kinds.items(), key=lambda item: -item[1])),
        "busy_ms": sum(kinds.values()),
        "span_ms": span / 1000 / steps,
        "idle_ms": (span - covered) / 1000 / steps,
        "kernels": len(intervals) / steps,
        "top": [{"name": name, "kind": kind, "ms": value} for (name, kind), value in top],
        "note": "Times of a CPU's threads add up to more than the span."
        if sum(kinds.values()) > span / 1000 / steps
        else "",
    }


def kernel_kind(name: str) -> str:
    """Kind of a kernel by its own name."""
    return next((kind for kind, pattern in BY_KERNEL if pattern.search(name)), hlo.UNKNOWN)


def cover(intervals: list[tuple[float, float]]) -> tuple[float, float]:
    """From the first start to the last end, and how much of it some interval covers."""
    covered, reached = 0.0, float("-inf")
    for start, end in sorted(intervals):
        covered += max(0.0, end - max(start, reached))
        reached = max(reached, end)
    return (reached - min(start for start, _ in intervals), covered) if intervals else (0.0, 0.0)
