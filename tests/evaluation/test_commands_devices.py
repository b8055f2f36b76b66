"""Evaluation on one and on eight devices: 13 samples, which eight do not divide, count once each."""

import os
import subprocess
import sys

import pytest

from tests.evaluation.commands import ROOT, evaluate, evaluate_arguments, result

BOTH = """
import sys
import jax
from sarwmix_jax.cli.main import main
assert jax.device_count() == 8
calls = " ".join(sys.argv[1:]).split(" and ")
sys.exit(sum(main(call.split()) for call in calls))
"""


@pytest.mark.slow
def test_scores_and_counts_are_the_same_on_any_devices(converted, labelled, pairs, tmp_path):
    cases = {"multilabel": (converted["finetune"], labelled), "flood": (converted["flood"], pairs)}
    words = []
    for name, (checkpoint, records) in cases.items():
        evaluate(checkpoint, records, tmp_path / f"{name}_one", "--batch=5")
        words += ["and"] * bool(words) + evaluate_arguments(
            checkpoint, records, tmp_path / f"{name}_eight", "--batch=1"
        )
    flags = "--xla_force_host_platform_device_count=8 --xla_backend_optimization_level=0"
    environment = os.environ | {"XLA_FLAGS": f"{os.environ.get('XLA_FLAGS', '')} {flags}", "JAX_PLATFORMS": "cpu"}
    command = [sys.executable, "-c", BOTH, *words]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    for name, (checkpoint, _) in cases.items():
        one, eight = (result(tmp_path / f"{name}_{devices}", checkpoint) for devices in ("one", "eight"))
        assert one["scores"]["samples"] == eight["scores"]["samples"] == 13
        assert one["scores"]["confusion"] == eight["scores"]["confusion"]
        for mine, other in zip(one["scores"]["per_class"], eight["scores"]["per_class"], strict=True):
            assert (mine["support"], mine["predicted"]) == (other["support"], other["predicted"])
            assert mine == pytest.approx(other, abs=1e-6)
        assert one["scores"]["summary"] == pytest.approx(eight["scores"]["summary"], abs=1e-6)
        for figure in ("loss", "ece"):
            assert one["details"][figure] == pytest.approx(eight["details"][figure], abs=1e-5)
