"""What tests of the GPU program share: a stored compiled text, a result, an environment."""

import os
from pathlib import Path

from benchmarks.gpu_program.results import ALLOWED, Case, Result

ROOT = Path(__file__).parents[2]
SMALL = Path(__file__).parent / "data" / "pretraining_small.txt.xz"
"""Pretraining on two H200, one block a stage, width 16, batch 8, bfloat16, kernel fused, compiled by jax 0.10.2."""

GIVEN = Result(
    Case("0.10.2", "h200", 1, "pretraining", "base", 256, "bfloat16", "xla"),
    dict.fromkeys(ALLOWED, 1000) | {"state_bytes": 10, "operations": 5.0},
)


def compiling_environment():
    """The environment without what makes tests compile quickly."""
    unset = ("JAX_DISABLE_MOST_OPTIMIZATIONS", "XLA_FLAGS", "JAX_COMPILATION_CACHE_DIR")
    return {name: value for name, value in os.environ.items() if name not in unset}
