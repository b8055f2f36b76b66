"""The order of the training records, and an endless input of batches that reads them with Grain.

The order is a function of seed and step number. One set: an epoch is floor(N / global batch) steps over a new
permutation; the rest is skipped in that epoch. Several sets: every global batch has records of each set in proportion
to its weight, at random positions, and each set is read in one permutation after another. Where images mix, none is
ever mixed with itself or its copy. No device is used here: worker processes import JAX (Grain does), but initialise no
backend.
"""

import contextlib
import functools
import sys
from collections.abc import Callable, Generator, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from absl import flags
from jaxtyping import Int64

from sarwmix_jax.data.sources import Batch, read_mixed
from sarwmix_jax.errors import UserError
from sarwmix_jax.processes import end_with_parent, signals_kept_from_children, silence_resource_tracker

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
        fitting = 1 << (records.bit_length() - 1)
        raise UserError(
            f"{records} records are fewer than one global batch of {global_batch}; use a smaller batch, such as "
            f"--config.batch.global_batch={fitting}, or more records"
        )
    return records // global_batch


@dataclass(frozen=True)
class TrainingOrder:
    """The records of every step; call it with a step number.

    Attributes:
        lengths: Records of each record set; record numbers count through all sets.
        shares: Records of each set in a global batch.
        seed: From 0 to 2^32 - 1.
        group: Consecutive records of a batch that mix, the first with the last and so on; 1 where none mix.
    """

    lengths: tuple[int, ...]
    shares: tuple[int, ...]
    seed: int
    group: int = 1

    @property
    def global_batch(self) -> int:
        """Records in a step."""
        return sum(self.shares)

    @property
    def steps_per_epoch(self) -> int:
        """Steps that read about as many records as there are."""
        return sum(self.lengths) // self.global_batch

    def __call__(self, step: int) -> Int64[np.ndarray, " global_batch"]:
        """Record numbers of step `step`, in the order of the batch."""
        if len(self.lengths) == 1:
            epoch, within = divmod(step, self.steps_per_epoch)
            first = within * self.global_batch
            return permutation(self.lengths[0], self.seed, _RECORDS, epoch)[first : first + self.global_batch]
        numbers = np.concatenate([self._from_set(number, step) for number in range(len(self.lengths))])
        # Mirrored positions exchange patches in training: fixed positions for each set would fix the partners.
        return _apart(numbers[permutation(self.global_batch, self.seed, _POSITIONS, step)], self.group)

    def _from_set(self, number: int, step: int) -> np.ndarray:
        length, share = self.lengths[number], self.shares[number]
        passes, places = np.divmod(np.arange(step * share, (step + 1) * share), length)
        order = np.empty(share, np.int64)
        for done in np.unique(passes):
            here = passes == done
            order[here] = permutation(length, self.seed, _RECORDS + number, int(done))[places[here]]
        return order + sum(self.lengths[:number])


def _apart(numbers: Int64[np.ndarray, " batch"], group: int) -> Int64[np.ndarray, " batch"]:
    """The same records, reordered where one would mix with its own copy."""
    partner = np.arange(len(numbers)).reshape(-1, group)[:, ::-1].reshape(-1)
    for place in np.flatnonzero((numbers == numbers[partner]) & (partner > np.arange(len(numbers)))):
        record = numbers[place]
        if record == numbers[partner[place]]:
            # There is such a position, as no record has more than half of the batch.
            free = np.flatnonzero((numbers != record) & (numbers[partner] != record))[0]
            numbers[[partner[place], free]] = numbers[[free, partner[place]]]
    return numbers


def training_order(
    lengths: Sequence[int], weights: Sequence[float] | None, global_batch: int, seed: int, group: int = 1
) -> TrainingOrder:
    """The order of a run over one or several record sets.

    Args:
        lengths: Records of each set.
        weights: Relative weights of the sets, needed when there are several.
        global_batch: Records in a step over all processes.
        seed: From 0 to 2^32 - 1.
        group: Consecutive records of a batch that mix; 1 where none mix.

    Raises:
        UserError: There are fewer records than in one batch, a weight or the seed is invalid, or a weight is too small
            for one record in a batch or so large that a record would mix with itself.
    """
    if not 0 <= seed < 2**32:
        raise UserError(f"seed {seed}: it must be from 0 to {2**32 - 1}")
    steps_per_epoch(sum(lengths), global_batch)
    if weights is None and len(lengths) == 1:
        weights = (1.0,)
    shares = _shares(weights, len(lengths), global_batch)
    for length, share in zip(lengths, shares, strict=True):
        copies = 1 if len(lengths) == 1 else 1 - (1 - share) // length  # of a record in a batch, at most
        if group > 1 and 2 * copies > global_batch:
            raise UserError(
                f"a record set of {length} records has {share} of {global_batch} places in a batch: a record would mix "
                "with itself; lower its weight or add records"
            )
    return TrainingOrder(tuple(lengths), shares, seed, group)


