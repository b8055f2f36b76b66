"""Whether this process belongs to a job of several, and which part of it it is: from flags and environment alone.

The rules are the project's own, as JAX's detection knows neither PBS nor what Open MPI 5 sets. In order: flags; SLURM,
inside srun; ranks of Open MPI. Variables were taken from the documentation:

    SLURM     https://slurm.schedmd.com/srun.html, "Output environment variables"
    Open MPI  https://docs.open-mpi.org/en/v5.0.x/tuning-apps/environment-var.html
    PBS       https://manpages.ubuntu.com/manpages/xenial/man1/qsub.1B.html, "PBS_NODEFILE"
    arrays    https://slurm.schedmd.com/job_array.html; PBS Professional User's Guide, "PBS_ARRAY_INDEX"
"""

import re
import zlib
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from sarwmix_jax.errors import UserError

MPI, SLURM = "OMPI_COMM_WORLD_SIZE", "SLURM_STEP_NUM_TASKS"
LAUNCHED = (MPI, SLURM)
"""Variables that only processes have which mpirun or srun started."""

PART = ("coordinator", "processes", "process", "devices")
"""What the command line can state of a process's part, in the order of `Given`."""

JOIN_SECONDS, SILENT_SECONDS = 300, 100
"""Times for which the processes wait for each other at the start, and for a sign of life later; JAX's own defaults."""

PARTS = "SARWMIX_PARTS"
"""Variable with the number of tasks in an array of PBS, which itself states only the number of each."""

_ARRAY_STEP, _NOWHERE = "SLURM_ARRAY_TASK_STEP", "nowhere:1"
_STEP = (SLURM, "SLURM_STEP_NODELIST", "SLURM_PROCID", "SLURM_LOCALID")
_RANKS = (MPI, "OMPI_COMM_WORLD_RANK", "OMPI_COMM_WORLD_LOCAL_RANK", "OMPI_COMM_WORLD_LOCAL_SIZE")
_NO_GPU = ("", "-1", "NoDevFiles")
"""Values of CUDA_VISIBLE_DEVICES for none; the last one is SLURM's."""

_FIRST_PORT, _PORTS = 61440, 4000
"""Ports that Linux does not give to other connections by itself."""


@dataclass(frozen=True)
class Given:
    """What the command line states; None where it states nothing.

    Attributes:
        coordinator: HOST:PORT of process 0.
        processes: Number of processes of the job.
        process: Number of this one, from 0.
        devices: Numbers of the GPUs of this process.
    """

    coordinator: str | None = None
    processes: int | None = None
    process: int | None = None
    devices: tuple[int, ...] | None = None


@dataclass(frozen=True)
class Job:
    """This process's part in a job of several processes.

    Attributes:
        coordinator: HOST:PORT of process 0.
        processes: Number of processes.
        process: Number of this one, from 0.
        local: Its number among those of its host; 0 where only the command line states numbers.
        devices: Numbers of the GPUs that it uses; None where it is not known how many there are: all.
        source: Who stated the numbers.
    """

    coordinator: str
    processes: int
    process: int
    local: int
    devices: tuple[int, ...] | None
    source: str


def decide(environment: Mapping[str, str], given: Given, gpus: int = 0) -> Job | None:
    """The part of this process in a job; None where it is the only one.

    Variables that are set in part, as in an ssh session on a node of a SLURM job, are passed over.

    Args:
        environment: Environment variables.
        given: What the command line states.
        gpus: GPUs of this host; `CUDA_VISIBLE_DEVICES` in the environment may allow fewer.

    Raises:
        UserError: Numbers contradict each other, or the address of process 0 is not known.
    """
    found = _flags(given) or _slurm(environment, given) or _open_mpi(environment, given)
    if found is None:
        if given.coordinator is not None or given.devices is not None:
            raise UserError(
                "--coordinator or --devices is given, but neither srun nor mpirun started this process; "
                "give --coordinator, --processes and --process"
            )
        return None
    job, together = found
    if not 0 <= job.process < job.processes:
        raise UserError(f"process {job.process} of {job.processes} ({job.source}): the numbers begin with 0")
    if job.processes == 1:
        return None
    host, _, port = job.coordinator.rpartition(":")
    if not (host and port.isdecimal() and 0 < int(port) < 2**16):
        raise UserError(f"the address of process 0 is {job.coordinator!r}; give --coordinator=HOST:PORT")
    devices = given.devices or _devices(environment.get("CUDA_VISIBLE_DEVICES"), gpus, job.local, together)
    return replace(job, devices=devices)


