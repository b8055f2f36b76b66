"""Real Sentinel-1 patches through the whole system: GeoTIFFs, records, base model, checkpoint, restart."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from tests.support import SHARED_DATA

ROOT = Path(__file__).parents[1]


def command(*arguments: str | Path) -> str:
    done = subprocess.run([sys.executable, *map(str, arguments)], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture
def tree(tmp_path) -> Path:
    """The thirteen real patches in the layout of BigEarthNet v2."""
    if not SHARED_DATA.is_dir():
        pytest.skip(f"real samples are not at {SHARED_DATA}")
    patches = [
        *(SHARED_DATA / "bigearthnet_v1" / "BigEarthNet-S1-v1.0").iterdir(),
        *(SHARED_DATA / "bigearthnet_v2" / "BigEarthNet-S1").glob("*/*"),
    ]
    for patch in patches:
        shutil.copytree(patch, tmp_path / "raw" / "BigEarthNet-S1" / patch.name.rsplit("_", 3)[0] / patch.name)
    return tmp_path / "raw"


def losses(workdir: Path) -> list[float]:
    lines = [json.loads(line) for line in (workdir / "log.jsonl").read_text().splitlines()]
    return [line["loss"] for line in lines if line["event"] == "train"]


@pytest.mark.slow
def test_base_pretrains_on_real_patches_and_goes_on_after_a_restart(tree, tmp_path, optimised):
    metadata = SHARED_DATA / "bigearthnet_v2" / "metadata_subset.parquet"
    records, workdir = tmp_path / "records", tmp_path / "run"
    command("data_prep/bigearthnet_v2.py", "--root", tree, "--metadata", metadata, "--out", records)
    run = [
        *("-m", "sarwmix_jax.cli.main", "pretrain", "--config=configs/pretrain_bigearthnet_v2.py:base"),
        *(f"--workdir={workdir}", f"--config.data.records={records}", "--config.batch.global_batch=2"),
        *("--config.model.dtype=float32", "--config.optimizer.warmup_epochs=1", "--config.log.every_steps=1"),
        *("--config.checkpoint.every_epochs=5", "--config.checkpoint.powers_of_two=False"),
    ]
    command(*run, "--config.optimizer.stop_after_steps=10")
    first = losses(workdir)
    assert len(first) == 10
    command(*run, "--config.optimizer.stop_after_steps=20")
    whole = losses(workdir)
    assert len(whole) == 20
    assert whole[:10] == first
    assert np.isfinite(whole).all()
    assert abs(whole[10] - first[-1]) < 0.5  # it continued and did not start again
    assert np.mean(whole[-5:]) < np.mean(whole[:5])
    assert (workdir / "checkpoints" / "20").is_dir()
