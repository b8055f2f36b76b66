"""Records to host batches, with Grain: training without end, evaluation every record once.

Which records make a step is a function of seed and step number. One set: an epoch is floor(N / global batch) steps over
a fresh permutation; the rest is skipped for that epoch. Several sets: each gives every global batch as many records as
its weight asks, at random positions, and is run through permutation after permutation.

Nothing here touches a device. Worker processes import JAX (Grain does) but initialise no backend.
"""

import contextlib
import functools
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import grain
import numpy as np
from absl import flags
from jaxtyping import Int64

from sarwmix_jax.data.sources import Batch, RecordSource, check_alike, read_mixed
from sarwmix_jax.errors import UserError

_POSITIONS = 0
_RECORDS = 1


def steps_per_epoch(records: int, global_batch: int) -> int:
    """Steps in an epoch: floor(records / global_batch).

    Raises:
        UserError: There are fewer records than one batch takes.
    """
    if global_batch < 1:
        raise UserError(f"global batch {global_batch}: it must be at least 1")
    if records < global_batch:
        raise UserError(
            f"{records} records are fewer than one global batch of {global_batch}; use a smaller batch or more records"
        )
    return records // global_batch


@dataclass(frozen=True)
class TrainingOrder:
    """The records of every step; call it with a step number.

    Attributes:
        lengths: Records of each record set; record numbers count through all sets.
        shares: Records of each set in a global batch.
        seed: From 0 to 2^32 - 1.
    """

    lengths: tuple[int, ...]
    shares: tuple[int, ...]
    seed: int

    @property
    def global_batch(self) -> int:
        """Records in a step."""
        return sum(self.shares)

    @property
    def steps_per_epoch(self) -> int:
        """Steps in which about as many records are read as there are."""
        return sum(self.lengths) // self.global_batch

    def __call__(self, step: int) -> Int64[np.ndarray, " global_batch"]:
        """Record numbers of step `step`, in the order of the batch."""
        if len(self.lengths) == 1:
            epoch, within = divmod(step, self.steps_per_epoch)
            first = within * self.global_batch
            return permutation(self.lengths[0], self.seed, _RECORDS, epoch)[first : first + self.global_batch]
        numbers = np.concatenate([self._from_set(number, step) for number in range(len(self.lengths))])
        # Mirrored positions exchange patches in training: a fixed place for each set would fix the partners.
        return numbers[permutation(self.global_batch, self.seed, _POSITIONS, step)]

    def _from_set(self, number: int, step: int) -> np.ndarray:
        length, share = self.lengths[number], self.shares[number]
        passes, places = np.divmod(np.arange(step * share, (step + 1) * share), length)
        order = np.empty(share, np.int64)
        for done in np.unique(passes):
            here = passes == done
            order[here] = permutation(length, self.seed, _RECORDS + number, int(done))[places[here]]
        return order + sum(self.lengths[:number])


def training_order(
    lengths: Sequence[int], weights: Sequence[float] | None, global_batch: int, seed: int
) -> TrainingOrder:
    """The order of a run over one or several record sets.

    Args:
        lengths: Records of each set.
        weights: Relative weights of the sets, needed when there are several.
        global_batch: Records in a step over all processes.
        seed: From 0 to 2^32 - 1.

    Raises:
        UserError: Fewer records than one batch, a bad weight or seed, or a weight too small for one record in a
            batch.
    """
    if not 0 <= seed < 2**32:
        raise UserError(f"seed {seed}: it must be from 0 to {2**32 - 1}")
    steps_per_epoch(sum(lengths), global_batch)
    if weights is None and len(lengths) == 1:
        weights = (1.0,)
    shares = _shares(weights, len(lengths), global_batch)
    return TrainingOrder(tuple(lengths), shares, seed)


def _shares(weights: Sequence[float] | None, count: int, global_batch: int) -> tuple[int, ...]:
    """Whole numbers that add up to the batch, closest to the weights (largest remainders)."""
    if weights is None or len(weights) != count:
        given = 0 if weights is None else len(weights)
        raise UserError(f"{count} record sets, {given} weights: give one weight for each record set")
    if not all(np.isfinite(weight) and weight > 0 for weight in weights):
        raise UserError(f"weights {list(weights)}: each must be a positive number; leave out a set instead")
    exact = np.asarray(weights, np.float64) / sum(weights) * global_batch
    shares = np.floor(exact).astype(int)
    # Rounded: equal remainders differ by rounding errors, which depend on the Python version.
    shares[np.argsort(np.round(shares - exact, 9), kind="stable")[: global_batch - shares.sum()]] += 1
    if shares.min() < 1:
        raise UserError(
            f"weights {list(weights)} leave a record set without a place in a batch of {global_batch}; "
            "use a larger batch or weight"
        )
    return tuple(shares.tolist())


@functools.lru_cache(maxsize=8)
def permutation(length: int, seed: int, stream: int, number: int) -> Int64[np.ndarray, " length"]:
    """Permutation `number` of a stream: sorted random words, whose values NumPy guarantees over versions.

    (The rest of NumPy's random interface, and so `Generator.permutation`, is not guaranteed to stay.)
    """
    words = np.random.Philox(np.random.SeedSequence((seed, stream, number))).random_raw(length)
    order = np.argsort(words, kind="stable")
    order.setflags(write=False)
    return order


