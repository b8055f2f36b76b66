"""What a dry run states about GPUs, and that it states nothing of a step that was not compiled."""

import re
from dataclasses import replace

import pytest

from sarwmix_jax.facts import gpu_memory
from sarwmix_jax.facts.gpu_memory import CompiledStep
from sarwmix_jax.settings.model import published
from sarwmix_jax.training.dry_run import gpu_memory_text
from tests.support import pretraining_task

BASE = published("base", dtype="bfloat16")
KEY = ("pretraining", "base", "xla", "none")


@pytest.fixture(autouse=True)
def compiled(monkeypatch):
    """One compiled step: 9 GB for 256 samples, beside a state of 1 GB."""
    monkeypatch.setattr(gpu_memory, "STEPS", {KEY: CompiledStep(256, 10_000_000_000, 1_000_000_000)})
    monkeypatch.delenv("XLA_PYTHON_CLIENT_MEM_FRACTION", raising=False)


def test_a_dry_run_states_the_largest_micro_batch_of_both_gpus(monkeypatch):
    monkeypatch.setattr(gpu_memory, "MEMORY", {"A": 49_333_333_334, "B": 121_333_333_334})
    (line,) = gpu_memory_text(pretraining_task(BASE, micro_batch=64, mix_group=64), False)
    assert line.endswith("(an estimate, not measured): about 1,024 on an A and about 2,560 on an B; here 64")


def test_gradients_that_are_summed_leave_less():
    lines = [gpu_memory_text(pretraining_task(BASE), accumulates)[0] for accumulates in (False, True)]
    single, summed = ([int(count.replace(",", "")) for count in re.findall(r"about ([\d,]+)", line)] for line in lines)
    assert len(single) == 2 and all(more > less for more, less in zip(single, summed, strict=True))


@pytest.mark.parametrize(
    "model",
    [
        replace(BASE, dtype="float32"),
        replace(BASE, depths=(2, 2, 2, 2)),
        published("base", 384, dtype="bfloat16"),
        published("huge", dtype="bfloat16", recompute="elementwise"),
        replace(BASE, kernels=("fused", *["xla"] * 5)),
    ],
    ids=["float32", "depth", "384 px", "recomputed", "kernels"],
)
def test_nothing_is_stated_of_a_step_that_was_not_compiled(model):
    assert gpu_memory_text(pretraining_task(model), False) == []
