"""Writing checkpoints: with `reading`, a thin layer over Orbax' `CheckpointManager`.

A checkpoint holds named arrays (`encoder/stages/0/...`) in three items, `params`, `fixed` and `optimizer` (only the
first two in a converted one), a JSON `description` of them, and `checksums` of it all, verified at every reading (see
`integrity`). Writing is atomic: a folder without its final marker is not a checkpoint.
"""

import dataclasses
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import orbax.checkpoint as ocp
from orbax.checkpoint.checkpoint_managers import PreservationPolicy

from sarwmix_jax.checkpoints import integrity
from sarwmix_jax.checkpoints.integrity import CHECKSUMS, FORMAT, ITEMS, complete_steps, first_line, named
from sarwmix_jax.checkpoints.reading import HANDLERS, Reader
from sarwmix_jax.errors import UserError
from sarwmix_jax.facts.bands import BandStatistics
from sarwmix_jax.processes import deferred_signals
from sarwmix_jax.settings.config import as_json
from sarwmix_jax.settings.model import ModelSettings
from sarwmix_jax.version import __version__


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


class _Manager(ocp.CheckpointManager):
    def reached_preemption(self, step: int) -> bool:
        """Not asked here: JAX takes the step for a count of the questions, which are those of `asked_to_stop` alone."""
        del step
        return False


class Checkpoints(Reader):
    """Checkpoints of one folder, to be written and read."""

    def __init__(self, directory: Path, *, keep: int | None = None, milestones: Collection[int] = ()):
        """Open the folder, or create it; the last `keep` ones are kept, all of them for `None`."""
        self._keep = Keep(keep, milestones)
        self.directory = directory.absolute()
        how = ocp.CheckpointManagerOptions(preservation_policy=self._keep)
        handlers = {item: make() for item, make in HANDLERS.items()}
        with deferred_signals():
            self._manager = _Manager(self.directory, options=how, item_handlers=handlers)

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

    def close(self) -> None:
        """Wait for the last write and release the folder.

        Raises:
            UserError: The last write failed.
        """
        with self._writing():
            self._manager.close()
