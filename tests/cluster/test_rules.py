"""The rules by which a process joins a job, on environments as the schedulers document them, also half-set ones."""

import pytest

from sarwmix_jax.cluster.rules import Given, decide, first_host, part_of
from sarwmix_jax.errors import UserError

# https://slurm.schedmd.com/srun.html, "Output environment variables": 2 nodes, 8 tasks, the sixth one
SRUN = {
    "SLURM_JOB_ID": "4711",
    "SLURM_STEP_ID": "0",
    "SLURM_STEP_NODELIST": "gpu[017-018]",
    "SLURM_STEP_NUM_NODES": "2",
    "SLURM_STEP_NUM_TASKS": "8",
    "SLURM_STEP_TASKS_PER_NODE": "4(x2)",
    "SLURM_NTASKS": "8",
    "SLURM_PROCID": "5",
    "SLURM_LOCALID": "1",
    "SLURM_NODEID": "1",
}
# https://docs.open-mpi.org/en/v5.0.x/tuning-apps/environment-var.html; both versions printed the rest under mpirun
RANK = {
    "OMPI_COMM_WORLD_SIZE": "4",
    "OMPI_COMM_WORLD_RANK": "3",
    "OMPI_COMM_WORLD_LOCAL_SIZE": "2",
    "OMPI_COMM_WORLD_LOCAL_RANK": "1",
    "OMPI_COMM_WORLD_NODE_RANK": "1",
    "PMIX_RANK": "3",
}
MPI_4 = RANK | {
    "OMPI_MCA_orte_hnp_uri": "1736507392.0;tcp://192.0.2.2:59647;tcp6://[fd00::2]:60197",
    "PMIX_NAMESPACE": "1736507393",
    "PMIX_VERSION": "3.2.5a1",
}
MPI_5 = RANK | {"PMIX_NAMESPACE": "prterun-node1-2957@1", "PMIX_VERSION": "5.0.11rc1"}
NOTHING = Given()
FLAGS = Given("node9:1234", 2, 1)


def test_alone():
    assert decide({"PATH": "/bin", "HOME": "/root"}, NOTHING, 8) is None


def test_a_task_of_a_slurm_step():
    job = decide(SRUN, NOTHING, 4)
    assert (job.processes, job.process, job.local, job.devices, job.source) == (8, 5, 1, (1,), "SLURM")
    host, _, port = job.coordinator.partition(":")
    assert host == "gpu017" and 61440 <= int(port) < 65440
    ports = {decide(SRUN | {"SLURM_PROCID": str(n)}, NOTHING, 4).coordinator for n in range(8)}
    assert ports == {job.coordinator}
    assert decide(SRUN | {"SLURM_STEP_ID": "1"}, NOTHING, 4).coordinator != job.coordinator


@pytest.mark.parametrize("lost", ["SLURM_STEP_NODELIST", "SLURM_STEP_NUM_TASKS", "SLURM_PROCID", "SLURM_LOCALID"])
def test_a_half_set_slurm_environment_is_not_a_step(lost):
    assert decide({name: value for name, value in SRUN.items() if name != lost}, NOTHING, 4) is None
    assert decide(SRUN | {lost: ""}, NOTHING, 4) is None


def test_an_ssh_session_on_a_node_of_a_job_and_a_batch_script_are_alone():
    session = {"SLURM_JOB_ID": "4711", "SLURM_NTASKS": "8", "SLURM_JOB_NODELIST": "gpu[017-018]"}
    script = session | {"SLURM_PROCID": "0", "SLURM_LOCALID": "0", "SLURM_NODEID": "0", "SLURM_TASKS_PER_NODE": "4(x2)"}
    assert decide(session, NOTHING, 4) is None and decide(script, NOTHING, 4) is None


@pytest.mark.parametrize("rank", [MPI_4, MPI_5])
def test_a_rank_of_open_mpi(rank, tmp_path):
    hosts = tmp_path / "nodes"
    hosts.write_text("node1\nnode1\nnode2\nnode2\n")
    for more, host in (({"MASTER_ADDR": "node7"}, "node7"), ({"PBS_NODEFILE": str(hosts)}, "node1")):
        job = decide(rank | more, NOTHING, 2)
        assert (job.processes, job.process, job.local, job.devices, job.source) == (4, 3, 1, (1,), "Open MPI")
        assert job.coordinator.partition(":")[0] == host
    assert decide(rank | {"MASTER_ADDR": "node7", "MASTER_PORT": "999"}, NOTHING).coordinator == "node7:999"
    for environment in (rank, rank | {"PBS_NODEFILE": str(tmp_path / "of the first host")}):
        with pytest.raises(UserError, match=r"several hosts.*export MASTER_ADDR=HOST to all ranks"):
            decide(environment, NOTHING, 2)
    assert decide(rank | {"OMPI_COMM_WORLD_LOCAL_SIZE": "4"}, NOTHING, 4).coordinator.startswith("127.0.0.1:")


@pytest.mark.parametrize("lost", [name for name in RANK if "RANK" in name and "OMPI" in name and "NODE" not in name])
def test_half_set_ranks_are_passed_over(lost):
    assert decide({name: value for name, value in MPI_5.items() if name != lost}, NOTHING, 2) is None


def test_mpirun_within_a_slurm_job_has_its_own_numbers():
    """Open MPI starts its helper on each node as a step of one task a node, and every rank inherits its variables."""
    job = decide(SRUN | {"SLURM_STEP_NUM_TASKS": "2", "MASTER_ADDR": "gpu017"} | MPI_5, NOTHING, 2)
    assert (job.processes, job.process, job.source) == (4, 3, "Open MPI")


