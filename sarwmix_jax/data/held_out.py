"""Reading of held-out records: each one exactly once, in stored order, on any number of processes."""

import contextlib
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from jaxtyping import Int64

from sarwmix_jax.data.pipeline import Reading
from sarwmix_jax.data.sources import Batch
from sarwmix_jax.errors import UserError


def held_out_order(count: int, group: int) -> Int64[np.ndarray, " places"]:
    """Record numbers in stored order; the last group is padded so that no record mixes with itself or its copy.

    Raises:
        UserError: A single record would mix with itself.
    """
    if group > 1 and count < 2:
        raise UserError(f"{count} record cannot be evaluated: images mix with each other; give at least 2")
    numbers = np.arange(-(-count // group) * group)
    for place in range(count, len(numbers)):
        partner = place // group * group + group - 1 - place % group
        numbers[place] = (partner + 1) % count if partner < count else int(place > partner)
    return numbers


class EvaluationInput:
    """Every record exactly once, in stored order; the last batch is padded.

    Iteration yields dicts with the columns of the records, as in `RecordSource.read_batch`, `record` (local_batch,)
    int64 and `valid` (local_batch,) bool (False for padding). All processes get the same number of batches; process p
    of P gets positions [p*B/P, (p+1)*B/P) of each.
    """

    def __init__(
        self, source: Any, global_batch: int, *, columns: Sequence[str] | None = None, group: int = 1, **reading: int
    ) -> None:
        """Set up one or more passes; arguments as for `TrainingInput`, the batch a multiple of the group.

        Raises:
            UserError: The batch is not a multiple of the processes, or a single record would mix with itself.
        """
        if global_batch < 1:
            raise UserError(f"batch {global_batch}: it must be at least 1")
        self._reading = Reading(**reading)
        self._source, self._columns, self._global_batch = source, columns, global_batch
        self._order = held_out_order(len(source), group)
        self._places = np.arange(global_batch)[self._reading.block(global_batch)]

    def __len__(self) -> int:
        return -(-len(self._order) // self._global_batch)

    def __iter__(self) -> Iterator[Batch]:
        with contextlib.closing(self._reading.iterate(self._read, range(len(self)))) as batches:
            yield from batches

    def _read(self, number: int) -> Batch:
        places = number * self._global_batch + self._places
        numbers = self._order[places % len(self._order)]
        batch = self._source.read_batch(numbers, self._columns)
        return batch | {"record": numbers, "valid": places < len(self._source)}
