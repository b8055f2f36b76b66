"""Reading checkpoints."""

import functools
import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp

from sarwmix_jax.checkpoints import integrity
from sarwmix_jax.checkpoints.integrity import (
    CHECKSUMS,
    FORMAT,
    ITEMS,
    complete_steps,
    named,
    one_line_of_damage,
    upgraded,
)

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Restored:
    """Content of a checkpoint."""

    step: int
    state: dict[str, Any]
    description: dict[str, Any]


HANDLERS: dict[str, Callable[[], Any]] = {
    **dict.fromkeys(ITEMS, ocp.StandardCheckpointHandler),
    **dict.fromkeys(("description", CHECKSUMS), ocp.JsonCheckpointHandler),
}
"""Makers of Orbax' handlers by item."""


class Reader:
    """Reads the checkpoints of one folder. Each process reads for itself, and waits for no other."""

    def __init__(self, directory: Path):
        """Takes an existing folder."""
        self.directory = directory.absolute()

    def steps(self) -> list[int]:
        """Complete checkpoints, ascending."""
        return complete_steps(self.directory)

    @contextmanager
    def _opened(self) -> Iterator[ocp.CheckpointManager]:
        own = jax.process_index()
        alone = ocp.options.MultiprocessingOptions(own, {own}, f"process {own}")
        handlers = {item: make() for item, make in HANDLERS.items()}
        with quiet():
            how = ocp.CheckpointManagerOptions(read_only=True, create=False, multiprocessing_options=alone)
            with ocp.CheckpointManager(self.directory, options=how, item_handlers=handlers) as manager:
                yield manager

    def _metadata(self, step: int) -> Any:
        """Shapes and types of the arrays of a checkpoint, by item and name."""
        with self._opened() as manager:
            return manager.item_metadata(step)

    @one_line_of_damage
    def restore(self, target: Mapping[str, Any], step: int) -> Restored:
        """Read one checkpoint into arrays like those of `target` (names, shapes, dtypes, shardings).

        Raises:
            ValueError: The checkpoint is damaged, holds other names, shapes or dtypes, or cannot be read.
        """
        stored = self._metadata(step)
        wanted = {item: named(target[key]) for item, key in ITEMS.items()}
        for item, arrays in wanted.items():
            integrity.compare(item, stored[item], arrays)
        read = self._read(step, wanted)
        if CHECKSUMS not in read:
            _state_unchecked(self.directory)
        state = {
            key: jax.tree.unflatten(
                jax.tree.structure(target[key]),
                [_in_place(read[item][name], leaf) for name, leaf in wanted[item].items()],
            )
            for item, key in ITEMS.items()
        }
        return Restored(step, state, upgraded(read["description"]))

    def _read(self, step: int, wanted: Mapping[str, Mapping[str, Any]], place: Any = None) -> Any:
        """The description, and by item and name the arrays, with the wanted shardings or all with that of `place`.

        Raises:
            ValueError: They differ from their checksums.
        """

        def like(leaf: Any) -> Any:
            sharding = place or getattr(leaf, "sharding", None)
            if sharding is not None and not sharding.is_fully_replicated:  # its checksum needs it whole
                return np.broadcast_to(np.zeros((), leaf.dtype), leaf.shape)
            return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding)

        arguments = {
            item: ocp.args.StandardRestore({name: like(leaf) for name, leaf in arrays.items()})
            for item, arrays in wanted.items()
        }
        checked = (self.directory / str(step) / CHECKSUMS).is_dir()
        arguments |= {item: ocp.args.JsonRestore() for item in ("description", *([CHECKSUMS] if checked else []))}
        with self._opened() as manager:
            read: Any = manager.restore(step, args=ocp.args.Composite(**arguments))
        if checked:
            integrity.verify(read[CHECKSUMS], {item: read[item] for item in wanted}, read["description"])
        elif read["description"]["format"] >= FORMAT:
            raise ValueError("its checksums are missing")
        return read

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
        stored = self._metadata(step)
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


@contextmanager
def quiet() -> Iterator[None]:
    """Show only Orbax' errors inside this context: it also warns where nothing is wrong."""
    logger = logging.getLogger("absl")
    level = logger.level
    logger.setLevel(max(level, logging.ERROR))
    try:
        yield
    finally:
        logger.setLevel(level)


def _in_place(array: Any, leaf: Any) -> Any:
    """What was read to the host, divided over the devices as the wanted array; as it is for one of the host."""
    if isinstance(array, jax.Array) or not isinstance(leaf, jax.Array | jax.ShapeDtypeStruct):
        return array
    return jax.make_array_from_callback(array.shape, leaf.sharding, lambda index: array[index])


@functools.cache
def _state_unchecked(directory: Path) -> None:
    """State once that checkpoints have no checksums."""
    log.warning("%s: written by an earlier version without checksums, so damage is not noticed", directory)
