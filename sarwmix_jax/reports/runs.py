"""Finds and reads the logs that a report is about, and names their runs."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from sarwmix_jax.errors import UserError
from sarwmix_jax.evaluation.pictures import short_name
from sarwmix_jax.reports.lines import read_lines
from sarwmix_jax.reports.project_log import read_project_log
from sarwmix_jax.reports.published_log import is_published, read_published_log
from sarwmix_jax.reports.summary import LoggedRun
from sarwmix_jax.training.logs import FILE_NAME

PUBLISHED_NAME = "log.txt"
LONGEST_NAME = 28


def read_runs(places: Sequence[str]) -> list[LoggedRun]:
    """The runs of work folders or log files, with short names that differ.

    Raises:
        UserError: There is no log at a place, it is not a log, or a place is given twice.
    """
    paths = [find_log(Path(place)) for place in places]
    seen: set[Path] = set()
    for path in paths:
        if path.resolve() in seen:
            raise UserError(f"the same run twice: {path}; name each once")
        seen.add(path.resolve())
    names = short_names(paths)
    return [replace(read_run(path), name=name) for path, name in zip(paths, names, strict=True)]


def find_log(place: Path) -> Path:
    """The log file of a work folder, or the file itself.

    Raises:
        UserError: There is none.
    """
    if place.is_dir():
        for name in (FILE_NAME, PUBLISHED_NAME):
            if (place / name).is_file():
                return place / name
        raise UserError(f"no {FILE_NAME} or {PUBLISHED_NAME} in {place}; give a work folder or a log file")
    if not place.exists():
        raise UserError(f"{place} does not exist; give a work folder or a log file")
    return place


def read_run(path: Path) -> LoggedRun:
    """One run; the lines themselves show which system wrote them.

    Raises:
        UserError: The file is not a log.
    """
    entries, notes = read_lines(path)
    if not entries:
        return LoggedRun(path, "unknown", notes=notes, status="not started")
    if any(isinstance(entry.get("event"), str) for entry in entries):
        return read_project_log(path, entries, notes)
    if any(map(is_published, entries)):
        return read_published_log(path, entries, notes)
    raise UserError(f"{path} is not a log of a run: its lines have neither `event` nor train_* and test_* figures")


def short_names(paths: Sequence[Path]) -> list[str]:
    """The last folders of log files that distinguish them, shortened in the middle.

    Those that would then be equal begin where they differ, and are numbered where even that does not help.
    """
    folders = [path.parent if path.name in (FILE_NAME, PUBLISHED_NAME) else path for path in map(Path.absolute, paths)]
    depth = 1
    while depth < 30 and len({folder.parts[-depth:] for folder in folders}) < len(folders):
        depth += 1
    whole = ["/".join(folder.parts[-depth:]).strip("/") for folder in folders]
    names = [short_name(name, LONGEST_NAME) for name in whole]
    for name in {name for name in names if names.count(name) > 1}:
        equal = [number for number, each in enumerate(names) if each == name]
        letters = enumerate(zip(*(whole[number] for number in equal), strict=False))
        begin = next((place for place, found in letters if len(set(found)) > 1), 0)
        for number in equal:
            names[number] = f"…{short_name(whole[number][begin:], LONGEST_NAME - 1)}"
    return [f"{name} ({number})" if names.count(name) > 1 else name for number, name in enumerate(names, start=1)]
