"""Records to host batches, with Grain: training without end, evaluation every record once.

Nothing here touches a device. Worker processes import JAX (Grain does) but initialise no backend.
"""

import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import grain
import numpy as np
from absl import flags
from jaxtyping import Int64

from sarwmix_jax.data.contract import Contract
from sarwmix_jax.data.order import TrainingOrder, training_order
from sarwmix_jax.data.sources import RecordSource
from sarwmix_jax.errors import UserError

Batch = dict[str, np.ndarray]


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
        self._batches: Iterator[Batch] = _iterate(steps, threads, workers, prefetch)

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
        _close(self._batches)
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
        self._read = _ReadEvaluation(source, process_block(global_batch, process_index, process_count), global_batch)
        self._options = (threads, workers, prefetch)
        self._batches = -(-len(source) // global_batch)

    def __len__(self) -> int:
        return self._batches

    def __iter__(self) -> Iterator[Batch]:
        batches = _iterate(grain.MapDataset.range(self._batches).map(self._read), *self._options)
        try:
            yield from batches
        finally:
            _close(batches)


@dataclass(frozen=True)
class _ReadEvaluation:
    source: RecordSource
    block: slice
    global_batch: int

    def __call__(self, number: int) -> Batch:
        positions = number * self.global_batch + np.arange(self.global_batch)[self.block]
        numbers = np.minimum(positions, len(self.source) - 1)
        batch = self.source.read_batch(numbers, labels=True)
        return batch | {"record": numbers, "valid": positions < len(self.source)}


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


def read_mixed(sources: Sequence[RecordSource], numbers: Int64[np.ndarray, " records"]) -> Batch:
    """The records with these numbers, which count through all `sources`, as `RecordSource.read_batch` gives them."""
    if len(sources) == 1:
        return sources[0].read_batch(numbers)
    batch: Batch = {}
    first = 0
    for source in sources:
        rows = np.flatnonzero((numbers >= first) & (numbers < first + len(source)))
        for name, values in source.read_batch(numbers[rows] - first).items():
            # Where a source has no masks, all pixels are valid.
            empty = np.ones if name == "valid_pixels" else np.zeros
            batch.setdefault(name, empty((len(numbers), *values.shape[1:]), values.dtype))[rows] = values
        first += len(source)
    return batch


def mixed_order(
    sources: Sequence[RecordSource], weights: Sequence[float] | None, global_batch: int, seed: int
) -> TrainingOrder:
    """The order of a run over one or several record sets; arguments and errors as for `TrainingInput`."""
    _check_alike(sources)
    return training_order([len(source) for source in sources], weights, global_batch, seed)


def _check_alike(sources: Sequence[RecordSource]) -> None:
    if not sources:
        raise UserError("no record set given; name at least one")
    first = sources[0].contract
    for other in (source.contract for source in sources[1:]):
        if (other.bands, other.unit, other.shape) != (first.bands, first.unit, first.shape):
            raise UserError(
                f"record sets {first.name} ({_form(first)}) and {other.name} ({_form(other)}) differ; prepare them "
                "alike to mix them"
            )


def _form(contract: Contract) -> str:
    return f"{', '.join(contract.bands)} in {contract.unit}, {contract.height}x{contract.width}"


def _iterate(batches: grain.MapDataset, threads: int, workers: int, prefetch: int) -> Iterator[Batch]:
    options = grain.ReadOptions(num_threads=threads, prefetch_buffer_size=max(prefetch, threads))
    dataset = batches.to_iter_dataset(options)
    if workers:
        if not flags.FLAGS.is_parsed():
            flags.FLAGS.mark_as_parsed()  # grain passes absl flags to its workers; without a command there are none
        dataset = dataset.mp_prefetch(grain.MultiprocessingOptions(workers, per_worker_buffer_size=prefetch))
    return iter(dataset)


def _close(iterator: Iterator[Batch]) -> None:
    close = getattr(iterator, "close", None)
    if close is not None:
        close()
