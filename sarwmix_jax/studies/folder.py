"""The folder of a study: its settings, and the state and result of every step."""

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

from sarwmix_jax.errors import UserError
from sarwmix_jax.preparation.writer import write_file
from sarwmix_jax.progress import show
from sarwmix_jax.settings.config import as_json, differences
from sarwmix_jax.settings.study import Line, StudySettings
from sarwmix_jax.studies.claims import running
from sarwmix_jax.studies.plan import Step, plan, recipe_config
from sarwmix_jax.version import __version__

DESCRIPTION, RESULT, FAILURE = "study.json", "step.json", "failure.txt"
GROWING = ("variants", "checkpoints", "fractions", "seeds", "tries", "measured")
"""Settings to which entries may be added later: the steps that are done stay valid."""
FREE = ("minutes", "score", "pretraining", "finetuning")
"""Settings that may change: no step depends on them, or only by the recipes, which are compared themselves."""
FREE_IN_RECIPES = re.compile(r"recipes\.\w+\.(log\.|data\.(threads|workers|prefetch|resident))")
"""Likewise of the recipes: how often runs log and how they read."""


@dataclass(frozen=True)
class StudyFolder:
    """A study and its folder."""

    study: StudySettings
    path: Path

    @property
    def steps(self) -> list[Step]:
        """All steps, in order."""
        return plan(self.study)

    def at(self, step: Step | str) -> Path:
        """Folder of a step."""
        return self.path / (step if isinstance(step, str) else step.name)

    def is_done(self, step: Step | str) -> bool:
        """Whether a step has its result."""
        return (self.at(step) / RESULT).is_file()

    def state(self, step: Step) -> str:
        """State of a step in words: done, running, failed, partly done or open."""
        folder = self.at(step)
        if self.is_done(step):
            return "done"
        if owner := running(folder):
            return f"running: {owner}"
        if (folder / FAILURE).is_file():
            reason = (folder / FAILURE).read_text(errors="replace")
            return f"failed: {next(iter(reason.splitlines()), 'the reason is lost')}"
        return "partly done" if folder.is_dir() and any(folder.iterdir()) else "open"

    def write_result(self, step: Step, rows: Sequence[Mapping[str, Any]], minutes: float) -> None:
        """Write the result of a step, which is done from then on.

        Raises:
            UserError: A score is not finite.
        """
        found = {"step": step.name, "version": __version__, "minutes": minutes, "rows": rows}
        try:
            text = json.dumps(found, indent=1, allow_nan=False)
        except ValueError as error:
            raise UserError(f"{step.name}: a score is NaN or infinite; it cannot be written") from error
        (self.at(step) / FAILURE).unlink(missing_ok=True)
        write_file(self.at(step) / RESULT, text + "\n")

    def results(self) -> dict[str, dict[str, Any]]:
        """Results of all steps that are done, by name.

        Raises:
            UserError: A result is damaged.
        """
        found = {}
        for step in self.steps:
            if self.is_done(step):
                found[step.name] = _result(self.at(step) / RESULT)
        return found

    def remove_damaged_results(self) -> None:
        """Remove results that cannot be read, with a line for each: these steps are done again."""
        for step in filter(self.is_done, self.steps):
            try:
                _result(self.at(step) / RESULT)
            except UserError:
                (self.at(step) / RESULT).unlink(missing_ok=True)
                show(f"the result of {step.name} is damaged and was removed; the step is done again")

    def minutes(self, steps: Sequence[Step]) -> float | None:
        """Estimate for these steps, from those that are done and from the study's own figures; None without any."""
        known = {line.name: float(line.words[0]) for line in map(Line.of, self.study.minutes)}
        by_name = {step.name: step for step in self.steps}
        spent: dict[str, list[float]] = {}
        for name, result in self.results().items():
            step = by_name[name]
            for key in (step.kind, f"{step.kind}/{step.recipe}"):
                spent.setdefault(key, []).append(result["minutes"])
        known |= {key: median(values) for key, values in spent.items()}
        each = [known.get(f"{step.kind}/{step.recipe}", known.get(step.kind)) for step in steps]
        return None if None in each else sum(minutes for minutes in each if minutes is not None)


def _result(path: Path) -> dict[str, Any]:
    """The result of a step.

    Raises:
        UserError: It is damaged.
    """
    try:
        found: dict[str, Any] = json.loads(path.read_bytes())
        if not isinstance(found["rows"], list) or not isinstance(found["minutes"], float | int):
            raise TypeError("rows or minutes are of another type")
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(f"{path} is damaged ({error}); start the study, and the step is done again") from error
    return found


def describe_study(study: StudySettings) -> dict[str, Any]:
    """What a study's folder states about it: settings, and those of its recipes.

    Raises:
        UserError: A recipe is unknown, or one of its changes.
    """
    recipes = {name: recipe_config(getattr(study, name), (), {}).to_dict() for name in ("pretraining", "finetuning")}
    plain: dict[str, Any] = json.loads(json.dumps({"settings": as_json(study), "recipes": recipes}))
    return plain


def open_folder(study: StudySettings, path: Path, *, write: bool = True) -> StudyFolder:
    """Create a study's folder, or check that it holds this study; new entries of an axis are added to it.

    Args:
        study: The study.
        path: Its folder.
        write: Whether to write anything.

    Raises:
        UserError: The folder holds another study or something else, or cannot be written.
    """
    wanted, file = describe_study(study), path / DESCRIPTION
    try:
        if not file.exists() and path.exists() and (not path.is_dir() or any(path.iterdir())):
            raise UserError(f"{path} holds something other than a study; name another --workdir")
        if file.exists():
            _check_same(json.loads(file.read_text()), wanted, path)
        if write:
            path.mkdir(parents=True, exist_ok=True)
            write_file(file, json.dumps(wanted, indent=2) + "\n")
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise UserError(f"{file} cannot be read or written ({error}); choose another --workdir") from error
    return StudyFolder(study, path)


def _check_same(old: dict[str, Any], new: dict[str, Any], path: Path) -> None:
    """Refuses another study than that of the folder.

    Raises:
        UserError: A setting has changed, or an entry of an axis is gone.
    """
    before = {**old, "settings": dict(old["settings"])}
    for name in (*GROWING, *FREE):
        own, others = before["settings"].get(name) or [], new["settings"][name]
        if name in FREE or all(each in others for each in own):
            before["settings"][name] = others
    if changed := [line for line in differences(before, new) if not FREE_IN_RECIPES.match(line)]:
        raise UserError(f"{path} holds a study with other settings ({'; '.join(changed)}); name another --workdir")