def test_flags_come_first():
    job = decide(SRUN | MPI_4, FLAGS, 2)
    assert (job.coordinator, job.processes, job.process, job.source) == ("node9:1234", 2, 1, "command line")
    assert job.devices == (0, 1)
    assert decide(SRUN, Given("node9:1234"), 4).coordinator == "node9:1234"
    assert decide({}, Given("node9:1234", 2, 1, (3, 5)), 8).devices == (3, 5)


@pytest.mark.parametrize(
    ("environment", "given", "line"),
    [
        ({}, Given("node9:1234"), "--coordinator or --devices is given, but neither srun nor mpirun"),
        ({}, Given(devices=(0,)), "give --coordinator, --processes and --process"),
        ({}, Given(process=1), "--coordinator and --processes not given"),
        ({}, Given(processes=2), "--coordinator and --process not given"),
        ({}, Given("node9:1234", 2, 2), "process 2 of 2"),
        ({}, Given("node9", 2, 1), "give --coordinator=HOST:PORT"),
        (SRUN | {"SLURM_PROCID": "five"}, NOTHING, "SLURM_PROCID is 'five'"),
        (SRUN | {"SLURM_NODEID": "2"}, NOTHING, "SLURM_NODEID is '2'"),
    ],
)
def test_contradictions_are_one_line(environment, given, line):
    with pytest.raises(UserError, match=line):
        decide(environment, given)


@pytest.mark.parametrize(
    ("tasks", "visible", "gpus", "expected"),
    [
        ("1(x8)", None, 4, (0, 1, 2, 3)),  # one process a host
        ("4(x2)", None, 4, (1,)),  # one process a GPU
        ("2(x4)", None, 8, (4, 5, 6, 7)),
        ("4(x2)", "3", 4, (0,)),  # bound by the scheduler (--gpus-per-task=1)
        ("4(x2)", "0,1,2,3", 8, (1,)),
        ("4(x2)", None, 0, (1,)),
        ("4(x2)", "", 3, (1,)),  # none are visible
        ("1(x8)", "NoDevFiles", 4, None),
        ("1(x8)", None, 0, None),
    ],
)
def test_devices_of_a_process(tasks, visible, gpus, expected):
    bound = {} if visible is None else {"CUDA_VISIBLE_DEVICES": visible}
    local = {"SLURM_LOCALID": "0"} if tasks == "1(x8)" else {}
    assert decide(SRUN | {"SLURM_STEP_TASKS_PER_NODE": tasks} | local | bound, NOTHING, gpus).devices == expected


def test_gpus_that_do_not_divide():
    with pytest.raises(UserError, match="4 processes on a host with 3 GPUs"):
        decide(SRUN, NOTHING, 3)


@pytest.mark.parametrize(
    ("nodes", "first"),
    [("n1", "n1"), ("n1,n2", "n1"), ("gpu[003-007,9],n1", "gpu003"), ("r[1,3]n[02-04]", "r1n02"), ("a-b[7]", "a-b7")],
)
def test_first_host_of_a_slurm_list(nodes, first):
    assert first_host(nodes) == first


# https://slurm.schedmd.com/job_array.html: sbatch --array=1-7:2, the third task
ARRAY = {
    "SLURM_ARRAY_JOB_ID": "36",
    "SLURM_ARRAY_TASK_ID": "5",
    "SLURM_ARRAY_TASK_COUNT": "4",
    "SLURM_ARRAY_TASK_MIN": "1",
    "SLURM_ARRAY_TASK_MAX": "7",
    "SLURM_ARRAY_TASK_STEP": "2",
}


@pytest.mark.parametrize(
    ("environment", "part"),
    [
        (ARRAY, (3, 4)),
        ({"SLURM_ARRAY_TASK_ID": "0", "SLURM_ARRAY_TASK_COUNT": "1"}, (1, 1)),
        ({"PBS_ARRAY_INDEX": "8", "SARWMIX_PARTS": "8"}, (8, 8)),
        (SRUN, (6, 8)),
        (MPI_5, (4, 4)),
        (ARRAY | SRUN, (2 * 8 + 6, 32)),
        ({"PBS_ARRAY_INDEX": "2", "SARWMIX_PARTS": "3"} | MPI_4, (8, 12)),
    ],
)
def test_part_of_a_preparation(environment, part):
    assert part_of(environment) == part


def test_parts_of_arrays_and_ranks_are_all_different():
    tasks = [ARRAY | {"SLURM_ARRAY_TASK_ID": str(task)} for task in (1, 3, 5, 7)]
    parts = [part_of(task | MPI_5 | {"OMPI_COMM_WORLD_RANK": str(rank)}) for task in tasks for rank in range(4)]
    assert sorted(parts) == [(number, 16) for number in range(1, 17)]


@pytest.mark.parametrize(
    ("environment", "line"),
    [
        ({}, "no task of an array"),
        (ARRAY | {"SLURM_ARRAY_TASK_ID": "6"}, "without gaps"),
        (ARRAY | {"SLURM_ARRAY_TASK_ID": "9"}, "without gaps"),
        ({"PBS_ARRAY_INDEX": "2"}, "qsub -J 1-8 -v SARWMIX_PARTS=8"),
        ({"PBS_ARRAY_INDEX": "9", "SARWMIX_PARTS": "8"}, "qsub -J 1-8 -v SARWMIX_PARTS=8"),
    ],
)
def test_parts_that_are_not_known(environment, line):
    with pytest.raises(UserError, match=line):
        part_of(environment)
