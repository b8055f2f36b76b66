"""Records to host batches, with Grain: training without end, evaluation every record once.

Nothing here touches a device. Worker processes import JAX (Grain does) but initialise no backend.
"""

import contextlib
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import grain
import numpy as np
from absl import flags

from sarwmix_jax.data.order import TrainingOrder, held_out_order, mixed_order
from sarwmix_jax.data.sources import Batch, read_mixed
from sarwmix_jax.errors import UserError


@dataclass(frozen=True)
class Reading:
    """Who reads, and how.

    Attributes:
        process_index: This process, from 0.
        process_count: Processes of the run.
        threads: Threads that read, per worker.
        workers: Worker processes that read; 0 reads in this process.
        prefetch: Batches read ahead, per worker.
    """

    process_index: int = 0
    process_count: int = 1
    threads: int = 2
    workers: int = 0
    prefetch: int = 4

    def block(self, global_batch: int) -> slice:
        """Positions of this process in the global batch.

        Raises:
            UserError: The processes cannot share the batch evenly.
        """
        if global_batch % self.process_count:
            raise UserError(
                f"global batch {global_batch} is not a multiple of {self.process_count} processes; "
                f"use {max(global_batch // self.process_count, 1) * self.process_count}"
            )
        local = global_batch // self.process_count
        return slice(self.process_index * local, (self.process_index + 1) * local)

    def iterate(self, batches: grain.MapDataset) -> grain.DatasetIterator:
        """Reads batches ahead."""
        options = grain.ReadOptions(self.threads, prefetch_buffer_size=max(self.prefetch, self.threads))
        dataset = batches.to_iter_dataset(options)
        if self.workers:
            if not flags.FLAGS.is_parsed():
                flags.FLAGS.mark_as_parsed()  # grain passes absl flags to its workers; without a command none are
            dataset = dataset.mp_prefetch(grain.MultiprocessingOptions(self.workers, self.prefetch))
        return iter(dataset)


@dataclass(frozen=True)
class _ReadStep:
    """Reads this process's part of a step."""

    sources: tuple[Any, ...]
    order: TrainingOrder
    block: slice
    columns: tuple[str, ...] | None

    def __call__(self, step: int) -> Batch:
        numbers = self.order(step)[self.block]
        return read_mixed(self.sources, numbers, self.columns) | {"record": numbers}


class TrainingInput(Iterator[Batch]):
    """Batches of a training run, without end; which records a step gets depends on seed and step alone.

    Each step gives a dict with the columns that the records carry, as `RecordSource.read_batch` has them, and `record`
    (local_batch,) int64, the number of the record through all sources. Process p of P gets positions
    [p*B/P, (p+1)*B/P) of the global batch of B, which is the same for every P.
    """

    def __init__(
        self,
        source: Any,
        global_batch: int,
        seed: int,
        *,
        weights: Sequence[float] | None = None,
        columns: Sequence[str] | None = None,
        group: int = 1,
        start_step: int = 0,
        **reading: int,
    ) -> None:
        """Set up the input; reading begins with the first `next`.

        Args:
            source: Records (or pairs of them), or several sets to mix.
            global_batch: Samples in a step over all processes (micro-batches included).
            seed: Order of the records, 0 to 2^32 - 1.
            weights: Shares of several sources in every batch.
            columns: What to read of them; all unless given.
            group: Consecutive records of a batch that mix; 1 where none do.
            start_step: First step to give; 0 at the start, the number of steps done when resuming.
            **reading: See `Reading`.

        Raises:
            UserError: See `training_order`, `process_block`, `check_alike`.
        """
        sources = tuple(source) if isinstance(source, Sequence) else (source,)
        order = mixed_order(sources, weights, global_batch, seed, group)
        read = Reading(**reading)
        self.steps_per_epoch = order.steps_per_epoch
        self.step = start_step
        wanted = None if columns is None else tuple(columns)
        step = _ReadStep(sources, order, read.block(global_batch), wanted)
        self._batches: Any = read.iterate(grain.MapDataset.range(start_step, sys.maxsize).map(step))

    @property
    def epoch(self) -> float:
        """Epochs done before the next batch, with fraction."""
        return self.step / self.steps_per_epoch

    def __next__(self) -> Batch:
        batch: Batch = next(self._batches)
        self.step += 1
        return batch

    def close(self) -> None:
        """Stop threads and worker processes; there are no batches afterwards."""
        self._batches.close()
        self._batches = iter(())


class EvaluationInput:
    """Every record exactly once, in stored order; the last batch is filled up.

    Iterating gives dicts with the columns that the records carry, as `RecordSource.read_batch` has them, `record`
    (local_batch,) int64 and `valid` (local_batch,) bool (False for what fills up). All processes get the same number of
    batches; process p of P gets positions [p*B/P, (p+1)*B/P) of each.
    """

    def __init__(
        self,
        source: Any,
        global_batch: int,
        *,
        columns: Sequence[str] | None = None,
        group: int = 1,
        **reading: int,
    ) -> None:
        """Set up one or more passes; arguments as for `TrainingInput`, the batch a multiple of the group.

        Raises:
            UserError: A batch that the processes cannot share evenly, or a single record that would mix with itself.
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
        with contextlib.closing(self._reading.iterate(grain.MapDataset.range(len(self)).map(self._read))) as batches:
            yield from batches

    def _read(self, number: int) -> Batch:
        places = number * self._global_batch + self._places
        numbers = self._order[places % len(self._order)]
        batch = self._source.read_batch(numbers, self._columns)
        return batch | {"record": numbers, "valid": places < len(self._source)}
