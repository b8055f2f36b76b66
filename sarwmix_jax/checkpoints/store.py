"""Checkpoints: a thin layer over Orbax' `CheckpointManager`.

A checkpoint holds named arrays (`encoder/stages/0/...`) in three items, `params`, `fixed` and `optimizer` (only the
first two in a converted one), and a JSON `description` of them. Writing is atomic: a folder without its final marker
is not a checkpoint. No array is ever restored silently with another dtype or shape.
"""

import dataclasses
import logging
import os
import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp
from orbax.checkpoint.checkpoint_managers import PreservationPolicy

from sarwmix_jax.errors import UserError
from sarwmix_jax.facts.bands import BandStatistics
from sarwmix_jax.settings.config import as_json
from sarwmix_jax.settings.model import ModelSettings
from sarwmix_jax.version import __version__

FOLDER = "checkpoints"
"""Name of the folder of checkpoints in a work directory."""

FORMAT = 2

ITEMS = {"params": "params", "fixed": "fixed", "optimizer": "opt_state"}
"""Items of a checkpoint that hold arrays, and their names in the state of a run."""

log = logging.getLogger(__name__)


def describe(
    kind: str, model: ModelSettings, statistics: BandStatistics, statistics_name: str, **more: Any
) -> dict[str, Any]:
    """Description of a checkpoint, as plain values for JSON.

    Args:
        kind: What the parameters are: `pretraining`, `classifier` or `flood`.
        model: Settings of the model.
        statistics: Band statistics that standardise the input, backscatter in dB.
        statistics_name: Name of the statistics, or `records`.
        more: Further entries: `source` (where the parameters come from: the records of a run, or the converted file),
            `settings`, `progress`, and those that the kind needs.
    """
    return as_json(
        {
            "format": FORMAT,
            "package": __version__,
            "kind": kind,
            "model": dataclasses.asdict(model),
            "unit": "dB",
            "statistics": {"name": statistics_name, **dataclasses.asdict(statistics)},
            **more,
        }
    )


def upgraded(description: dict[str, Any]) -> dict[str, Any]:
    """Converts a description of any format to the current one."""
    if description["format"] >= FORMAT:
        return description
    new = {name: value for name, value in description.items() if name != "bands"}
    new["model"] = {name: value for name, value in description["model"].items() if name != "patch_size"}
    new["model"]["bands"] = description["bands"]
    if description["kind"] == "pretraining" and "settings" in description:
        new.setdefault("norm_pix", description["settings"]["loss"]["norm_pix"])
    if best := description.get("progress", {}).get("best"):
        best = {"step": best["step"], "metrics": {"loss": best["validation_loss"]}}
        new["progress"] = description["progress"] | {"best": {"lowest_loss": best}}
    return new


@dataclass
class Keep(PreservationPolicy):
    """Which checkpoints are kept: the last few, milestones, and the best ones."""

    last: int | None
    milestones: Collection[int] = ()
    best: Collection[int] = ()

    def should_preserve(self, checkpoints: Sequence[Any], *, context: Any) -> Sequence[bool]:
        """One flag per checkpoint, oldest first."""
        del context
        steps = [checkpoint.step for checkpoint in checkpoints]
        last = set(steps if self.last is None else steps[-self.last :])
        return [step in last or step in self.milestones or step in self.best for step in steps]


@dataclass(frozen=True)
class Restored:
    """Content of a checkpoint."""

    step: int
    state: dict[str, Any]
    description: dict[str, Any]


