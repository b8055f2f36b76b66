"""The scripts for schedulers: what they start, and that they queue a saved run again and nothing else."""

import os
import subprocess

import pytest

from tests.cluster import jobs

QSTAT = """Job Id: 7.server
    Job_Name = sarwmix
    Resource_List.select = 2:ncpus=32:mpiprocs=2:ng
\tpus=2
    Resource_List.walltime = 24:00:00
    Variable_List = ARGUMENTS=pretrain
"""


@pytest.fixture
def called(tmp_path):
    """Runs a script among programs that only note how they were called: (exit code, calls by program)."""
    programs, hosts = tmp_path / "programs", tmp_path / "hosts"
    programs.mkdir()
    hosts.write_text("node1\nnode1\nnode2\nnode2\n")

    def call(script, *arguments, code, **more):
        bodies = dict.fromkeys(("qsub", "sbatch", "scontrol"), "echo 7.server") | {"mpirun": f"exit {code}"}
        bodies |= {"srun": f"exit {code}", "qstat": f"printf '%s' '{QSTAT}'", "sarwmix": ""}
        for name in more.pop("lacking", ()):
            bodies.pop(name)
            (programs / name).unlink()
        for name, body in bodies.items():
            note = f'#!/bin/bash\nprintf "%s\\n" "$@" "cpus $SRUN_CPUS_PER_TASK" > {tmp_path}/{name}.called\n{body}\n'
            (programs / name).write_text(note)
            (programs / name).chmod(0o755)
        own = {"PATH": f"{programs}:{os.environ['PATH']}", "PBS_NODEFILE": str(hosts), "PBS_JOBID": "7.server"}
        own |= {"SLURM_JOB_ID": "7", "SLURM_CPUS_PER_TASK": "5", "PBS_O_WORKDIR": str(jobs.ROOT)}
        done = subprocess.run(
            [jobs.ROOT / "launch" / script, *arguments], env=own | more, capture_output=True, text=True, check=False
        )
        found = {path.stem: path.read_text().splitlines() for path in tmp_path.glob("*.called")}
        for path in tmp_path.glob("*.called"):
            path.unlink()
        assert not done.stderr, done.stderr
        return done.returncode, found

    return call


@pytest.mark.parametrize("code", [0, 2, 75, 76])
def test_a_saved_run_is_queued_again(code, called):
    ended, calls = called("pbs.sh", code=code, ARGUMENTS="pretrain --config.data.records=a,b --workdir=runs/a")
    assert ended == code and ("qsub" in calls) == (code == 75)
    assert calls["mpirun"][:4] == ["-np", "4", "--hostfile", calls["mpirun"][3]]
    assert calls["mpirun"][-5:-1] == ["sarwmix", "pretrain", "--config.data.records=a,b", "--workdir=runs/a"]
    if code == 75:
        limits = ["-l", "select=2:ncpus=32:mpiprocs=2:ngpus=2", "-l", "walltime=24:00:00"]
        assert calls["qsub"][:-1] == [*limits, "-v", "ARGUMENTS,SARWMIX", "launch/pbs.sh"]
    ended, calls = called("slurm.sh", "pretrain", "--workdir=my runs", code=code)
    assert ended == code and ("scontrol" in calls) == (code == 75)
    assert calls["srun"][-4:] == ["sarwmix", "pretrain", "--workdir=my runs", "cpus 5"]
    assert code != 75 or calls["scontrol"][:2] == ["requeue", "7"]


def test_parts_of_a_preparation_and_their_merge_are_queued(called):
    ended, calls = called("prepare.sh", "16", "synthetic", "--out", "my records", code=0)
    assert ended == 0 and calls["sbatch"][0] == "--dependency=afterok:7.server"  # the last of two calls
    assert calls["sbatch"][1].endswith(r"/programs/sarwmix prepare synthetic --out my\ records  --merge")
    ended, calls = called("prepare.sh", "16", "synthetic", "--out", "a", code=0, lacking=["sbatch"])
    assert ended == 0 and calls["qsub"][:2] == ["-W", "depend=afterok:7.server"]
