"""Preparing a large record set: planned, parallel, restartable, the same bytes whoever does the work.

A plan lists all records in their final order and cuts them into shards; a shard is the unit of work. Work in
progress lies in `<out>.partial/`:

- `plan.json`: what the work is, to refuse a restart with another plan
- `records/`: finished shards
- `progress/`: one file per finished shard: its summary, and the records that could not be read

When every shard is there, `records/` gets its description and becomes `<out>` in one step. Several machines may
share a plan (`part`); one of them then merges.
"""

import contextlib
import fcntl
import json
import os
import shutil
import socket
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from sarwmix_jax.data.records import Record, RecordError
from sarwmix_jax.errors import UserError
from sarwmix_jax.preparation.plan import Plan, Row
from sarwmix_jax.preparation.shard_work import OnError, Outcome, Problem, ShardWork, progress_file, read_outcome
from sarwmix_jax.preparation.workers import run_tasks
from sarwmix_jax.preparation.writer import (
    ShardSummary,
    check_absent,
    publish,
    write_description,
    write_text,
    writing_errors,
)

REPORT = "preparation.json"
Finish = Callable[[Path, Plan, Sequence[Outcome]], dict[str, Any]]
"""Adds files to a complete record set (folder, plan, outcomes by shard) and gives fields for its report."""


def prepare(
    plan: Plan,
    read: Callable[[Row], Record],
    out: Path,
    *,
    workers: int = 1,
    part: tuple[int, int] | None = None,
    merge: bool = False,
    on_error: OnError = "stop",
    finish: Finish | None = None,
) -> list[Problem] | None:
    """Write the records of a plan, or go on where an earlier run was stopped.

    Args:
        plan: What to write.
        read: Makes the record of a row, or raises `RecordError` or `ExcludedError`; picklable.
        out: Folder to make.
        workers: Processes that read and write shards.
        part: `(i, n)`: write only the i-th of n parts, from 1; a later run merges.
        merge: Write nothing; put the parts together.
        on_error: At a record that cannot be read: `stop`, or `skip` and report it.
        finish: Adds to the record set when all records are written.

    Returns:
        The records that were skipped, or None when the record set is not complete yet.

    Raises:
        UserError: Unreadable records, other work in the same place, a full disk, missing parts.
    """
    folder = out.with_name(out.name + ".partial")
    skipped = _skipped_if_complete(out, plan)
    if skipped is not None:
        shutil.rmtree(folder, ignore_errors=True)
        return skipped
    check_absent(out)
    with locked(folder, part):
        check_same_work(folder, _described(plan))
        if not merge:
            _write_part(plan, read, folder, workers, part, on_error)
        if part is not None:
            return None
        outcomes = _outcomes(plan, folder, on_error)
        _finish(plan, folder, out, outcomes, finish)
    shutil.rmtree(folder)
    return [problem for outcome in outcomes for problem in outcome.problems]


def _skipped_if_complete(out: Path, plan: Plan) -> list[Problem] | None:
    """What the run that finished this very plan had skipped; None if none has finished it."""
    try:
        report = json.loads((out / REPORT).read_text())
        if report["plan"] == plan.fingerprint:
            return [Problem(**problem) for problem in report["skipped"]]
    except (OSError, ValueError, KeyError, TypeError):
        pass
    return None


@contextlib.contextmanager
def locked(folder: Path, part: tuple[int, int] | None) -> Iterator[None]:
    """Make the folder of work in progress; one run at a time: alone in it, or alone with its part of it.

    Raises:
        UserError: Another run works there, or the folder cannot be made.
    """
    with writing_errors(folder), contextlib.ExitStack() as stack:
        for name in ("records", "progress"):
            (folder / name).mkdir(parents=True, exist_ok=True)
        locks = {"lock": fcntl.LOCK_EX if part is None else fcntl.LOCK_SH}
        if part is not None:
            locks[f"lock-{part[0]}-of-{part[1]}"] = fcntl.LOCK_EX
        for name, kind in locks.items():
            file = stack.enter_context((folder / name).open("w"))
            try:
                fcntl.flock(file, kind | fcntl.LOCK_NB)
            except BlockingIOError:
                raise UserError(f"another run is preparing records in {folder}; wait for it or stop it") from None
        yield