class Checkpoints:
    """Checkpoints of one folder, newest last."""

    def __init__(
        self, directory: Path, *, keep: int | None = None, milestones: Collection[int] = (), read_only: bool = False
    ):
        """Open (and create unless `read_only`) the folder; the last `keep` ones are kept, all of them for `None`."""
        self.directory = directory.absolute()
        self._keep = Keep(keep, milestones)
        handlers: dict[str, Any] = {item: ocp.StandardCheckpointHandler() for item in ITEMS}
        handlers["description"] = ocp.JsonCheckpointHandler()
        options = ocp.CheckpointManagerOptions(
            preservation_policy=self._keep, read_only=read_only, create=not read_only
        )
        self._manager = ocp.CheckpointManager(self.directory, options=options, item_handlers=handlers)

    def steps(self) -> list[int]:
        """Complete checkpoints, ascending."""
        return sorted(self._manager.all_steps())

    def save(
        self, step: int, state: Mapping[str, Any], description: dict[str, Any], *, best: Collection[int] = ()
    ) -> None:
        """Start writing a checkpoint; it is complete after `wait`.

        Args:
            step: Optimiser steps done.
            state: Trees `params`, `fixed` and, for a run that can be resumed, `opt_state`.
            description: See `describe`.
            best: Steps of the best checkpoints so far, which are kept.

        Raises:
            UserError: This write or the previous one failed.
        """
        self._keep.best = best
        arguments = {item: ocp.args.StandardSave(named(state[key])) for item, key in ITEMS.items() if key in state}
        args = ocp.args.Composite(description=ocp.args.JsonSave(description), **arguments)
        with self._writing():
            self._manager.save(step, args=args, force=True)

    def wait(self) -> None:
        """Return when the last `save` is on disk.

        Raises:
            UserError: It could not be written; the message names the last complete checkpoint.
        """
        with self._writing():
            self._manager.wait_until_finished()

    def check(self) -> None:
        """Check whether a write in the background has failed.

        Raises:
            UserError: It has.
        """
        with self._writing():
            self._manager.check_for_errors()

    @contextmanager
    def _writing(self) -> Iterator[None]:
        try:
            yield
        except Exception as error:
            complete = complete_steps(self.directory)
            last = f"the last complete one is step {complete[-1]}" if complete else "there is no complete one"
            raise UserError(
                f"cannot write a checkpoint in {self.directory}: {first_line(error)}; {last}; "
                "free space or correct the permissions, then start the same command again"
            ) from error

    def restore(self, target: Mapping[str, Any], step: int) -> Restored:
        """Read one checkpoint into arrays like those of `target` (names, shapes, dtypes, shardings).

        Raises:
            ValueError: The checkpoint holds other names, shapes or dtypes, or cannot be read.
        """
        stored = self._manager.item_metadata(step)
        wanted = {item: named(target[key]) for item, key in ITEMS.items()}
        for item, arrays in wanted.items():
            compare(item, stored[item], arrays)
        read = self._read(step, wanted)
        state = {
            key: jax.tree.unflatten(jax.tree.structure(target[key]), [read[item][name] for name in wanted[item]])
            for item, key in ITEMS.items()
        }
        return Restored(step, state, upgraded(read["description"]))

    def _read(self, step: int, wanted: Mapping[str, Mapping[str, Any]], place: Any = None) -> Any:
        """The description, and by item and name the arrays, with the wanted shardings or all with that of `place`."""

        def like(leaf: Any) -> jax.ShapeDtypeStruct:
            return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=place or getattr(leaf, "sharding", None))

        arguments = {
            item: ocp.args.StandardRestore({name: like(leaf) for name, leaf in arrays.items()})
            for item, arrays in wanted.items()
        }
        return self._manager.restore(step, args=ocp.args.Composite(description=ocp.args.JsonRestore(), **arguments))

    def restore_latest(self, target: Mapping[str, Any]) -> Restored | None:
        """Read the newest checkpoint that can be read; damaged ones are skipped, and the reason is logged.

        Raises:
            UserError: There are checkpoints, but none can be read.
        """
        steps = self.steps()
        for step in reversed(steps):
            try:
                return self.restore(target, step)
            except Exception as error:  # Orbax raises many kinds for damaged files
                reason = first_line(error)
                log.warning("checkpoint at step %d cannot be used: %s", step, reason)
        if steps:
            raise UserError(f"none of the checkpoints in {self.directory} can be used; the oldest: {reason}")
        return None

    def description(self, step: int) -> dict[str, Any]:
        """Description of one checkpoint, without its arrays."""
        return upgraded(self._read(step, {})["description"])

    def parameters(self, step: int) -> dict[str, Any]:
        """Host arrays of `params` and `fixed` of one checkpoint, by item and name."""
        stored = self._manager.item_metadata(step)
        place = jax.sharding.SingleDeviceSharding(jax.local_devices()[0])
        items = ("params", "fixed")
        read = self._read(step, {item: stored[item] for item in items}, place)
        return {item: {name: np.asarray(leaf) for name, leaf in read[item].items()} for item in items}

    def close(self) -> None:
        """Wait for the last write and release the folder.

        Raises:
            UserError: The last write failed.
        """
        with self._writing():
            self._manager.close()


def named(tree: Any) -> dict[str, Any]:
    """Leaves of a tree by path, names joined by `/`."""
    leaves = jax.tree_util.tree_flatten_with_path(tree)[0]
    return {jax.tree_util.keystr(path, simple=True, separator="/"): leaf for path, leaf in leaves}


def complete_steps(directory: Path) -> list[int]:
    """Steps with a complete checkpoint, ascending, from folder names alone."""
    if not directory.is_dir():
        return []
    return sorted(int(entry.name) for entry in directory.iterdir() if entry.is_dir() and entry.name.isdigit())


def compare(item: str, stored: Mapping[str, Any] | None, wanted: Mapping[str, Any]) -> None:
    """Refuse stored arrays whose names, shapes or dtypes are not the wanted ones.

    Raises:
        ValueError: They differ; the message gives the first difference.
    """
    if stored is None:
        raise ValueError(f"it holds no {item}")
    if missing := sorted(set(wanted) - set(stored)):
        raise ValueError(f"{item} lacks {missing[0]} ({len(missing)} missing)")
    if extra := sorted(set(stored) - set(wanted)):
        raise ValueError(f"{item} has the unknown {extra[0]} ({len(extra)} unknown)")
    for name, leaf in wanted.items():
        found = stored[name]
        if tuple(found.shape) != tuple(leaf.shape) or found.dtype != leaf.dtype:
            raise ValueError(
                f"{item} {name} is {found.dtype}{list(found.shape)}, the run needs {leaf.dtype}{list(leaf.shape)}"
            )


def first_line(error: BaseException) -> str:
    """First line of an error's text, or its type where it has none; the system's message where it has an error code."""
    if system := re.search(r"os_error_code='(\d+)'", str(error)):
        return os.strerror(int(system[1]))
    return next(iter(str(error).strip().splitlines()), type(error).__name__)
