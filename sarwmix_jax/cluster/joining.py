"""A command as one of several processes: joins the job, does its work, and ends with the others."""

import os
import sys
import tempfile
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext, redirect_stdout
from pathlib import Path
from typing import NoReturn

from sarwmix_jax.cluster.peers import Peers, gather, name_of, report
from sarwmix_jax.cluster.relay import HERE, relay
from sarwmix_jax.cluster.rules import JOIN_SECONDS, SILENT_SECONDS, Given, Job, decide
from sarwmix_jax.errors import FAILED, INTERRUPTED, LOST, MISTAKE, STOPPED, UserError, one_line
from sarwmix_jax.processes import RAISED_BY_SIGNALS, end_now, leave_sigterm_to_jax, release_at_end
from sarwmix_jax.progress import silent

JAX_LATER_SECONDS = 20
"""JAX's service notices a silent process so much later than `Peers` does, which names it."""

BROKEN = ("Gloo", "NCCL", "UNAVAILABLE", "DEADLINE_EXCEEDED")
"""Words in the errors of a collective whose other side has gone."""


def together(
    given: Given, work: Callable[[], int | None], join_seconds: int | None, silent_seconds: int | None, *, saves: bool
) -> int | None:
    """Do the work of a command as a part of a job, or alone where this process is the only one.

    Process 0 alone prints; what the others print is lost, but for failures.

    Args:
        given: What the command line states of this process's part.
        work: The command; gives its exit code.
        join_seconds: How long to wait for the other processes at the start; by default `JOIN_SECONDS`.
        silent_seconds: How long a process may not answer before the others end; by default `SILENT_SECONDS`.
        saves: Whether the command saves its work when one of the processes gets SIGTERM; else it ends at once.

    Raises:
        UserError: Processes are missing, or the environment contradicts itself.
    """
    job = decide(os.environ, given, gpus_of_host())
    if job is None:
        return work()
    import jax

    jax.config.update("jax_enable_preemption_service", saves)
    peers = join(job, join_seconds or JOIN_SECONDS, silent_seconds or SILENT_SECONDS)
    if saves:
        leave_sigterm_to_jax()
    ended = release_at_end(lambda: peers.fail("has ended itself; see its output", LOST))
    try:
        with ended, silent(job.process > 0), nullcontext() if not job.process else _no_output():
            code = work() or 0
    except BaseException as error:  # of any kind: the other processes would wait for this one
        _fail(peers, error)
    peers.leave()
    jax.distributed.shutdown()  # waits for the others, so that none is ended by its launcher because of an exit code
    return code


def join(job: Job, join_seconds: int, silent_seconds: int) -> Peers:
    """Find the other processes and start JAX with them; from now on this process ends with any that fails.

    Raises:
        UserError: Processes are missing.
    """
    import jax

    own = name_of(job.process, job.processes, os.uname().nodename)
    if job.process:
        others, port = report(job.coordinator, job.process, job.processes, join_seconds)
    else:
        others, port = gather(job.coordinator, job.processes, join_seconds)

    def end(line: str, code: int | None, lost: bool) -> None:
        if lost or not job.process:  # one place for all failures, as long as there is that place
            print(f"error: {line}; all processes end", file=sys.stderr, flush=True)
        end_now(LOST if code is None else code)

    peers = Peers(own, others, silent_seconds, end)
    if job.process:
        port = relay(job.coordinator.rpartition(":")[0], port)
    os.environ["no_grpc_proxy"] = HERE  # through a proxy they would not find each other
    jax.config.update("jax_check_proxy_envs", False)
    jax.distributed.initialize(
        f"{HERE}:{port}",
        job.processes,
        job.process,
        local_device_ids=job.devices,
        cluster_detection_method="deactivate",
        initialization_timeout=join_seconds,
        heartbeat_timeout_seconds=silent_seconds + JAX_LATER_SECONDS,
    )
    return peers


@contextmanager
def _no_output() -> Iterator[None]:
    with Path(os.devnull).open("w") as nowhere, redirect_stdout(nowhere):
        yield


@contextmanager
def written_once(path: Path) -> Iterator[Path]:
    """Where this process writes what all compute: process 0 at `path`, the others to a folder that is then removed."""
    import jax

    if jax.process_index() == 0:
        yield path
        return
    with tempfile.TemporaryDirectory() as folder:
        yield Path(folder) / path.name


def gpus_of_host() -> int:
    """GPUs of NVIDIA in this host, by their driver alone: JAX must not start before it has joined."""
    if os.environ.get("JAX_PLATFORMS") == "cpu":
        return 0
    place = Path("/proc/driver/nvidia/gpus")
    return len(list(place.iterdir())) if place.is_dir() else 0


def broken(error: BaseException | None) -> bool:
    """Whether a collective whose other side has gone is behind an error, such as one of writing a checkpoint."""
    while error is not None:
        if isinstance(error, ValueError | RuntimeError) and any(word in str(error) for word in BROKEN):
            return True
        error = error.__cause__ or error.__context__
    return False


def _fail(peers: Peers, error: BaseException) -> NoReturn:
    """End this process because of an error, and by it all others."""
    if isinstance(error, RAISED_BY_SIGNALS):
        code, line = INTERRUPTED if isinstance(error, KeyboardInterrupt) else STOPPED, f"stopped by a signal ({error})"
    elif broken(error):
        peers.await_reason()  # that of the process which has failed is more useful
        code, line = LOST, f"the connection with another process is lost: {error}"
    elif isinstance(error, UserError):
        code, line = MISTAKE, str(error)
    else:
        traceback.print_exception(error)
        code, line = FAILED, f"{type(error).__name__}: {error}"
    peers.fail(line, code)
    print(f"error: {peers.own}: {one_line(line)}", file=sys.stderr, flush=True)
    end_now(code)
