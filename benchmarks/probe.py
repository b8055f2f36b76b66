"""What the device does at best, measured: one large matrix product, one large copy."""

import time
from typing import Any

import jax
import jax.numpy as jnp

from benchmarks.ours import LIBRARIES, device_facts, device_for, versions

SIDES = {"gpu": 8192, "cpu": 1536}
COPIED_MIB = {"gpu": 2048, "cpu": 64}
REPEATS = 5


class Probe:
    """Measures while it is set up; there is nothing to step."""

    def __init__(self, spec: dict[str, Any]):
        self.device, self.dtype = spec["device"], spec["dtype"]

    def set_up(self) -> dict[str, Any]:
        """The device's name, its maker's peak, and what was reached."""
        device = device_for(self.device)
        with jax.default_device(device):
            return {
                **device_facts(device),
                "matmul_flops": matmul_flops(SIDES[self.device], jnp.dtype(self.dtype)),
                "copy_bytes_per_second": copy_speed(COPIED_MIB[self.device]),
                "memory_bytes": (device.memory_stats() or {}).get("bytes_limit"),
                "versions": versions(LIBRARIES),
            }


def matmul_flops(side: int, dtype: Any) -> float:
    """Operations per second of a square product of random numbers."""
    a, b = jax.random.normal(jax.random.key(0), (2, side, side), dtype)
    return 2.0 * side**3 / best_seconds(jax.jit(jnp.matmul), a, b)


def copy_speed(mib: int) -> float:
    """Bytes per second read and written by a pass over an array."""
    x = jax.random.normal(jax.random.key(0), (mib * 2**18,))
    return 2.0 * x.nbytes / best_seconds(jax.jit(jnp.negative), x)


def best_seconds(work: Any, *arguments: Any) -> float:
    """The quickest of some calls, after one that compiles."""
    jax.block_until_ready(work(*arguments))
    times = []
    for _ in range(REPEATS):
        started = time.perf_counter()
        jax.block_until_ready(work(*arguments))
        times.append(time.perf_counter() - started)
    return min(times)
