"""Checkpoints: one small module over Orbax's `CheckpointManager`.

A checkpoint holds named arrays (`encoder/stages/0/...`) in three items, `params`, `fixed` and `optimizer` (only the
first two in a converted one), and a JSON `description` of what they are. Writing is atomic: a folder without its
last marker is no checkpoint. Nothing is ever restored silently at another dtype or shape.
"""

import dataclasses
import logging
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp
from orbax.checkpoint.checkpoint_managers import PreservationPolicy

from sarwmix_jax.errors import UserError
from sarwmix_jax.models.state import unflatten_names
from sarwmix_jax.settings import as_json
from sarwmix_jax.training.checkpoint_parts import compare, complete_steps, first_line, named
from sarwmix_jax.version import __version__

FOLDER = "checkpoints"
"""Name of the checkpoints' folder in a work directory."""

FORMAT = 1

log = logging.getLogger(__name__)


def describe(
    kind: str,
    model: Any,
    *,
    bands: Sequence[str],
    unit: str,
    statistics: Mapping[str, Any],
    source: Mapping[str, Any],
    **more: Any,
) -> dict[str, Any]:
    """Description of a checkpoint, as plain values for JSON.

    Args:
        kind: what the parameters are: `pretraining`, `classifier` or `flood`.
        model: the model's settings, a dataclass.
        bands: band order of the input.
        unit: unit of the input before standardisation, such as `dB`.
        statistics: `name`, `mean_db` and `std_db` of the standardisation.
        source: where the parameters come from: the records of a run, or the file that was converted.
        more: further entries (`settings`, `progress`).
    """
    return as_json(
        {
            "format": FORMAT,
            "package": __version__,
            "kind": kind,
            "model": dataclasses.asdict(model),
            "bands": list(bands),
            "unit": unit,
            "statistics": dict(statistics),
            "source": dict(source),
            **more,
        }
    )


@dataclass
class Keep(PreservationPolicy):
    """Which checkpoints stay: the last few, milestones, and the best one."""

    last: int | None
    milestones: Collection[int] = ()
    best: int | None = None

    def should_preserve(self, checkpoints: Sequence[Any], *, context: Any) -> Sequence[bool]:
        """One flag per checkpoint, oldest first."""
        del context
        steps = [checkpoint.step for checkpoint in checkpoints]
        last = set(steps if self.last is None else steps[-self.last :])
        return [step in last or step in self.milestones or step == self.best for step in steps]


@dataclass(frozen=True)
class Restored:
    """What a checkpoint held."""

    step: int
    state: dict[str, Any]
    description: dict[str, Any]