def _shares(weights: Sequence[float] | None, count: int, global_batch: int) -> tuple[int, ...]:
    """Integers with the batch as sum, closest to the weights (largest remainders)."""
    if weights is None or len(weights) != count:
        raise UserError(f"{count} record sets, {len(weights or ())} weights: give one weight for each record set")
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
    """Permutation `number` of a stream, by sorting raw random words.

    NumPy guarantees these over its versions, but not the rest of its random numbers, such as `Generator.permutation`.
    """
    words = np.random.Philox(np.random.SeedSequence((seed, stream, number))).random_raw(length)
    order = np.argsort(words, kind="stable")
    order.setflags(write=False)
    return order


def mixed_order(
    sources: Sequence[Any], weights: Sequence[float] | None, global_batch: int, seed: int, group: int = 1
) -> TrainingOrder:
    """The order of a run over one or several record sets; see `training_order`.

    Raises:
        UserError: There is no record set, or they differ in bands, unit or shape.
    """
    if not sources:
        raise UserError("no record set given; name at least one")
    first = sources[0].contract
    for other in (source.contract for source in sources[1:]):
        if (other.bands, other.unit, other.shape) != (first.bands, first.unit, first.shape):
            two = (first, other)
            forms = (f"{own.name} ({', '.join(own.bands)} in {own.unit}, {own.height}x{own.width})" for own in two)
            raise UserError(f"record sets {' and '.join(forms)} differ; prepare them alike to mix them")
    return training_order([len(source) for source in sources], weights, global_batch, seed, group)


@dataclass(frozen=True)
class Reading:
    """How records are read, and by which process.

    Attributes:
        process_index: Number of this process, from 0.
        process_count: Processes of the run.
        threads: Reading threads per worker.
        workers: Worker processes that read; with 0 this process reads.
        prefetch: Batches read ahead per worker.
    """

    process_index: int = 0
    process_count: int = 1
    threads: int = 2
    workers: int = 0
    prefetch: int = 4

    def block(self, global_batch: int) -> slice:
        """Positions of this process in the global batch.

        Raises:
            UserError: The batch is not a multiple of the processes.
        """
        if global_batch % self.process_count:
            raise UserError(
                f"global batch {global_batch} is not a multiple of {self.process_count} processes; "
                f"use {max(global_batch // self.process_count, 1) * self.process_count}"
            )
        local = global_batch // self.process_count
        return slice(self.process_index * local, (self.process_index + 1) * local)

    def iterate(self, read: Callable[[int], Batch], steps: range) -> Generator[Batch, None, None]:
        """The batches that `read` gives for each of `steps`, read ahead; a generator, to be closed.

        Raises:
            UserError: A record cannot be read, or a worker process was killed.
        """
        import grain  # here, as models and steps do not need it

        options = grain.ReadOptions(self.threads, prefetch_buffer_size=max(self.prefetch, self.threads))
        batches = grain.MapDataset.range(steps.start, steps.stop).map(read).to_iter_dataset(options)
        if self.workers:
            silence_resource_tracker()
            if not flags.FLAGS.is_parsed():
                flags.FLAGS.mark_as_parsed()  # Grain passes absl flags on to its workers, even where none are parsed
            batches = batches.mp_prefetch(grain.MultiprocessingOptions(self.workers, self.prefetch), end_with_parent)
        with contextlib.closing(iter(batches)) as iterator:
            following = signals_kept_from_children(self.workers > 0)(lambda: next(iterator, None))
            try:
                yield from iter(following, None)
            except RuntimeError as error:
                if not self.workers:
                    raise
                what = str(error).partition(".")[0]
                raise UserError(
                    f"a process that reads records has ended, perhaps for lack of memory ({what}); start the same "
                    "command again, perhaps with fewer --config.data.workers="
                ) from None


def _read_step(
    sources: Sequence[Any], order: TrainingOrder, block: slice, columns: Sequence[str] | None, step: int
) -> Batch:
    """This process's part of a step."""
    numbers = order(step)[block]
    return read_mixed(sources, numbers, columns) | {"record": numbers}


class TrainingInput(Iterator[Batch]):
    """Endless batches of a training run; the records of a step depend on seed and step number alone.

    Each step yields a dict with the columns of the records, as in `RecordSource.read_batch`, and `record`
    (local_batch,) int64, the number of the record counted over all sources. Process p of P gets positions
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
            seed: Seed of the order of the records, 0 to 2^32 - 1.
            weights: Relative weights of several sources in every batch.
            columns: Columns to read; by default all.
            group: Consecutive records of a batch that mix; 1 where none mix.
            start_step: First step to yield; 0 at the start, the number of steps done when resuming.
            **reading: See `Reading`.

        Raises:
            UserError: See `training_order`, `Reading.block`, `mixed_order`.
        """
        sources = tuple(source) if isinstance(source, Sequence) else (source,)
        order = mixed_order(sources, weights, global_batch, seed, group)
        read = Reading(**reading)
        read_step = functools.partial(_read_step, sources, order, read.block(global_batch), columns)
        self._batches = read.iterate(read_step, range(start_step, sys.maxsize))

    def __next__(self) -> Batch:
        return next(self._batches)

    def close(self) -> None:
        """Stop threads and worker processes; no batches follow."""
        self._batches.close()