def mixed_order(
    sources: Sequence[RecordSource], weights: Sequence[float] | None, global_batch: int, seed: int
) -> TrainingOrder:
    """The order of a run over one or several record sets; arguments and errors as for `TrainingInput`."""
    check_alike(sources)
    return training_order([len(source) for source in sources], weights, global_batch, seed)


@dataclass(frozen=True)
class _ReadStep:
    """Reads this process's part of a step."""

    sources: tuple[RecordSource, ...]
    order: TrainingOrder
    block: slice

    def __call__(self, step: int) -> Batch:
        numbers = self.order(step)[self.block]
        return read_mixed(self.sources, numbers) | {"record": numbers}


class TrainingInput(Iterator[Batch]):
    """Batches of a training run, without end; which records a step gets depends on seed and step alone.

    Each step gives a dict with `image` (local_batch, band, height, width) float16 in dB, `record`
    (local_batch,) int64 (number of the record; through all sources when there are several) and, when the
    records carry masks, `valid_pixels` (local_batch, height, width) bool. Process p of P gets positions
    [p*B/P, (p+1)*B/P) of the global batch of B, which is the same for every P.
    """

    def __init__(
        self,
        source: RecordSource | Sequence[RecordSource],
        global_batch: int,
        seed: int,
        *,
        weights: Sequence[float] | None = None,
        start_step: int = 0,
        process_index: int = 0,
        process_count: int = 1,
        threads: int = 2,
        workers: int = 0,
        prefetch: int = 4,
    ) -> None:
        """Set up the input; reading begins with the first `next`.

        Args:
            source: Records, or several record sets to mix.
            global_batch: Images in a step over all processes (micro-batches included).
            seed: Order of the records, 0 to 2^32 - 1.
            weights: Shares of several sources in every batch.
            start_step: First step to give; 0 at the start, the number of steps done when resuming.
            process_index: This process, from 0.
            process_count: Processes of the run.
            threads: Threads that read, per worker.
            workers: Worker processes that read; 0 reads in this process.
            prefetch: Batches read ahead, per worker.

        Raises:
            UserError: Too few records, a batch that the processes cannot share evenly, sources that differ
                in bands, unit or shape, bad weights or seed.
        """
        sources = (source,) if isinstance(source, RecordSource) else tuple(source)
        order = mixed_order(sources, weights, global_batch, seed)
        block = process_block(global_batch, process_index, process_count)
        self.steps_per_epoch = order.steps_per_epoch
        self.step = start_step
        steps = grain.MapDataset.range(start_step, sys.maxsize).map(_ReadStep(sources, order, block))
        self._batches: Any = _iterate(steps, threads, workers, prefetch)

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
    """Every record exactly once, in stored order; the last batch is padded.

    Iterating gives dicts with `image` (local_batch, band, height, width) float16 dB, `record` (local_batch,)
    int64, `valid` (local_batch,) bool (False for padding, which repeats the last record), `labels`
    (local_batch, classes) uint8 if the records carry labels and `valid_pixels` if they carry masks. All
    processes get the same number of batches; process p of P gets positions [p*B/P, (p+1)*B/P) of each.
    """

    def __init__(
        self,
        source: RecordSource,
        global_batch: int,
        *,
        process_index: int = 0,
        process_count: int = 1,
        threads: int = 2,
        workers: int = 0,
        prefetch: int = 4,
    ) -> None:
        """Set up one or more passes; arguments as for `TrainingInput`.

        Raises:
            UserError: A batch that the processes cannot share evenly.
        """
        if global_batch < 1:
            raise UserError(f"batch {global_batch}: it must be at least 1")
        block = process_block(global_batch, process_index, process_count)
        self._source, self._global_batch = source, global_batch
        self._places = np.arange(global_batch)[block]
        self._options = (threads, workers, prefetch)

    def __len__(self) -> int:
        return -(-len(self._source) // self._global_batch)

    def __iter__(self) -> Iterator[Batch]:
        with contextlib.closing(_iterate(grain.MapDataset.range(len(self)).map(self._read), *self._options)) as batches:
            yield from batches

    def _read(self, number: int) -> Batch:
        positions = number * self._global_batch + self._places
        numbers = np.minimum(positions, len(self._source) - 1)
        batch = self._source.read_batch(numbers, labels=True)
        return batch | {"record": numbers, "valid": positions < len(self._source)}


def process_block(global_batch: int, process_index: int, process_count: int) -> slice:
    """Positions of one process in the global batch.

    Raises:
        UserError: The processes cannot share the batch evenly.
    """
    if global_batch % process_count:
        raise UserError(
            f"global batch {global_batch} is not a multiple of {process_count} processes; "
            f"use {max(global_batch // process_count, 1) * process_count}"
        )
    local = global_batch // process_count
    return slice(process_index * local, (process_index + 1) * local)


def _iterate(batches: grain.MapDataset, threads: int, workers: int, prefetch: int) -> grain.DatasetIterator:
    options = grain.ReadOptions(num_threads=threads, prefetch_buffer_size=max(prefetch, threads))
    dataset = batches.to_iter_dataset(options)
    if workers:
        if not flags.FLAGS.is_parsed():
            flags.FLAGS.mark_as_parsed()  # grain passes absl flags to its workers; without a command there are none
        dataset = dataset.mp_prefetch(grain.MultiprocessingOptions(workers, per_worker_buffer_size=prefetch))
    return iter(dataset)
