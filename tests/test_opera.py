"""Three hundred steps on real gamma0 scenes, held-out places against the best constant prediction."""

import subprocess
import sys
from pathlib import Path

import pytest

from sarwmix_jax.data.sources import open_records
from sarwmix_jax.evaluation.held_out import best_constant, evaluate_held_out
from sarwmix_jax.evaluation.reconstruction import load_pretrained
from tests.data.samples import write_opera_records
from tests.support import SHARED_DATA

ROOT = Path(__file__).parents[1]


@pytest.mark.soak
def test_held_out_places_are_reconstructed_far_better_than_by_a_constant(tmp_path, optimised):
    if not SHARED_DATA.is_dir():
        pytest.skip(f"real samples are not at {SHARED_DATA}")
    records = tmp_path / "records"
    write_opera_records(records)
    settings = {
        "data.records": records,
        "data.quantity": "gamma0",
        "optimizer.warmup_epochs": 3,
        "optimizer.schedule_epochs": 30,  # ten steps each
        "optimizer.stop_after_epochs": 30,
        "validation.every_epochs": 30,
        "checkpoint.every_epochs": 30,
    }
    command = [
        sys.executable,
        "-m",
        "sarwmix_jax.cli.main",
        "pretrain",
        "--config=configs/demo.py",
        f"--workdir={tmp_path}",
    ]
    command += [f"--config.{name}={value}" for name, value in settings.items()]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    model = load_pretrained(tmp_path)
    constant = best_constant(model.task, open_records(records, "train"))
    result = evaluate_held_out(model, open_records(records, "validation"), constant)
    assert result.records == 42
    assert result.margin > 0.8
    assert min(result.correlations) > 0.8
