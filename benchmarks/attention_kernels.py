"""Times attention alone, forward and backward, at the shapes of the published base model: XLA, cuDNN and the kernel.

    python -m benchmarks.attention_kernels [--batch=256] [--repeats=20] [--sweep] [--out=FILE.json]

Needs a GPU. `--sweep` also times other launches of the fused kernel. On a CPU `--check` alone runs: a tiny comparison
in Pallas' interpreter, without times.
"""

import argparse
import functools
import itertools
import json
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from sarwmix_jax.errors import UserError
from sarwmix_jax.models.fused_attention import LAUNCH, Launch, fused_attention, interpreted, unsupported
from sarwmix_jax.models.layers import self_attend

DEPTH = 32
"""Head depth of all published models."""


@dataclass(frozen=True)
class Place:
    """Where base attends: sequences of an image, tokens and heads of each, windows of the bias (None: no bias)."""

    name: str
    windows: int
    tokens: int
    heads: int
    biases: int | None


PLACES = (
    Place("stage 1", 16, 64, 4, 1),
    Place("stage 2", 4, 64, 8, 4),
    Place("stage 3, groups", 2, 32, 16, 2),
    Place("stage 3, whole", 1, 64, 16, 1),
    Place("stage 4, groups", 2, 8, 32, 2),
    Place("stage 4, whole", 1, 16, 32, 1),
    Place("decoder", 2, 16, 16, None),
)

Attention = Callable[[Array, Array | None], Array]


def arrays(place: Place, batch: int, dtype: Any) -> tuple[Array, Array | None, Array]:
    """Packed queries, keys and values, bias, cotangent; drawn, since times on zeros deceive."""
    rng = np.random.default_rng(0)
    width, shape = place.heads * DEPTH, (batch, place.windows, place.tokens)
    qkv, cotangent = (
        jnp.asarray(rng.standard_normal((*shape, size), np.float32), dtype) for size in (3 * width, width)
    )
    if place.biases is None:
        return qkv, None, cotangent
    bias = rng.standard_normal((place.biases, place.heads, place.tokens, place.tokens), np.float32)
    return qkv, jnp.asarray(bias), cotangent


def attentions(place: Place, sweep: bool = False) -> dict[str, Attention]:
    """The ways to compute one place's attention."""
    ways: dict[str, Attention] = {
        kernel: functools.partial(_self_attend, place.heads, kernel) for kernel in ("xla", "cudnn", "fused")
    }
    if sweep:
        for choice in itertools.product((512, 1024, 2048, 4096), (8, 16, 32), (1, 2, 3)):
            launch = Launch(*choice)
            ways[f"fused {choice}"] = functools.partial(_launched, place.heads, launch)
    return ways


def _self_attend(heads: int, kernel: Any, qkv: Array, bias: Array | None) -> Array:
    return self_attend(qkv, heads, bias, kernel)


def _launched(heads: int, launch: Launch, qkv: Array, bias: Array | None) -> Array:
    return fused_attention(qkv, heads, bias, launch)


def gradients(attention: Attention) -> Callable[..., Any]:
    """(qkv, bias, cotangent) -> (output, gradients), compiled."""

    def both(qkv: Array, bias: Array | None, cotangent: Array) -> Any:
        out, pull = jax.vjp(attention, qkv, bias)
        return out, pull(cotangent)

    return jax.jit(both)


def difference(found: Any, expected: Any) -> float:
    """Largest difference of any result, relative to its largest value."""
    pairs = zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True)
    wide = [(a.astype(jnp.float32), b.astype(jnp.float32)) for a, b in pairs]
    return max(float(jnp.abs(a - b).max() / jnp.abs(b).max()) for a, b in wide)


def measure(place: Place, batch: int, repeats: int, sweep: bool = False) -> list[dict[str, Any]]:
    """Medians in milliseconds, the ways in turn; a way that fails or is far from float32 has no time."""
    given, rows, runs = arrays(place, batch, jnp.bfloat16), [], {}
    with jax.default_matmul_precision("highest"):
        wide = (None if x is None else x.astype(jnp.float32) for x in given)
        exact = gradients(attentions(place)["xla"])(*wide)
    for name, attention in attentions(place, sweep).items():
        row: dict[str, Any] = {"place": place.name, "kernel": name, "ms": None}
        rows.append(row)
        try:
            run = gradients(attention)
            row["difference"] = round(difference(run(*given), exact), 5)
        except Exception as error:  # what a library refuses has many kinds, and is a result here
            row["error"] = f"{type(error).__name__}: {str(error).splitlines()[0][:200] if str(error) else ''}"
            continue
        if row["difference"] < 0.03:
            runs[name] = run
    times = _times_in_turn(runs, given, repeats)
    for row in rows:
        row["ms"] = times.get(row["kernel"])
    return rows


def _times_in_turn(runs: dict[str, Callable[..., Any]], given: Sequence[Any], repeats: int) -> dict[str, float]:
    calls = 10
    times: dict[str, list[float]] = {name: [] for name in runs}
    for _ in range(repeats):
        for name, run in runs.items():
            started = time.perf_counter()
            for _ in range(calls):
                results = run(*given)
            jax.block_until_ready(results)
            times[name].append((time.perf_counter() - started) / calls * 1e3)
    return {name: round(statistics.median(each), 4) for name, each in times.items()}


def run(batch: int = 256, repeats: int = 20, sweep: bool = False) -> dict[str, Any]:
    """The whole table, ready for JSON.

    Raises:
        UserError: There is no GPU.
    """
    if jax.default_backend() != "gpu":
        raise UserError("timing attention needs a GPU and this machine has none; use --check for a comparison")
    table = [row for place in PLACES for row in measure(place, batch, repeats, sweep)]
    device = jax.devices()[0].device_kind
    about = {"device": device, "jax": jax.__version__, "batch": batch, "dtype": "bfloat16", "repeats": repeats}
    return about | {"launch": LAUNCH._asdict(), "rows": table}


def check() -> float:
    """Largest relative difference between the interpreted kernel and plain attention, float32."""
    place = Place("check", 2, 16, 2, 2)
    given = arrays(place, 3, jnp.float32)
    assert unsupported(given[0], place.heads, given[1]) is None
    ways = attentions(place)
    with interpreted():
        return difference(gradients(ways["fused"])(*given), gradients(ways["xla"])(*given))


def main() -> None:
    """Runs from the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--batch", type=int, default=256)
    parser.add_argument("--repeats", type=int, default=20)
    parser.add_argument("--sweep", action="store_true")
    parser.add_argument("--check", action="store_true")
    parser.add_argument("--out", type=Path)
    asked = parser.parse_args()
    if asked.check:
        print(f"interpreted kernel and plain attention differ by {check():.1e} of the largest value")
        return
    try:
        found = run(asked.batch, asked.repeats, asked.sweep)
    except UserError as error:
        sys.exit(str(error))
    for row in found["rows"]:
        ms = "-" if row["ms"] is None else f"{row['ms']:.3f} ms"
        print(f"{row['place']:16} {row['kernel']:22} {ms:>12}  {row.get('error', row.get('difference'))}")
    if asked.out is not None:
        asked.out.write_text(json.dumps(found, indent=2) + "\n")


if __name__ == "__main__":
    main()
