"""Memory of GPUs, and what compiled steps need of it: estimates of the compiler, not measured on a device."""

import os
from typing import NamedTuple

MEMORY = {"NVIDIA H100 80GB HBM3": 84_942_979_072, "NVIDIA H200": 151_397_597_184}
"""Bytes that the driver leaves to programs (target descriptions that come with XLA): GPUs with 80 and with 141 GB."""

DEFAULT_SHARE = 0.75
"""Share of the memory that JAX takes where XLA_PYTHON_CLIENT_MEM_FRACTION does not set another (JAX' documentation)."""


class CompiledStep(NamedTuple):
    """What a training step needs on one device.

    Attributes:
        batch: Samples at a time.
        peak: Most bytes in use at any moment.
        state: Bytes of it that parameters and optimiser need.
    """

    batch: int
    peak: int
    state: int


STEPS: dict[tuple[str, str, str, str], CompiledStep] = {
    ("flood", "base", "fused", "block"): CompiledStep(4, 2_003_654_420, 1_041_560_512),
    ("multilabel", "base", "fused", "none"): CompiledStep(128, 5_578_152_434, 1_041_769_612),
    ("pretraining", "base", "fused", "none"): CompiledStep(256, 11_476_003_764, 1_363_121_064),
    ("pretraining", "base", "xla", "none"): CompiledStep(256, 13_856_631_780, 1_363_121_064),
    ("pretraining", "huge", "fused", "none"): CompiledStep(256, 34_531_415_064, 8_192_628_224),
    ("pretraining", "large", "fused", "none"): CompiledStep(256, 17_334_022_772, 2_665_602_424),
}
"""Steps compiled for an H200, in bfloat16 at 128 px, by task, published size, kernel and recomputation.

Source: benchmarks/gpu_programs, which `python -m benchmarks.gpu_program` wrote.
"""


def usable(memory: int) -> int:
    """Bytes of a GPU's memory that JAX would take in this environment."""
    return int(memory * float(os.environ.get("XLA_PYTHON_CLIENT_MEM_FRACTION") or DEFAULT_SHARE))


def largest_batch(batch: int, peak: int, state: int, available: int) -> int:
    """Samples that fit on a device, from what a step with another batch needs.

    All that is not the state is taken to grow with the batch; as gradients do not, more may fit than this, and where
    less than `batch` fits, less.

    Args:
        batch: Samples on a device.
        peak: Most bytes in use at any moment of a step with this batch.
        state: Bytes of it that parameters and optimiser need.
        available: Bytes that may be used.
    """
    return max(0, int(batch * (available - state) / max(peak - state, 1)))
