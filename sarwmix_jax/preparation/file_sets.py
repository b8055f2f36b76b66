"""Preparing a large folder of plain files as record sets are prepared: parallel, restartable, the same bytes.

A unit of work makes some files; work in progress lies in `<out>.partial/` as `preparation` has it, with one progress
file per finished unit.
"""

import hashlib
import io
import json
import os
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from sarwmix_jax.data.records import RecordError
from sarwmix_jax.errors import UserError
from sarwmix_jax.preparation.shards import REPORT, check_same_work, locked
from sarwmix_jax.preparation.workers import run_tasks
from sarwmix_jax.preparation.writer import check_absent, commit, publish, write_text, writing_errors

Make = Callable[[Path, Callable[[], None]], Any]
"""Makes the files of a unit in a folder, calls its second argument once per step, gives something for JSON."""


@dataclass(frozen=True)
class Unit:
    """One unit of work: picklable; makes the same files each time.

    Attributes:
        name: Name, unique in the set.
        steps: Steps for the progress bar.
        make: Does the work.
    """

    name: str
    steps: int
    make: Make


@dataclass(frozen=True)
class _Work:
    unit: Unit
    folder: Path

    def __call__(self, advance: Callable[[], None]) -> None:
        result = self.unit.make(self.folder / "records", advance)
        write_text(_progress(self.folder, self.unit), json.dumps(result) + "\n")


def _progress(folder: Path, unit: Unit) -> Path:
    return folder / "progress" / f"{unit.name}.json"


def prepare_files(
    units: Sequence[Unit],
    settings: str,
    out: Path,
    *,
    describe: Callable[[dict[str, Any]], dict[str, Any]],
    workers: int = 1,
    part: tuple[int, int] | None = None,
    merge: bool = False,
) -> dict[str, Any] | None:
    """Make the files of all units, or go on where an earlier run was stopped.

    Args:
        units: What to do.
        settings: All that decides what the files are; other work in the same place is refused.
        out: Folder to make.
        describe: Report from the results by unit.
        workers: Processes.
        part: `(i, n)`: only the i-th of n parts, from 1; a later run merges.
        merge: Make nothing; put the parts together.

    Returns:
        The report, which lies beside the files too, or None when the set is not complete yet.

    Raises:
        UserError: Unreadable sources, other work in the same place, a full disk, missing parts.
    """
    folder = out.with_name(out.name + ".partial")
    plan = _fingerprint(units, settings)
    report = _report_if_complete(out, plan)
    if report is not None:
        shutil.rmtree(folder, ignore_errors=True)
        return report
    check_absent(out)
    with locked(folder, part):
        check_same_work(folder, {"plan": plan, "records": sum(unit.steps for unit in units), "files": len(units)})
        if not merge:
            _run(units, part or (1, 1), folder, workers, out.name)
        if part is not None:
            return None
        report = {"plan": plan, **describe(_results(units, folder))}
        write_text(folder / "records" / REPORT, json.dumps(report, indent=2) + "\n")
        _publish(folder / "records", out)
    shutil.rmtree(folder)
    return report


def _fingerprint(units: Sequence[Unit], settings: str) -> str:
    text = "\n".join([settings, *(f"{unit.name} {unit.steps}" for unit in units)])
    return hashlib.sha256(text.encode()).hexdigest()


def _results(units: Sequence[Unit], folder: Path) -> dict[str, Any]:
    missing = [unit.name for unit in units if not _progress(folder, unit).exists()]
    if missing:
        raise UserError(f"{len(missing)} of {len(units)} parts are not in {folder} yet (first {missing[0]})")
    return {unit.name: json.loads(_progress(folder, unit).read_text()) for unit in units}


def _publish(files: Path, out: Path) -> None:
    """Publish without what a killed run had begun to write."""
    for leftover in files.rglob(".*.tmp"):
        leftover.unlink()
    publish(files, out)


def _report_if_complete(out: Path, plan: str) -> dict[str, Any] | None:
    """The report of the run that finished this very work; None if none has."""
    try:
        report: dict[str, Any] = json.loads((out / REPORT).read_text())
        return report if report["plan"] == plan else None
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _run(all_units: Sequence[Unit], part: tuple[int, int], folder: Path, workers: int, title: str) -> None:
    units = all_units[part[0] - 1 :: part[1]]
    todo = [unit for unit in units if not _progress(folder, unit).exists()]
    total, left = (sum(unit.steps for unit in some) for some in (units, todo))
    try:
        run_tasks((_Work(unit, folder) for unit in todo), workers, title, total=total, done=total - left)
    except RecordError as error:
        raise UserError(f"{error}; mend it, or leave such scenes out with --on-error=skip") from None


def write_array(path: Path, values: np.ndarray) -> None:
    """Write an array as .npy: all of it or nothing."""
    buffer = io.BytesIO()
    np.save(buffer, values, allow_pickle=False)
    temporary = path.with_name(f".{path.name}.tmp")
    with writing_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        with temporary.open("wb") as file:
            file.write(buffer.getbuffer())
            file.flush()
            os.fsync(file.fileno())
        commit(temporary, path)
