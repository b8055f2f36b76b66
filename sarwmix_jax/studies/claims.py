"""Which process runs a step of a study: a file in the step's folder, so that no two run the same one."""

import contextlib
import fcntl
import json
import os
import socket
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

from sarwmix_jax.progress import show

CLAIM, LOCK = "claim.json", ".claims.lock"


@dataclass(frozen=True)
class Owner:
    """A process.

    Attributes:
        host: Name of its machine.
        process: Its number there.
        begun: When it began, in the kernel's ticks since the start of the machine; 0 where that is not known.
    """

    host: str
    process: int
    begun: int

    def __str__(self) -> str:
        return f"process {self.process} on {self.host}"

    @property
    def ended(self) -> bool:
        """Whether it was a process of this machine that is gone; those of other machines count as alive."""
        return self.host == socket.gethostname() and _begun(self.process) not in (self.begun, None)


def _begun(process: int) -> int | None:
    """When a process of this machine began; -1 where there is none, None where it cannot be known."""
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return -1
    except PermissionError:
        return None
    try:
        return int(Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[19])
    except (OSError, ValueError, IndexError):
        return 0


def this_process() -> Owner:
    """The owner of this process's claims."""
    return Owner(socket.gethostname(), os.getpid(), _begun(os.getpid()) or 0)


def owner_of(folder: Path) -> Owner | None:
    """Who has claimed the step of a folder, if anyone."""
    try:
        return Owner(**json.loads((folder / CLAIM).read_text()))
    except FileNotFoundError:
        return None
    except (OSError, ValueError, TypeError):  # another process is writing it at this moment
        return Owner("a machine that its claim does not name", 0, 0)


def running(folder: Path) -> Owner | None:
    """Who runs the step of a folder now, if anyone, as far as that can be known."""
    owner = owner_of(folder)
    return None if owner is None or owner.ended else owner


@contextlib.contextmanager
def claimed(folder: Path, study: Path) -> Iterator[bool]:
    """Claim a step for the time of the context; gives False where another process has it.

    The claim of a process that was killed on this machine is taken over. One on another machine cannot be checked: its
    file has to be removed by hand.

    Args:
        folder: Folder of the step; created if missing.
        study: Folder of the study, where processes take turns while they claim.
    """
    folder.mkdir(parents=True, exist_ok=True)
    path, mine = folder / CLAIM, this_process()
    with _turn(study):
        other = owner_of(folder)
        if other is not None and other.ended:
            show(f"{folder.relative_to(study)}: taken over from {other}, which has ended")
            path.unlink(missing_ok=True)
        try:
            with path.open("x") as file:  # also on file systems without locks only one process can create it
                file.write(json.dumps(asdict(mine)) + "\n")
            free = True
        except FileExistsError:
            free = False
    try:
        yield free
    finally:
        if free and owner_of(folder) == mine:
            path.unlink(missing_ok=True)


@contextlib.contextmanager
def _turn(study: Path) -> Iterator[None]:
    with (study / LOCK).open("w") as file:
        with contextlib.suppress(OSError):  # a file system without locks
            fcntl.flock(file, fcntl.LOCK_EX)
        yield
