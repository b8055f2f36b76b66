"""Which process runs a step of a study: a file in the step's folder, so that no two run the same one."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from sarwmix_jax.errors import UserError
from sarwmix_jax.progress import show
from sarwmix_jax.training.lock import InUse, Owner, acquire, owner_of, release, this_process

CLAIM = "claim.json"


def running(folder: Path) -> Owner | None:
    """Who runs the step of a folder now, if anyone, as far as that can be known.

    Raises:
        UserError: The claim cannot be read.
    """
    owner = owner_of(folder / CLAIM)
    return None if owner is None or owner.ended else owner


@contextmanager
def claimed(folder: Path) -> Iterator[bool]:
    """Claim a step for the time of the context; gives False where another process has it.

    The claim of a process that was killed on this machine is taken over. One on another machine cannot be checked: its
    file has to be removed by hand.

    Args:
        folder: Folder of the step; created if missing.

    Raises:
        UserError: The claim of another process cannot be read, or none can be written.
    """
    path, own = folder / CLAIM, this_process()
    try:
        folder.mkdir(parents=True, exist_ok=True)
        note = acquire(path, own, "process", "wait for it or stop it")
    except InUse:
        yield False
        return
    except OSError as error:
        raise UserError(f"cannot write in {folder}: {error.strerror}; choose another --workdir") from error
    if note:
        show(note)
    try:
        yield True
    finally:
        release(path, own)