def part_of(environment: Mapping[str, str]) -> tuple[int, int]:
    """Which part of some work this process does, from 1, and how many parts there are.

    Tasks of an array, of SLURM or PBS, and in each of them ranks of srun or mpirun, where either exists.

    Raises:
        UserError: There is neither, or the number of tasks of the array is not known.
    """
    first, step = _array_number(environment, "SLURM_ARRAY_TASK_MIN", 0), _array_number(environment, _ARRAY_STEP, 1)
    task, tasks, rank, ranks = 0, 1, 0, 1
    if environment.get("SLURM_ARRAY_TASK_ID"):
        task, left = divmod(_number(environment, "SLURM_ARRAY_TASK_ID") - first, max(step, 1))
        tasks = _array_number(environment, "SLURM_ARRAY_TASK_COUNT", 0)
        if left or not 0 <= task < tasks:
            raise UserError("--shard=auto needs an array without gaps, such as --array=1-8; or give --shard=I/N")
    elif environment.get("PBS_ARRAY_INDEX"):
        task, tasks = _number(environment, "PBS_ARRAY_INDEX") - 1, _array_number(environment, PARTS, 0)
        if not 0 <= task < tasks:
            raise UserError(f"--shard=auto in an array of PBS: qsub -J 1-8 -v {PARTS}=8; or give --shard=I/N")
    found = _slurm(environment, Given(_NOWHERE)) or _open_mpi(environment, Given(_NOWHERE))
    if found is not None:
        rank, ranks = found[0].process, found[0].processes
    if tasks * ranks == 1 and found is None and "SLURM_ARRAY_TASK_ID" not in environment:
        raise UserError("--shard=auto, but this is no task of an array, no rank of srun or mpirun; give --shard=I/N")
    return task * ranks + rank + 1, tasks * ranks


def _array_number(environment: Mapping[str, str], name: str, default: int) -> int:
    return _number(environment, name) if environment.get(name) else default


def _flags(given: Given) -> tuple[Job, int] | None:
    if given.processes is None and given.process is None:
        return None
    values = {"--coordinator": given.coordinator, "--processes": given.processes, "--process": given.process}
    if lacking := [name for name, value in values.items() if value is None]:
        raise UserError(f"{' and '.join(lacking)} not given; give all of {', '.join(values)}")
    assert given.coordinator is not None and given.processes is not None and given.process is not None
    return Job(given.coordinator, given.processes, given.process, 0, None, "command line"), 1


def _slurm(environment: Mapping[str, str], given: Given) -> tuple[Job, int] | None:
    """A task of a step: srun started it. Where mpirun did, it in turn may run in a step, whose numbers differ."""
    if MPI in environment or not all(environment.get(name) for name in _STEP):
        return None
    processes, process, local = (_number(environment, name) for name in (SLURM, "SLURM_PROCID", "SLURM_LOCALID"))
    counts = environment.get("SLURM_STEP_TASKS_PER_NODE") or environment.get("SLURM_TASKS_PER_NODE")
    node = environment.get("SLURM_NODEID", "0")
    together = processes
    if counts is not None:
        expanded = [
            int(count) for count, times in re.findall(r"(\d+)(?:\(x(\d+)\))?", counts) for _ in range(int(times or 1))
        ]
        if not node.isdecimal() or int(node) >= len(expanded):
            raise UserError(f"SLURM_NODEID is {node!r}, but tasks per node are {counts!r}; give --processes and so on")
        together = expanded[int(node)]
    step = f"{environment.get('SLURM_JOB_ID')}.{environment.get('SLURM_STEP_ID')}"
    address = given.coordinator or _address(environment, first_host(environment["SLURM_STEP_NODELIST"]), step)
    return Job(address, processes, process, local, None, "SLURM"), together


