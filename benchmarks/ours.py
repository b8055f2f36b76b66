"""Our contender: the real compiled steps, on batches that lie on the device or come through the real pipeline."""

import importlib.metadata
import itertools
import resource
import time
from collections.abc import Iterator
from typing import Any

import jax
import numpy as np

from benchmarks import sample
from benchmarks.programs import CLASSES, Program, make_program, model_settings
from benchmarks.work import Unavailable
from sarwmix_jax.training import cost
from sarwmix_jax.training.parallel import make_mesh, shard_batch

BATCHES = 4
"""Batches that lie on the device and are used in turn."""

WARM_STEPS = 5
"""A CPU's step times settle after three to four."""

LIBRARIES = ("jax", "jaxlib", "flax", "optax", "grain", "array_record")


class Ours:
    """One variant of one task."""

    def __init__(self, spec: dict[str, Any]):
        self.spec = spec
        self.program: Program
        self.compiled: Any
        self.batches: Iterator[dict[str, Any]]
        self.close_feed = lambda: None
        self.waited = 0.0

    def set_up(self) -> dict[str, Any]:
        """Builds, compiles, checks the first step and warms up."""
        spec = self.spec
        mesh = make_mesh([device_for(spec["device"])])
        settings = model_settings(spec)
        self.program = make_program(spec["task"], settings, spec["batch"], mesh)
        self.batches, example = self._feed(mesh)
        started = time.perf_counter()
        lowered = self.program.jitted.lower(*self.program.arguments(example))
        traced = time.perf_counter()
        self.compiled = lowered.compile()
        compiled = time.perf_counter()
        self.step()
        first = self.program.numbers()
        return {
            "trace_seconds": traced - started,
            "compile_seconds": compiled - traced,
            "first": first,
            "step_seconds": self._warm_up(),
            "flops_per_image": flops_per_image(spec["task"], settings),
            **device_facts(mesh.devices.item()),
            **compiler_facts(self.compiled),
        }

    def _feed(self, mesh: Any) -> tuple[Iterator[dict[str, Any]], dict[str, Any]]:
        spec = self.spec
        if spec["feed"] == "synthetic":
            host = sample.batches(BATCHES, spec["batch"], CLASSES)
            ready = [shard_batch(self.program.needed(batch), mesh) for batch in host]
            return itertools.cycle(ready), ready[0]
        from benchmarks.feeds import open_feed

        batches = open_feed(spec["feed"], spec["options"], spec["batch"], mesh)
        first = next(batches)
        return itertools.chain([first], batches), first

    def _warm_up(self) -> float:
        times = []
        for _ in range(self.spec.get("warm_steps", WARM_STEPS)):
            started = time.perf_counter()
            self.step()
            self.wait()
            times.append(time.perf_counter() - started)
        return min(times)

    def step(self) -> None:
        """Starts one step on the next batch."""
        asked = time.perf_counter()
        batch = next(self.batches)
        self.waited += time.perf_counter() - asked
        self.program.take(self.compiled(*self.program.arguments(batch)))

    def wait(self) -> None:
        """Waits for the last step."""
        jax.block_until_ready(self.program.last)

    def before_round(self) -> None:
        """Uses up what was read ahead while nothing was timed."""
        for _ in range(self.spec["options"].get("buffered", 0)):
            self.step()
        self.wait()
        self.waited = 0.0

    def after_round(self) -> dict[str, Any]:
        """The last step's numbers, which must be finite, and the time spent waiting for batches."""
        numbers = self.program.numbers()
        if not all(np.isfinite(value) for value in numbers.values()):
            raise Unavailable(f"a step gave {numbers}")
        return {"data_wait_seconds": self.waited, **numbers}

    def facts(self) -> dict[str, Any]:
        """Peak memory and versions."""
        found = {"versions": versions(LIBRARIES)}
        stats = jax.local_devices()[0].memory_stats() or {}
        if "peak_bytes_in_use" in stats:
            return found | {"peak_bytes": int(stats["peak_bytes_in_use"]), "peak_of": "device"}
        return found | {"peak_bytes": process_peak_bytes(), "peak_of": "process"}


def device_for(kind: str) -> jax.Device:
    """The first device of a kind.

    Raises:
        Unavailable: There is none.
    """
    try:
        return jax.devices(kind)[0]
    except RuntimeError as error:
        raise Unavailable(f"JAX finds no {kind}: {str(error).splitlines()[0]}") from error


def flops_per_image(task: str, settings: Any) -> float:
    """The model's own operations for one image of a step."""
    if task == "pretrain":
        return cost.training_flops(settings)
    return cost.encoder_flops(settings) * (3 if task == "finetune" else 1)


def device_facts(device: jax.Device) -> dict[str, Any]:
    """The device by name and its maker's operations a second."""
    return {"device_kind": device.device_kind, "peak_flops": cost.peak_flops(device)}


def compiler_facts(compiled: Any) -> dict[str, Any]:
    """XLA's own account of a compiled step: operations, bytes moved, memory."""
    costs = compiled.cost_analysis() or {}
    memory = compiled.memory_analysis()
    names = ("argument", "output", "temp", "alias")
    sizes = {} if memory is None else {name: int(getattr(memory, f"{name}_size_in_bytes")) for name in names}
    return {"xla": {"flops": costs.get("flops"), "bytes_accessed": costs.get("bytes accessed"), "memory": sizes}}


def versions(packages: tuple[str, ...]) -> dict[str, str]:
    """Versions of those packages that are installed."""
    found = {}
    for name in packages:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def process_peak_bytes() -> int:
    """Most memory that this process held at once."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
