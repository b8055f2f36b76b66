"""Checkpoints: a thin layer over Orbax' `CheckpointManager`.

A checkpoint holds named arrays (`encoder/stages/0/...`) in three items, `params`, `fixed` and `optimizer` (only the
first two in a converted one), a JSON `description` of them, and `checksums` of it all, verified at every reading (see
`integrity`). Writing is atomic: a folder without its final marker is not a checkpoint.
"""

import dataclasses
import functools
import logging
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp
from orbax.checkpoint.checkpoint_managers import PreservationPolicy

from sarwmix_jax.checkpoints import integrity
from sarwmix_jax.checkpoints.integrity import CHECKSUMS, FORMAT, first_line, one_line_of_damage, upgraded
from sarwmix_jax.errors import UserError
from sarwmix_jax.facts.bands import BandStatistics
from sarwmix_jax.processes import deferred_signals
from sarwmix_jax.settings.config import as_json
from sarwmix_jax.settings.model import ModelSettings
from sarwmix_jax.version import __version__

FOLDER = "checkpoints"
"""Name of the folder of checkpoints in a work directory."""

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
        handlers |= {item: ocp.JsonCheckpointHandler() for item in ("description", CHECKSUMS)}
        how = ocp.CheckpointManagerOptions(preservation_policy=self._keep, read_only=read_only, create=not read_only)
        self._manager = ocp.CheckpointManager(self.directory, options=how, item_handlers=handlers)

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
        items = {item: named(state[key]) for item, key in ITEMS.items() if key in state}
        texts = {"description": description, CHECKSUMS: integrity.checksums(items, description)}
        arguments: dict[str, Any] = {item: ocp.args.StandardSave(arrays) for item, arrays in items.items()}
        args = ocp.args.Composite(**arguments, **{item: ocp.args.JsonSave(text) for item, text in texts.items()})
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
            with deferred_signals():
                yield
        except Exception as error:
            complete = complete_steps(self.directory)
            last = f"the last complete one is step {complete[-1]}" if complete else "there is no complete one"
            raise UserError(
                f"cannot write a checkpoint in {self.directory}: {first_line(error)}; {last}; "
                "free space or correct the permissions, then start the same command again"
            ) from error

    @one_line_of_damage
    def restore(self, target: Mapping[str, Any], step: int) -> Restored:
        """Read one checkpoint into arrays like those of `target` (names, shapes, dtypes, shardings).

        Raises:
            ValueError: The checkpoint is damaged, holds other names, shapes or dtypes, or cannot be read.
        """
        stored = self._manager.item_metadata(step)
        wanted = {item: named(target[key]) for item, key in ITEMS.items()}
        for item, arrays in wanted.items():
            integrity.compare(item, stored[item], arrays)
        read = self._read(step, wanted)
        if CHECKSUMS not in read:
            _state_unchecked(self.directory)
        state = {
            key: jax.tree.unflatten(jax.tree.structure(target[key]), [read[item][name] for name in wanted[item]])
            for item, key in ITEMS.items()
        }
        return Restored(step, state, upgraded(read["description"]))

    def _read(self, step: int, wanted: Mapping[str, Mapping[str, Any]], place: Any = None) -> Any:
        """The description, and by item and name the arrays, with the wanted shardings or all with that of `place`.

        Raises:
            ValueError: They differ from their checksums.
        """

        def like(leaf: Any) -> jax.ShapeDtypeStruct:
            return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=place or getattr(leaf, "sharding", None))

        arguments = {
            item: ocp.args.StandardRestore({name: like(leaf) for name, leaf in arrays.items()})
            for item, arrays in wanted.items()
        }
        checked = (self.directory / str(step) / CHECKSUMS).is_dir()
        arguments |= {item: ocp.args.JsonRestore() for item in ("description", *([CHECKSUMS] if checked else []))}
        read = self._manager.restore(step, args=ocp.args.Composite(**arguments))
        if checked:
            integrity.verify(read[CHECKSUMS], {item: read[item] for item in wanted}, read["description"])
        elif read["description"]["format"] >= FORMAT:
            raise ValueError("its checksums are missing")
        return read

    def restore_latest(self, target: Mapping[str, Any]) -> Restored | None:
        """Read the newest checkpoint that can be read; damaged ones are skipped, and the reason is logged.

        Raises:
            UserError: There are checkpoints, but none can be read.
        """
        steps = self.steps()
        for step in reversed(steps):
            try:
                return self.restore(target, step)
            except ValueError as error:
                reason = str(error)
                log.warning("checkpoint at step %d cannot be used: %s", step, reason)
        if steps:
            raise UserError(f"none of the checkpoints in {self.directory} can be used; the oldest: {reason}")
        return None

    @one_line_of_damage
    def description(self, step: int) -> dict[str, Any]:
        """Description of one checkpoint, without its arrays.

        Raises:
            ValueError: It cannot be read.
        """
        return upgraded(self._read(step, {})["description"])

    @one_line_of_damage
    def parameters(self, step: int) -> dict[str, Any]:
        """Host arrays of `params` and `fixed` of one checkpoint, by item and name.

        Raises:
            ValueError: They cannot be read.
        """
        items = ("params", "fixed")
        read = self._read_here(step, items)
        if CHECKSUMS not in read:
            _state_unchecked(self.directory)
        return {item: {name: np.asarray(leaf) for name, leaf in read[item].items()} for item in items}

    def _read_here(self, step: int, items: Sequence[str]) -> Any:
        """The description and the named items, on the first device."""
        stored = self._manager.item_metadata(step)
        place = jax.sharding.SingleDeviceSharding(jax.local_devices()[0])
        return self._read(step, {item: stored[item] for item in items}, place)

    @one_line_of_damage
    def verify(self, step: int) -> int | None:
        """Read every array of one checkpoint; returns how many agree with their checksums, None where there are none.

        Raises:
            ValueError: It is damaged; the message gives the first difference.
        """
        known = self._read(step, {}).get(CHECKSUMS)
        held = [item for item in ITEMS if (self.directory / str(step) / item).is_dir()]
        if known is not None and (differing := sorted(set(known["arrays"]) ^ set(held))):
            raise ValueError(f"the items and their checksums differ in {differing[0]}")
        arrays = sum(len(self._read_here(step, [item])[item]) for item in held)
        return arrays if known is not None else None

    @one_line_of_damage
    def contents(self, step: int) -> dict[str, dict[str, str]]:
        """Checksums of all arrays of one checkpoint by item and name, of what is read.

        Raises:
            ValueError: It is damaged, or lacks an item.
        """
        return {item: integrity.of_arrays(self._read_here(step, [item])[item]) for item in ITEMS}

    def close(self) -> None:
        """Wait for the last write and release the folder.

        Raises:
            UserError: The last write failed.
        """
        with self._writing():
            self._manager.close()


@functools.cache
def _state_unchecked(directory: Path) -> None:
    """State once that checkpoints have no checksums."""
    log.warning("%s: written by an earlier version without checksums, so damage is not noticed", directory)


def named(tree: Any) -> dict[str, Any]:
    """Leaves of a tree by path, names joined by `/`."""
    leaves = jax.tree_util.tree_flatten_with_path(tree)[0]
    return {jax.tree_util.keystr(path, simple=True, separator="/"): leaf for path, leaf in leaves}


def complete_steps(directory: Path) -> list[int]:
    """Steps with a complete checkpoint, ascending, from folder names alone."""
    if not directory.is_dir():
        return []
    return sorted(int(entry.name) for entry in directory.iterdir() if entry.is_dir() and entry.name.isdigit())
