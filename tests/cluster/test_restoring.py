"""Processes that restore a run use the same checkpoint, and may each hold a part of it."""

import sys

import pytest

from sarwmix_jax.checkpoints.store import Checkpoints
from tests.checkpoints.test_integrity import description_of, state_of
from tests.cluster import jobs


@pytest.mark.slow
def test_all_use_the_checkpoint_before_one_that_a_process_cannot_read(tmp_path):
    checkpoints = Checkpoints(tmp_path / "checkpoints")
    for step in (1, 2):
        checkpoints.save(step, state_of(step), description_of(step))
    checkpoints.close()
    program = (sys.executable, "-m", "tests.cluster.restores")
    both = jobs.start([checkpoints.directory], 2, devices=1, program=program, TF_CPP_MIN_LOG_LEVEL="3")
    for code, _, err in [jobs.outcome(process) for process in both]:
        assert code == 0, err
        assert [line for line in err.splitlines() if line.startswith(("step", "state"))] == [
            *("step 1", "step 1"),
            "state [(24, 48), (24, 48)] True",
        ]
        assert "checkpoint at step 2 cannot be used: process 1: [Errno 5] Input/output error" in err
