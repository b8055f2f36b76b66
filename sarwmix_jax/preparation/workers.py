"""Preparing a large set of files: planned, parallel, restartable, with the same bytes for any number of workers.

The set is divided into units of work: shards of records, or other groups of its files. Work in progress is in
`<out>.partial/`:

- `plan.json`: identifies the work, to refuse a restart with another plan
- `records/`: finished files
- `progress/`: one file per finished unit, with its outcome

When every unit is done, `records/` gets its report (and description) and is renamed to `<out>`. Several machines may
share the work (`part`); one of them then merges the parts.
"""

import contextlib
import errno
import fcntl
import functools
import itertools
import json
import multiprocessing
import shutil
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, Protocol, TypeVar

from sarwmix_jax.data.records import RecordError
from sarwmix_jax.data.verification import REPORT_FILE
from sarwmix_jax.errors import UserError
from sarwmix_jax.preparation.writer import check_absent, publish, write_file, writing_errors
from sarwmix_jax.processes import end_with_parent
from sarwmix_jax.progress import progress, show

_NO_LOCKS = (errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOTSUP, errno.ENOSYS)
Result = TypeVar("Result")
Task = tuple[Callable[[], Result], int]
"""A function to call, and the number of steps of the progress that it counts for."""
Make = Callable[[Path], Any]
"""Makes the files of a unit in a folder; returns its outcome for JSON."""


class Unit(Protocol):
    """One unit of work: its name, unique in the set, and its number of steps."""

    @property
    def name(self) -> str:
        """Name."""

    @property
    def count(self) -> int:
        """Number of steps of the progress."""


@dataclass(frozen=True)
class Work:
    """The work that makes a set.

    Attributes:
        fingerprint: Differs for every other output.
        units: The units of work.
        make: Makes the files of a unit: picklable, with the same files each time.
        finish: Completes the folder of all files, from the outcomes by name of the unit; returns the report.
    """

    fingerprint: str
    units: Sequence[Unit]
    make: Callable[[Any], Make]
    finish: Callable[[Path, dict[str, Any]], dict[str, Any]]


def run(
    work: Work, out: Path, *, workers: int = 1, part: tuple[int, int] | None = None, merge: bool = False
) -> dict[str, Any] | None:
    """Do the work, or continue where an earlier run was stopped.

    Args:
        work: The work.
        out: Folder to create.
        workers: Number of processes.
        part: `(i, n)`: only the i-th of n parts, from 1; a later run merges.
        merge: Only merge the finished parts.

    Returns:
        The report, which is also written beside the files, or None when the set is not complete yet.

    Raises:
        UserError: Sources are unreadable, other work is in the same place, the disk is full, or parts are missing.
    """
    _check_counts(workers, part)
    folder = out.with_name(out.name + ".partial")
    report = _report_if_complete(out, work.fingerprint)
    if report is None:
        check_absent(out)
        with _locked(folder, part):
            _check_same_work(folder, work)
            if not merge:
                _run_part(work, part or (1, 1), folder, workers, f"preparing {out.name}")
            if part is not None:
                return None
            report = {"plan": work.fingerprint, **work.finish(folder / "records", _outcomes(work, folder))}
            write_file(folder / "records" / REPORT_FILE, json.dumps(report, indent=2) + "\n")
            for leftover in folder.rglob(".*.tmp"):  # of a killed run
                leftover.unlink()
            publish(folder / "records", out)
    shutil.rmtree(folder, ignore_errors=True)
    return report


def _check_counts(workers: int, part: tuple[int, int] | None = None) -> None:
    if workers < 1:
        raise UserError(f"workers {workers}: at least 1 is needed")
    if part is not None and not 1 <= part[0] <= part[1]:
        raise UserError(f"part {part[0]}/{part[1]}: parts count from 1 to {part[1]}")


def _report_if_complete(out: Path, fingerprint: str) -> dict[str, Any] | None:
    """The report of a run that finished the same work; None if there is none."""
    try:
        report: dict[str, Any] = json.loads((out / REPORT_FILE).read_bytes())
        return report if report["plan"] == fingerprint else None
    except (OSError, ValueError, KeyError, TypeError):
        return None


@contextlib.contextmanager
def _locked(folder: Path, part: tuple[int, int] | None) -> Iterator[None]:
    """Create the folder of work in progress; one run at a time may use it, or one run per part.

    A run that is refused before it has made anything leaves no folder.
    """
    new = not folder.exists()
    with writing_errors(folder), contextlib.ExitStack() as stack:
        for name in ("records", "progress"):
            (folder / name).mkdir(parents=True, exist_ok=True)
        locks = {"lock": fcntl.LOCK_EX if part is None else fcntl.LOCK_SH}
        if part is not None:
            locks[f"lock-{part[0]}-of-{part[1]}"] = fcntl.LOCK_EX
        files = {name: stack.enter_context((folder / name).open("w")) for name in locks}
        free = [_lock(files[name], kind) for name, kind in locks.items()]
        if False in free:
            raise UserError(f"another run is preparing records in {folder}; wait for it or stop it")
        if None in free:
            print(f"{folder}: no locks on this file system; let no other run write there", file=sys.stderr)
        try:
            yield
        except UserError:
            made = (path for name in ("records", "progress") for path in (folder / name).rglob("*") if path.is_file())
            alone = part is None or _lock(files["lock"], fcntl.LOCK_EX)
            if new and alone and next(made, None) is None:
                shutil.rmtree(folder, ignore_errors=True)
            raise


