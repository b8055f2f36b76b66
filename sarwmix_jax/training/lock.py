"""One process at a time in a work directory, and at a step of a study: a file that names its owner.

The file appears whole or not at all, by a hard link, which NFS decides in one place too (`flock` is not needed). It
stays behind when its owner is killed; where the owner's host can see that it has ended, the next process takes over.
"""

import contextlib
import json
import os
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, fields
from pathlib import Path

from sarwmix_jax.errors import UserError
from sarwmix_jax.processes import release_at_end

LOCK_FILE = "running.json"
_LONGEST_TAKEOVER_SECONDS = 10


@dataclass(frozen=True)
class Owner:
    """A process that owns a file.

    Attributes:
        host: Name of its machine.
        processes: Where it counts processes: containers of one host name may number their processes apart.
        process: Its number there.
        process_start: When it began, as the system notes it: its number may belong to a later process.
        started: When it took the file, for people.
    """

    host: str
    processes: str | None
    process: int
    process_start: str | None
    started: str

    def __str__(self) -> str:
        return f"process {self.process} on {self.host}, started {self.started}"

    @property
    def ended(self) -> bool:
        """Whether it is known to have ended: it was of this host, and is gone or another process now."""
        here = this_process()
        if (self.host, self.processes) != (here.host, here.processes):
            return False
        if self.process_start is not None:
            return process_start(self.process) != self.process_start
        try:
            os.kill(self.process, 0)
        except ProcessLookupError:
            return True
        except OSError:
            return False
        return False


class InUse(UserError):
    """Another process owns the file, or it cannot be seen whether it does."""


def this_process() -> Owner:
    """This process, from now on."""
    try:
        processes = str(Path("/proc/self/ns/pid").readlink())
    except OSError:
        processes = None
    now = time.strftime("%Y-%m-%d %H:%M:%S")
    return Owner(socket.gethostname(), processes, os.getpid(), process_start(os.getpid()), now)


def process_start(process: int) -> str | None:
    """When a process of this host started, as the system notes it; None where it has ended or that is not known."""
    try:
        ticks = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[19]
        return f"{Path('/proc/sys/kernel/random/boot_id').read_text().strip()} {ticks}"
    except (OSError, IndexError):
        return None


@contextmanager
def only_run(workdir: Path, *, hold: bool = True) -> Iterator[str | None]:
    """Create a work directory and hold its lock inside this context.

    Args:
        workdir: The directory.
        hold: Whether this process of the run holds the lock: the first one does, for all.

    Yields:
        A line where the lock was taken over from a run that has ended.

    Raises:
        UserError: Another run holds it, or it cannot be seen whether it does; the line names the owner. Or the
            directory cannot be written.
    """
    path, own = workdir / LOCK_FILE, this_process()
    try:
        workdir.mkdir(parents=True, exist_ok=True)
        note = acquire(path, own, "run", "wait for it or stop it, or use another --workdir") if hold else None
    except OSError as error:
        raise UserError(f"cannot write in {workdir}: {error.strerror}; choose another --workdir") from error

    def let_go() -> None:
        if hold:
            release(path, own)

    try:
        with release_at_end(let_go):
            yield note
    finally:
        let_go()


def acquire(path: Path, own: Owner, what: str, remedy: str) -> str | None:
    """Create a file that names its owner; a line where it was taken over from a process that has ended.

    Args:
        path: The file, in the folder that is owned.
        own: This process.
        what: What the process does there, for the lines.
        remedy: What to do where another process of this host works there.

    Raises:
        InUse: Another process owns it, or it cannot be seen whether it does; the line names the owner.
        UserError: Its content cannot be read.
        OSError: The folder cannot be written.
    """
    latest = time.monotonic() + _LONGEST_TAKEOVER_SECONDS
    while not _created(path, own):
        found = owner_of(path)
        if found is None:
            continue  # released in between
        if not found.ended:
            where = f"{path.parent} is in use by"
            if found.host == own.host:
                raise InUse(f"{where} another {what} ({found}); {remedy}")
            raise InUse(f"{where} a {what} of another host ({found}); if it has ended, remove {path}")
        if _taken_over(path, found, own):
            return f"{path.parent}: took over from process {found.process} of {found.started}, which has ended"
        if time.monotonic() > latest:
            raise InUse(f"{path.parent}: another start takes long; if there is none, remove {_claim(path)}")
        time.sleep(0.1)
    return None


def release(path: Path, own: Owner) -> None:
    """Remove the file if it is this process's."""
    with contextlib.suppress(OSError, UserError):
        if owner_of(path) == own:
            path.unlink()


def owner_of(path: Path) -> Owner | None:
    """The owner that a file names; None without a file.

    Raises:
        UserError: It cannot be read.
    """
    try:
        found = json.loads(path.read_bytes())
        return Owner(**{each.name: found[each.name] for each in fields(Owner)})
    except FileNotFoundError:
        return None
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(f"{path} cannot be read ({error}); if no process works there, remove this file") from None


def _created(path: Path, own: Owner) -> bool:
    """Create a file with its owner's name; False where there is one."""
    text = json.dumps(asdict(own)) + "\n"
    new = path.with_name(f".{path.name}.{own.host}.{own.process}")
    new.write_text(text)
    try:
        os.link(new, path)
    except FileExistsError:
        return False
    except OSError:  # a file system without hard links
        try:
            with path.open("x") as file:
                file.write(text)
        except FileExistsError:
            return False
    finally:
        new.unlink()
    return True


def _taken_over(path: Path, found: Owner, own: Owner) -> bool:
    """Replace the file of an owner that has ended; False where another process does so or was quicker."""
    claim = _claim(path)
    if not _created(claim, own):
        return False
    try:
        if owner_of(path) != found:  # no other process changes it while this one has the claim
            return False
        new = path.with_name(f".{path.name}.new")
        new.write_text(json.dumps(asdict(own)) + "\n")
        new.replace(path)
        return True
    finally:
        claim.unlink()


def _claim(path: Path) -> Path:
    """The file of the only process that may replace another file."""
    return path.with_name(f".{path.name}.claim")