def _open_mpi(environment: Mapping[str, str], given: Given) -> tuple[Job, int] | None:
    """A rank of mpirun, version 4 or 5."""
    if not all(environment.get(name) for name in _RANKS):
        return None
    processes, process, local, together = (_number(environment, name) for name in _RANKS)
    if given.coordinator is not None:
        address = given.coordinator
    else:
        # Every rank has PMIX_NAMESPACE from mpirun itself; variables of the scheduler may be on the first host alone.
        address = _address(environment, _first_of_ranks(environment, processes == together), _job_of_mpi(environment))
    return Job(address, processes, process, local, None, "Open MPI"), together


def _job_of_mpi(environment: Mapping[str, str]) -> str:
    return environment.get("PMIX_NAMESPACE") or environment.get("OMPI_MCA_orte_hnp_uri", "").partition(";")[0]


def _first_of_ranks(environment: Mapping[str, str], one_host: bool) -> str:
    """Host of rank 0, unless MASTER_ADDR states it."""
    if environment.get("MASTER_ADDR"):
        return environment["MASTER_ADDR"]
    if one_host:
        return "127.0.0.1"
    file = environment.get("PBS_NODEFILE")
    try:
        hosts = Path(file).read_text().split() if file else []
    except OSError:  # PBS writes it on the first host alone
        hosts = []
    if not hosts:
        raise UserError(
            "the ranks are on several hosts, and neither MASTER_ADDR nor a readable PBS_NODEFILE names the first one; "
            "export MASTER_ADDR=HOST to all ranks (mpirun -x MASTER_ADDR), as launch/pbs.sh does"
        )
    return hosts[0]


def _address(environment: Mapping[str, str], host: str, job: str) -> str:
    """HOST:PORT; without MASTER_PORT the port depends on the job, so that two on one host do not meet."""
    port = environment.get("MASTER_PORT") or _FIRST_PORT + zlib.crc32(job.encode()) % _PORTS
    return f"{environment.get('MASTER_ADDR') or host}:{port}"


def first_host(nodes: str) -> str:
    """First host of a SLURM list such as `gpu[003-007,9],login1`."""
    depth, end = 0, len(nodes)
    for place, letter in enumerate(nodes):
        depth += (letter == "[") - (letter == "]")
        if letter == "," and not depth:
            end = place
            break
    return re.sub(r"\[([^],-]+)[^]]*\]", r"\1", nodes[:end])


def _devices(visible: str | None, gpus: int, local: int, together: int) -> tuple[int, ...] | None:
    """GPUs of one of `together` processes of a host: their equal share, counted within those that are visible.

    Raises:
        UserError: There are fewer GPUs than processes, or they cannot be divided evenly.
    """
    if visible is not None:
        gpus = sum(number not in _NO_GPU for number in visible.split(","))
        if gpus == 1:  # the scheduler has bound a GPU to each process
            return (0,)
    if not gpus:  # no GPU of NVIDIA: as JAX does, one device a process, or all
        return (local,) if together > 1 else None
    if gpus % together:
        raise UserError(
            f"{together} processes on a host with {gpus} GPUs; start one process a GPU, or one a host that uses all"
        )
    share = gpus // together
    return tuple(range(local * share, (local + 1) * share))


def _number(environment: Mapping[str, str], name: str) -> int:
    text = environment[name]
    if not text.isdecimal():
        raise UserError(f"{name} is {text!r} in the environment, not a number; start with srun or mpirun, or by flags")
    return int(text)