def _described(plan: Plan) -> dict[str, Any]:
    return {"plan": plan.fingerprint, "records": plan.rows.num_rows, "files": len(plan.shards)}


def check_same_work(folder: Path, wanted: dict[str, Any]) -> None:
    """Note in `folder` what the work is (`plan`, `records`, `files`), or refuse to go on with other work than that.

    Raises:
        UserError: The folder was begun with other work.
    """
    path = folder / "plan.json"
    if not path.exists():
        # parts of a plan begin at the same time, maybe on several machines
        write_text(path, json.dumps(wanted) + "\n", writer=f".{socket.gethostname()}.{os.getpid()}")
        return
    found = json.loads(path.read_text())
    if found != wanted:
        raise UserError(
            f"{folder} was begun with other metadata, version or --records-per-shard ({found.get('records')} records "
            f"in {found.get('files')} files, now {wanted['records']} in {wanted['files']}); remove it to begin anew, "
            "or repeat the first command"
        )


def _write_part(
    plan: Plan,
    read: Callable[[Row], Record],
    folder: Path,
    workers: int,
    part: tuple[int, int] | None,
    on_error: OnError,
) -> None:
    index, count = part or (1, 1)
    if not 1 <= index <= count:
        raise UserError(f"part {index}/{count}: parts count from 1 to {count}")
    mine = plan.shards[index - 1 :: count]
    for shard in mine:
        for leftover in (folder / "records").glob(f".{shard.name}.*"):
            leftover.unlink()
    todo = [shard for shard in mine if not progress_file(folder, shard).exists()]
    work = (ShardWork(s, plan.rows_of(s), folder, plan.contract, read, on_error) for s in todo)
    total = sum(shard.count for shard in mine)
    left = sum(shard.count for shard in todo)
    try:
        run_tasks(work, workers, f"{plan.contract.name} records", total=total, done=total - left)
    except RecordError as error:
        raise UserError(f"{error}; mend it, or leave such records out with --on-error=skip") from None


def _outcomes(plan: Plan, folder: Path, on_error: OnError) -> list[Outcome]:
    missing = [shard.name for shard in plan.shards if not progress_file(folder, shard).exists()]
    if missing:
        raise UserError(
            f"{len(missing)} of {len(plan.shards)} shards are not in {folder} yet (first {missing[0]}); "
            "finish all parts before merging"
        )
    outcomes = [read_outcome(folder, shard) for shard in plan.shards]
    skipped = [problem for outcome in outcomes for problem in outcome.problems]
    if skipped and on_error == "stop":
        raise UserError(
            f"{len(skipped)} records were skipped before (first {skipped[0].patch_id}: {skipped[0].reason}); "
            f"accept it with --on-error=skip, or remove {folder} to begin anew"
        )
    return outcomes


def _finish(plan: Plan, folder: Path, out: Path, outcomes: Sequence[Outcome], finish: Finish | None) -> None:
    records = folder / "records"
    splits: dict[str, list[ShardSummary]] = {}
    for shard, outcome in zip(plan.shards, outcomes, strict=True):
        splits.setdefault(shard.split, []).append(outcome.summary)
    empty = {split for split, summaries in splits.items() if not any(s.records for s in summaries)}
    if len(empty) == len(splits):
        reason = next(p for outcome in outcomes for p in (*outcome.problems, *outcome.excluded)).reason
        raise UserError(f"not one of {plan.rows.num_rows} records could be read: {reason}")
    for shard in plan.shards:
        if shard.split in empty:
            (records / shard.name).unlink(missing_ok=True)
    report = {
        "plan": plan.fingerprint,
        "planned": plan.rows.num_rows,
        "written": sum(outcome.summary.records for outcome in outcomes),
        "skipped": [asdict(problem) for outcome in outcomes for problem in outcome.problems],
        "excluded": dict(sorted(Counter(p.reason for outcome in outcomes for p in outcome.excluded).items())),
        **plan.notes,
        **(finish(records, plan, outcomes) if finish is not None else {}),
    }
    write_text(records / REPORT, json.dumps(report, indent=2) + "\n")
    write_description(records, plan.contract, {k: v for k, v in splits.items() if k not in empty})
    publish(records, out)