class Checkpoints:
    """Checkpoints of one folder, newest last."""

    def __init__(
        self, directory: Path, *, keep: int | None = None, milestones: Collection[int] = (), read_only: bool = False
    ):
        """Open (and create unless `read_only`) the folder; `keep` last ones stay, `None` keeps all."""
        self.directory = directory.absolute()
        self._keep = Keep(keep, milestones)
        handler = ocp.StandardCheckpointHandler
        self._manager = ocp.CheckpointManager(
            self.directory,
            options=ocp.CheckpointManagerOptions(
                preservation_policy=self._keep, read_only=read_only, create=not read_only
            ),
            item_handlers={
                "params": handler(),
                "fixed": handler(),
                "optimizer": handler(),
                "description": ocp.JsonCheckpointHandler(),
            },
        )

    def steps(self) -> list[int]:
        """Complete checkpoints, ascending."""
        return sorted(self._manager.all_steps())

    def save(
        self, step: int, state: Mapping[str, Any], description: dict[str, Any], *, best: int | None = None
    ) -> None:
        """Start writing a checkpoint; it is complete after `wait`.

        Args:
            step: optimiser steps done.
            state: trees `params`, `fixed` and, for a run that goes on, `opt_state`.
            description: see `describe`.
            best: step of the best checkpoint so far, which stays.

        Raises:
            UserError: this or the write before it failed.
        """
        self._keep.best = best
        items = {"params": named(state["params"]), "fixed": named(state["fixed"])}
        if "opt_state" in state:
            items["optimizer"] = named(state["opt_state"])
        arguments = {name: ocp.args.StandardSave(arrays) for name, arrays in items.items()}
        try:
            self._manager.save(
                step, args=ocp.args.Composite(description=ocp.args.JsonSave(description), **arguments), force=True
            )
        except Exception as error:
            raise self._failed(error) from error

    def wait(self) -> None:
        """Return when the last `save` is on disk.

        Raises:
            UserError: it could not be written; the last complete checkpoint is named.
        """
        try:
            self._manager.wait_until_finished()
        except Exception as error:
            raise self._failed(error) from error

    def check(self) -> None:
        """Notice a write that failed in the background.

        Raises:
            UserError: it did.
        """
        try:
            self._manager.check_for_errors()
        except Exception as error:
            raise self._failed(error) from error

    def _failed(self, error: Exception) -> UserError:
        complete = complete_steps(self.directory)
        last = f"the last complete one is step {complete[-1]}" if complete else "there is no complete one"
        return UserError(
            f"cannot write a checkpoint in {self.directory}: {first_line(error)}; {last}; "
            "free space or mend access, then start the same command again"
        )

    def restore(self, target: Mapping[str, Any], step: int) -> Restored:
        """Read one checkpoint into arrays like those of `target` (names, shapes, dtypes, shardings).

        Raises:
            ValueError: the checkpoint holds other names, shapes or dtypes, or cannot be read.
        """
        wanted = {"params": target["params"], "fixed": target["fixed"], "optimizer": target["opt_state"]}
        stored = self._manager.item_metadata(step)
        arguments = {}
        for item, tree in wanted.items():
            arrays = named(tree)
            compare(item, stored[item], arrays)
            arguments[item] = ocp.args.StandardRestore({name: _like(leaf) for name, leaf in arrays.items()})
        read = self._manager.restore(step, args=ocp.args.Composite(description=ocp.args.JsonRestore(), **arguments))
        trees = {
            item: jax.tree.unflatten(jax.tree.structure(tree), [read[item][name] for name in named(tree)])
            for item, tree in wanted.items()
        }
        state = {"params": trees["params"], "fixed": trees["fixed"], "opt_state": trees["optimizer"]}
        return Restored(step, state, read["description"])

    def restore_latest(self, target: Mapping[str, Any]) -> Restored | None:
        """Read the newest checkpoint that can be read; a damaged one is passed over with a logged reason.

        Raises:
            UserError: there are checkpoints and none can be read.
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
        return self._manager.restore(step, args=ocp.args.Composite(description=ocp.args.JsonRestore()))["description"]

    def parameters(self, step: int) -> dict[str, Any]:
        """Host arrays of `params` and `fixed` of one checkpoint, by item and name."""
        stored = self._manager.item_metadata(step)
        place = jax.sharding.SingleDeviceSharding(jax.local_devices()[0])
        arguments = {
            item: ocp.args.StandardRestore(
                {
                    name: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=place)
                    for name, leaf in stored[item].items()
                }
            )
            for item in ("params", "fixed")
        }
        read = self._manager.restore(step, args=ocp.args.Composite(**arguments))
        return {item: {name: np.asarray(leaf) for name, leaf in read[item].items()} for item in arguments}

    def close(self) -> None:
        """Wait for the last write and let go of the folder.

        Raises:
            UserError: the last write failed.
        """
        try:
            self._manager.close()
        except Exception as error:
            raise self._failed(error) from error


@dataclass(frozen=True)
class Parameters:
    """Parameters of a checkpoint, as nested dicts of host arrays."""

    params: dict[Any, Any]
    fixed: dict[Any, Any]
    description: dict[str, Any]
    step: int


def load_parameters(path: str | Path, step: int | None = None) -> Parameters:
    """Parameters and description of a checkpoint, for evaluation, inference or a new run.

    Args:
        path: a work directory, its `checkpoints` folder, or one checkpoint's folder.
        step: which one; the newest when not given.

    Raises:
        UserError: there is no such checkpoint, or it cannot be read.
    """
    directory, step = locate(Path(path), step)
    checkpoints = Checkpoints(directory, read_only=True)
    try:
        arrays, description = checkpoints.parameters(step), checkpoints.description(step)
    except Exception as error:
        raise UserError(
            f"checkpoint {directory / str(step)} cannot be read: {first_line(error)}; use another"
        ) from error
    finally:
        checkpoints.close()
    return Parameters(unflatten_names(arrays["params"]), unflatten_names(arrays["fixed"]), description, step)


def locate(path: Path, step: int | None = None) -> tuple[Path, int]:
    """Folder of checkpoints and step that `path` and `step` name.

    Raises:
        UserError: there is none.
    """
    if path.name.isdigit() and step is None:
        path, step = path.parent, int(path.name)
    directory = path / FOLDER if (path / FOLDER).is_dir() else path
    steps = complete_steps(directory)
    if not steps:
        raise UserError(f"no checkpoint in {path}; give a work directory or a checkpoint folder")
    if step is not None and step not in steps:
        raise UserError(f"no checkpoint at step {step} in {directory}; there are {', '.join(map(str, steps))}")
    return directory, steps[-1] if step is None else step


def _like(leaf: Any) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=getattr(leaf, "sharding", None))
