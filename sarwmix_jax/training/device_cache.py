"""A training set in device memory: read once, sharded over the devices, gathered for every step.

A record is one row of 32-bit words, as collectives of some devices do not support 16-bit integers: its stored columns
one after the other, masks with one bit per pixel. Every device holds a block of consecutive records.
"""

import functools
import math
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from jaxtyping import Array, Int32, UInt32

from sarwmix_jax.data.pipeline import Reading, mixed_order
from sarwmix_jax.data.sources import read_mixed
from sarwmix_jax.errors import UserError
from sarwmix_jax.progress import progress
from sarwmix_jax.tasks.gradients import DATA_AXIS, over_devices
from sarwmix_jax.tasks.task import Batch
from sarwmix_jax.training.logs import RunLog
from sarwmix_jax.training.run import DeviceBatch, Run

WORD_BITS = 32
CHUNK_BYTES = 2**25
"""Bytes that a thread reads before they are copied to a device."""

Rows = UInt32[Array, "records words"]


@dataclass(frozen=True)
class Column:
    """Layout of one column of a record in its row.

    Attributes:
        name: Name in a batch.
        dtype: Type of the values; booleans take one bit each.
        shape: Shape of one record's values.
    """

    name: str
    dtype: np.dtype
    shape: tuple[int, ...]

    @property
    def words(self) -> int:
        """Number of words."""
        bits = 1 if self.dtype == np.bool_ else 8 * self.dtype.itemsize
        return -(-math.prod(self.shape) * bits // WORD_BITS)

    def pack(self, values: np.ndarray) -> UInt32[np.ndarray, "records words"]:
        """Values of several records as words."""
        flat = np.ascontiguousarray(values.reshape(len(values), -1))
        data = np.packbits(flat, axis=1, bitorder="little") if self.dtype == np.bool_ else flat.view(np.uint8)
        rows = np.zeros((len(values), self.words), np.uint32)
        rows.view(np.uint8)[:, : data.shape[1]] = data
        return rows

    def unpack(self, words: Rows) -> Array:
        """Undoes `pack`, on the device."""
        if self.dtype == np.bool_:
            values = words[..., None] >> jnp.arange(WORD_BITS, dtype=jnp.uint32) & jnp.uint32(1)
        else:
            values = jax.lax.bitcast_convert_type(words, self.dtype)
        values = values.reshape(len(words), -1)[:, : math.prod(self.shape)]
        return values.reshape(-1, *self.shape).astype(self.dtype)


@dataclass(frozen=True)
class RowLayout:
    """Layout of a record in its row: column after column."""

    columns: tuple[Column, ...]

    @property
    def words(self) -> int:
        """Words of a row."""
        return sum(column.words for column in self.columns)

    @property
    def row_bytes(self) -> int:
        """Bytes of a row."""
        return self.words * WORD_BITS // 8

    def pack(self, batch: dict[str, np.ndarray]) -> UInt32[np.ndarray, "records words"]:
        """Rows of host records from `read_mixed`."""
        return np.concatenate([column.pack(batch[column.name]) for column in self.columns], axis=1)

    def unpack(self, rows: Rows) -> Batch:
        """Arrays as the compiled steps take them."""
        batch, first = {}, 0
        for column in self.columns:
            batch[column.name] = column.unpack(rows[:, first : first + column.words])
            first += column.words
        return batch


def row_layout(sources: Sequence[Any], columns: Sequence[str]) -> RowLayout:
    """Layout of the records of `sources`, which all have the same columns."""
    one = read_mixed(sources, np.zeros(1, np.int64), columns)
    return RowLayout(tuple(Column(name, one[name].dtype, one[name].shape[1:]) for name in columns))


def records_per_device(sources: Sequence[Any], devices: int) -> int:
    """Records in the block of a device; blocks are equal, so the last ones end in empty rows."""
    return -(-sum(map(len, sources)) // devices)


def bytes_per_device(run: Run) -> int:
    """Bytes of training records that each device holds during a run with `data.resident`."""
    layout = row_layout(run.sources, run.task.columns)
    return records_per_device(run.sources, run.mesh.size) * layout.row_bytes


class ResidentFeed(Iterator[DeviceBatch]):
    """Batches gathered from records in device memory; only record numbers are copied to the devices.

    They are equal to those of `run.LoaderFeed` bit for bit.
    """

    def __init__(self, run: Run, start: int, log: RunLog) -> None:
        """Load the training records to the devices, with progress in the log, and start at step `start`.

        Raises:
            UserError: The record sets cannot be mixed, do not fit into the devices' memory or cannot be read.
        """
        data, batch = run.settings.data, run.settings.batch.global_batch
        self._order = mixed_order(run.sources, data.mix_weights, batch, run.settings.seed, run.task.group)
        self._block = Reading(jax.process_index(), jax.process_count()).block(batch)
        self._step = start
        layout, total = row_layout(run.sources, run.task.columns), sum(map(len, run.sources))
        count = records_per_device(run.sources, run.mesh.size)
        with progress("loading records", min(count * len(run.mesh.local_devices), total)) as advance:
            self._rows = load_rows(run.sources, layout, run.mesh, threads=data.threads, advance=advance)
        self._gather = make_gather(layout, run.mesh)
        log.show(
            f"{total:,} records are on {run.mesh.size} devices, {count * layout.row_bytes / 2**30:.2f} GiB on each"
        )
        log.write("resident", records=total, bytes_per_device=count * layout.row_bytes)

    def __next__(self) -> DeviceBatch:
        numbers = self._order(self._step)
        self._step += 1
        return DeviceBatch(self._gather(self._rows, numbers.astype(np.int32)), numbers[self._block])

    def go_to(self, step: int) -> None:
        """Go on with another step."""
        self._step = step

    def close(self) -> None:
        """Free the device memory."""
        self._rows.delete()


def make_gather(layout: RowLayout, mesh: Mesh) -> Callable[[Rows, Any], Batch]:
    """The compiled function (rows of all devices, record numbers of the global batch) -> its arrays, sharded.

    It is a separate program, so that the training step is the same for every feed.
    """

    def share(block: Rows, numbers: Int32[Array, " global_batch"]) -> Batch:
        if mesh.size == 1:
            return layout.unpack(block[numbers])
        places = numbers - jax.lax.axis_index(DATA_AXIS) * block.shape[0]
        here = (places >= 0) & (places < block.shape[0])
        found = jnp.where(here[:, None], block[jnp.where(here, places, 0)], jnp.uint32(0))
        # A record is on one device, the others add zero bits: the sum is the record, whatever its bits mean.
        return layout.unpack(jax.lax.psum_scatter(found, DATA_AXIS, tiled=True))

    mapped = over_devices(share, mesh, True, False)
    return jax.jit(mapped, out_shardings=NamedSharding(mesh, PartitionSpec(DATA_AXIS)))


def load_rows(
    sources: Sequence[Any],
    layout: RowLayout,
    mesh: Mesh,
    *,
    threads: int,
    advance: Callable[[int], None] = lambda count: None,
) -> Rows:
    """Read all records; each process reads those of its own devices.

    Args:
        sources: Record sets with the same columns; records are numbered over all of them.
        layout: Layout of the rows.
        mesh: The devices.
        threads: Threads that read.
        advance: Called with the number of records that were copied to a device of this process.

    Raises:
        UserError: The records do not fit into a device's memory, or cannot be read.
    """
    total = sum(map(len, sources))
    shape = (records_per_device(sources, mesh.size) * mesh.size, layout.words)
    sharding = NamedSharding(mesh, PartitionSpec(DATA_AXIS))
    places = sharding.devices_indices_map(shape)
    spans = {device: places[device][0] for device in mesh.local_devices}
    blocks = {device: allocate((shape[0] // mesh.size, shape[1]), device) for device in spans}
    columns = [column.name for column in layout.columns]

    def read(numbers: range) -> UInt32[np.ndarray, "records words"]:
        return layout.pack(read_mixed(sources, np.arange(numbers.start, numbers.stop), columns))

    with ThreadPoolExecutor(threads) as pool:
        for device, span in spans.items():
            first, last, _ = span.indices(total)
            starts = range(first, last, max(1, CHUNK_BYTES // layout.row_bytes))
            chunks = [range(start, min(start + starts.step, last)) for start in starts]
            for start, rows in zip(starts, read_ahead(pool, read, chunks, threads), strict=True):
                # Waiting limits the memory of records that are read but not yet on the device.
                blocks[device] = jax.block_until_ready(_put(blocks[device], rows, np.int32(start - first)))
                advance(len(rows))
    return jax.make_array_from_single_device_arrays(shape, sharding, list(blocks.values()))


def read_ahead(
    pool: ThreadPoolExecutor, read: Callable[[range], np.ndarray], chunks: Iterable[range], ahead: int
) -> Iterator[np.ndarray]:
    """Results of `read` for every chunk in order, with at most `ahead` chunks read in advance."""
    waiting: deque[Future[np.ndarray]] = deque()
    for chunk in chunks:
        waiting.append(pool.submit(read, chunk))
        if len(waiting) > ahead:
            yield waiting.popleft().result()
    while waiting:
        yield waiting.popleft().result()


def allocate(shape: tuple[int, int], device: jax.Device) -> Rows:
    """Empty rows on a device.

    Raises:
        UserError: The device does not have enough memory.
    """
    try:
        return jax.block_until_ready(jnp.zeros(shape, jnp.uint32, device=device))
    except jax.errors.JaxRuntimeError as error:
        if "RESOURCE_EXHAUSTED" not in str(error):
            raise
        size = math.prod(shape) * WORD_BITS // 8
        raise UserError(
            f"{shape[0]:,} training records, {size / 2**30:.2f} GiB, do not fit into the free memory of {device}; "
            "give --config.data.resident=false, use more devices or fewer records (--config.data.split=)"
        ) from error


@functools.partial(jax.jit, donate_argnums=0)
def _put(block: Rows, rows: UInt32[Array, "new words"], first: Int32[Array, ""]) -> Rows:
    return jax.lax.dynamic_update_slice_in_dim(block, rows, first, axis=0)
