"""One run at a time in a work directory: a file that names its owner.

The file appears whole or not at all, by a hard link, which NFS decides in one place too (`flock` is not needed). It
stays behind when its owner is killed; where the owner's host can see that it has ended, the next run takes over.
"""

import contextlib
import json
import os
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from sarwmix_jax.errors import UserError

LOCK_FILE = "running.json"
_LONGEST_TAKEOVER_SECONDS = 10


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
    path, own = workdir / LOCK_FILE, owner()
    try:
        workdir.mkdir(parents=True, exist_ok=True)
        note = _acquired(path, own) if hold else None
    except OSError as error:
        raise UserError(f"cannot write in {workdir}: {error.strerror}; choose another --workdir") from error
    try:
        yield note
    finally:
        with contextlib.suppress(OSError, UserError):
            if hold and read_owner(path) == own:
                path.unlink()


def _acquired(path: Path, own: dict[str, Any]) -> str | None:
    workdir = path.parent
    latest = time.monotonic() + _LONGEST_TAKEOVER_SECONDS
    while not _created(path, own):
        found = read_owner(path)
        if found is None:
            continue  # released in between
        if not has_ended(found):
            raise UserError(_refusal(workdir, found))
        if _taken_over(path, found, own):
            return f"{workdir}: took over from process {found['process']} of {found['started']}, which has ended"
        if time.monotonic() > latest:
            raise UserError(f"{workdir}: another start takes long; if there is none, remove {_claim(path)}")
        time.sleep(0.1)
    return None


def owner() -> dict[str, Any]:
    """This process, as its lock names it."""
    return {
        "host": socket.gethostname(),
        "processes": _text_of_link(Path("/proc/self/ns/pid")),
        "process": os.getpid(),
        "process_start": process_start(os.getpid()),
        "started": time.strftime("%Y-%m-%d %H:%M:%S"),
    }


def _text_of_link(path: Path) -> str | None:
    """Where a link leads; None where there is none: containers of one host name may number their processes apart."""
    try:
        return str(path.readlink())
    except OSError:
        return None


def process_start(process: int) -> str | None:
    """When a process of this host started, as the system notes it; None where it has ended or that is not known."""
    try:
        ticks = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[19]
        return f"{Path('/proc/sys/kernel/random/boot_id').read_text().strip()} {ticks}"
    except (OSError, IndexError):
        return None


def read_owner(path: Path) -> dict[str, Any] | None:
    """The owner that a lock names; None without a lock.

    Raises:
        UserError: It cannot be read.
    """
    try:
        found = json.loads(path.read_bytes())
        return {name: found[name] for name in ("host", "processes", "process", "process_start", "started")}
    except FileNotFoundError:
        return None
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(f"{path} cannot be read ({error}); if no run works there, remove this file") from None


def has_ended(found: dict[str, Any]) -> bool:
    """Whether the owner of a lock is known to have ended: it was of this host, and is gone or another process now."""
    here = owner()
    if (found["host"], found["processes"]) != (here["host"], here["processes"]):
        return False
    if found["process_start"] is not None:
        return process_start(found["process"]) != found["process_start"]
    try:
        os.kill(found["process"], 0)
    except ProcessLookupError:
        return True
    except OSError:
        return False
    return False


def _refusal(workdir: Path, found: dict[str, Any]) -> str:
    who = f"process {found['process']} on {found['host']}, started {found['started']}"
    if found["host"] == socket.gethostname():
        return f"{workdir} is in use by another run ({who}); wait for it or stop it, or use another --workdir"
    return f"{workdir} is in use by a run of another host ({who}); if it has ended, remove {workdir / LOCK_FILE}"


def _created(path: Path, own: dict[str, Any]) -> bool:
    """Create a lock; False where there is one."""
    new = path.with_name(f".{path.name}.{own['host']}.{own['process']}")
    new.write_text(json.dumps(own) + "\n")
    try:
        os.link(new, path)
    except FileExistsError:
        return False
    except OSError:  # a file system without hard links
        try:
            with path.open("x") as file:
                file.write(json.dumps(own) + "\n")
        except FileExistsError:
            return False
    finally:
        new.unlink()
    return True


def _taken_over(path: Path, found: dict[str, Any], own: dict[str, Any]) -> bool:
    """Replace the lock of an owner that has ended; False where another run does so or was quicker."""
    claim = _claim(path)
    if not _created(claim, own):
        return False
    try:
        if read_owner(path) != found:  # no other run changes it while this one has the claim
            return False
        new = path.with_name(f".{path.name}.new")
        new.write_text(json.dumps(own) + "\n")
        new.replace(path)
        return True
    finally:
        claim.unlink()


def _claim(path: Path) -> Path:
    """The file of the only run that may replace a lock."""
    return path.with_name(f".{path.name}.claim")