def _lock(file: IO[str], kind: int) -> bool | None:
    """Lock a file; returns False where another run has locked it, None where the file system has no locks."""
    try:
        fcntl.flock(file, kind | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError as error:
        if error.errno not in _NO_LOCKS:
            raise
        return None
    return True


def _check_same_work(folder: Path, work: Work) -> None:
    """Note in `folder` what the work is, or refuse to continue other work."""
    records = sum(unit.count for unit in work.units)
    wanted = {"plan": work.fingerprint, "records": records, "files": len(work.units)}
    path = folder / "plan.json"
    if not path.exists():
        write_file(path, json.dumps(wanted) + "\n")
        return
    found = _read_note(path)
    if found != wanted:
        begun = found if isinstance(found, dict) else {}
        raise UserError(
            f"{folder} was started with other metadata, version or --records-per-shard ({begun.get('records')} records "
            f"in {begun.get('files')} files, now {wanted['records']} in {wanted['files']}); remove it to start again, "
            "or repeat the first command"
        )


def _read_note(path: Path) -> Any:
    """Content of a file of the work in progress."""
    try:
        return json.loads(path.read_bytes())
    except ValueError:
        raise UserError(f"{path} is damaged; remove it and run again") from None


def _make_and_note(make: Make, folder: Path, progress: Path) -> None:
    """Make a unit, then note that it is done."""
    write_file(progress, json.dumps(make(folder / "records")) + "\n")


def _is_noted(note: Path) -> bool:
    """Whether a unit is noted as done; one with a damaged note is made again."""
    if not note.exists():
        return False
    try:
        _read_note(note)
    except UserError:
        show(f"{note} is damaged; what it notes is made again")
        return False
    return True


def _progress(folder: Path, unit: Unit) -> Path:
    return folder / "progress" / f"{unit.name}.json"


def _run_part(work: Work, part: tuple[int, int], folder: Path, workers: int, title: str) -> None:
    index, count = part
    mine = work.units[index - 1 :: count]
    todo = [unit for unit in mine if not _is_noted(_progress(folder, unit))]
    tasks = (
        (functools.partial(_make_and_note, work.make(unit), folder, _progress(folder, unit)), unit.count)
        for unit in todo
    )
    total, left = (sum(unit.count for unit in some) for some in (mine, todo))
    try:
        for _ in run_tasks(tasks, workers, title, total=total, done=total - left):
            pass
    except RecordError as error:
        raise UserError(f"{error}; repair it, or leave such records out with --on-error=skip") from None


def _outcomes(work: Work, folder: Path) -> dict[str, Any]:
    missing = [unit.name for unit in work.units if not _progress(folder, unit).exists()]
    if missing:
        raise UserError(
            f"{len(missing)} of {len(work.units)} shards are not in {folder} yet (first {missing[0]}); "
            "finish all parts before merging"
        )
    return {unit.name: _read_note(_progress(folder, unit)) for unit in work.units}


def run_tasks(
    tasks: Iterable[Task[Result]], workers: int, title: str, *, total: int, done: int = 0
) -> Iterator[Result]:
    """Run every task and yield its result, in any order.

    Args:
        tasks: Functions with their steps; picklable if there are several workers; taken from the iterable as
            workers become free.
        workers: Number of processes; with 1 this process works.
        title: What is done, for the lines and bars of progress.
        total: Steps in all.
        done: Steps done before.

    Raises:
        UserError: A worker was killed, for example for lack of memory, or `workers` is below 1.
        Exception: The first exception of a task; tasks that were not started are dropped.
    """
    _check_counts(workers)
    with progress(title, total, done=done) as advance:
        finished = ((task(), steps) for task, steps in tasks) if workers == 1 else _run_in_pool(tasks, workers)
        for result, steps in finished:
            advance(steps)
            yield result


def _run_in_pool(tasks: Iterable[Task[Result]], workers: int) -> Iterator[tuple[Result, int]]:
    """Keep two tasks per worker running or waiting; yields results with their steps as they come."""
    waiting = iter(tasks)
    running: dict[Future[Result], int] = {}
    pool = ProcessPoolExecutor(workers, multiprocessing.get_context("spawn"), end_with_parent)
    try:
        while running := running | {
            pool.submit(task): steps for task, steps in itertools.islice(waiting, 2 * workers - len(running))
        }:
            for future in wait(running, return_when=FIRST_COMPLETED).done:
                yield future.result(), running.pop(future)
    except BrokenProcessPool:
        raise UserError(
            "a worker process was killed, perhaps for lack of memory; run again with fewer --workers"
        ) from None
    except Exception:
        raise
    except BaseException:  # a signal: what the workers have begun can take minutes, and is begun again later
        for worker in multiprocessing.active_children():
            worker.terminate()
        raise
    finally:
        pool.shutdown(wait=True, cancel_futures=True)
