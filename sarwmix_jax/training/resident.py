"""A training set held in device memory: read once, spread over the devices, gathered anew for every step.

A record is one row of 32-bit words, as collectives of some devices know no 16-bit integers: the image's float16 values
as they are stored and, where masks are held, one bit for each pixel. Every device holds a block of consecutive records.
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
from einops import rearrange
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from jaxtyping import Array, Int, Int32, UInt32

from sarwmix_jax.data.records import STORED_DTYPE
from sarwmix_jax.data.sources import RecordSource, read_mixed
from sarwmix_jax.errors import UserError
from sarwmix_jax.training.parallel import DATA_AXIS

WORD_BITS = 32
CHUNK_BYTES = 2**25
"""Bytes that a thread reads before they go to a device."""

Rows = UInt32[Array, "records words"]


@dataclass(frozen=True)
class RowLayout:
    """How a record lies in its row.

    Attributes:
        shape: Bands, rows and columns of an image.
        masks: Whether validity masks are held too.
    """

    shape: tuple[int, int, int]
    masks: bool

    @property
    def image_words(self) -> int:
        """Words of an image."""
        return -(-math.prod(self.shape) * np.dtype(STORED_DTYPE).itemsize * 8 // WORD_BITS)

    @property
    def words(self) -> int:
        """Words of a row."""
        return self.image_words + (-(-math.prod(self.shape[1:]) // WORD_BITS) if self.masks else 0)

    @property
    def row_bytes(self) -> int:
        """Bytes of a row."""
        return self.words * WORD_BITS // 8

    def pack(self, batch: dict[str, np.ndarray]) -> UInt32[np.ndarray, "records words"]:
        """Rows of host records, as `read_mixed` gives them."""
        rows = np.zeros((len(batch["image"]), self.words), np.uint32)
        images = rearrange(batch["image"], "record band row column -> record (band row column)")
        rows.view(STORED_DTYPE)[:, : images.shape[1]] = images
        if self.masks:
            pixels = rearrange(batch["valid_pixels"], "record row column -> record (row column)")
            bits = np.packbits(pixels, axis=1, bitorder="little")
            rows[:, self.image_words :].view(np.uint8)[:, : bits.shape[1]] = bits
        return rows

    def unpack(self, rows: Rows) -> dict[str, Array]:
        """What the compiled steps take: `image` (records, band, height, width) and with masks `valid`."""
        bands, height, width = self.shape
        halves = jax.lax.bitcast_convert_type(rows[:, : self.image_words], STORED_DTYPE)
        values = rearrange(halves, "record word half -> record (word half)")[:, : math.prod(self.shape)]
        batch = {"image": values.reshape(-1, bands, height, width)}
        if self.masks:
            bits = rows[:, self.image_words :, None] >> jnp.arange(WORD_BITS, dtype=jnp.uint32) & jnp.uint32(1)
            pixels = rearrange(bits, "record word bit -> record (word bit)")[:, : height * width]
            batch["valid"] = pixels.reshape(-1, 1, height, width).astype(jnp.bool_)
        return batch


def row_layout(sources: Sequence[RecordSource], *, masks: bool) -> RowLayout:
    """How the records of alike `sources` lie in rows."""
    return RowLayout(sources[0].contract.shape, masks)


def records_per_device(sources: Sequence[RecordSource], devices: int) -> int:
    """Records in the block of a device; blocks are equal, so the last ones end in empty rows."""
    return -(-sum(map(len, sources)) // devices)


def bytes_per_device(sources: Sequence[RecordSource], devices: int, *, masks: bool) -> int:
    """Bytes that the records take on each device."""
    return records_per_device(sources, devices) * row_layout(sources, masks=masks).row_bytes


class ResidentRecords:
    """All records of a run on its devices; batches by record number."""

    def __init__(self, rows: Rows, layout: RowLayout, mesh: Mesh) -> None:
        """Use `load_records`."""
        self._rows, self._gather = rows, make_gather(layout, mesh)

    def batch(self, numbers: Int[np.ndarray, " global_batch"]) -> dict[str, Array]:
        """The records with these numbers, as `validation.device_batch` gives a batch; returns before it is there."""
        return self._gather(self._rows, numbers.astype(np.int32))

    def close(self) -> None:
        """Free the memory; there are no batches afterwards."""
        self._rows.delete()


def make_gather(layout: RowLayout, mesh: Mesh) -> Callable[[Rows, Any], dict[str, Array]]:
    """The compiled function (rows of all devices, record numbers of the global batch) -> its arrays, sharded.

    It is a program of its own, so that the training step is the same whatever feeds it.
    """

    def own_rows(block: Rows, numbers: Int32[Array, " global_batch"]) -> Rows:
        if mesh.size == 1:
            return block[numbers]
        places = numbers - jax.lax.axis_index(DATA_AXIS) * block.shape[0]
        here = (places >= 0) & (places < block.shape[0])
        found = jnp.where(here[:, None], block[jnp.where(here, places, 0)], jnp.uint32(0))
        # A record lies on one device, the others add zero bits: the sum is the record, whatever its bits mean.
        return jax.lax.psum_scatter(found, DATA_AXIS, tiled=True)

    def share(block: Rows, numbers: Int32[Array, " global_batch"]) -> dict[str, Array]:
        return layout.unpack(own_rows(block, numbers))

    split = PartitionSpec(DATA_AXIS)
    mapped = jax.shard_map(share, mesh=mesh, in_specs=(split, PartitionSpec()), out_specs=split, check_vma=False)
    return jax.jit(mapped, out_shardings=NamedSharding(mesh, split))


def load_records(
    sources: Sequence[RecordSource],
    mesh: Mesh,
    *,
    masks: bool,
    threads: int,
    advance: Callable[[int], None] = lambda count: None,
) -> ResidentRecords:
    """Read all records, each process those of its own devices.

    Args:
        sources: Alike record sets; records count through all of them.
        mesh: The devices.
        masks: Hold the validity masks too.
        threads: Threads that read.
        advance: Called with the number of records that came to lie on a device of this process.

    Raises:
        UserError: The records do not fit into a device's memory, or cannot be read.
    """
    layout, total = row_layout(sources, masks=masks), sum(map(len, sources))
    shape = (records_per_device(sources, mesh.size) * mesh.size, layout.words)
    sharding = NamedSharding(mesh, PartitionSpec(DATA_AXIS))
    places = sharding.devices_indices_map(shape)
    spans = {device: places[device][0] for device in mesh.local_devices}
    blocks = {device: allocate((shape[0] // mesh.size, shape[1]), device) for device in spans}
    read = functools.partial(read_rows, sources, layout)
    with ThreadPoolExecutor(threads) as pool:
        for device, span in spans.items():
            first, last, _ = span.indices(total)
            chunks = cut(first, last, max(1, CHUNK_BYTES // layout.row_bytes))
            for chunk, rows in zip(chunks, read_ahead(pool, read, chunks, threads), strict=True):
                # Waiting keeps what is read but not yet on the device from piling up.
                blocks[device] = jax.block_until_ready(_put(blocks[device], rows, np.int32(chunk.start - first)))
                advance(len(rows))
    array = jax.make_array_from_single_device_arrays(shape, sharding, list(blocks.values()))
    return ResidentRecords(array, layout, mesh)


def read_rows(
    sources: Sequence[RecordSource], layout: RowLayout, numbers: range
) -> UInt32[np.ndarray, "records words"]:
    """Rows of consecutive records."""
    return layout.pack(read_mixed(sources, np.arange(numbers.start, numbers.stop)))


def cut(first: int, last: int, length: int) -> list[range]:
    """The numbers from `first` to before `last`, in runs of `length`."""
    return [range(start, min(start + length, last)) for start in range(first, last, length)]


def read_ahead(
    pool: ThreadPoolExecutor, read: Callable[[range], np.ndarray], chunks: Iterable[range], ahead: int
) -> Iterator[np.ndarray]:
    """`read` of every chunk in order, at most `ahead` of them begun before they are asked for."""
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
        UserError: It has not enough memory.
    """
    try:
        return jax.block_until_ready(jnp.zeros(shape, jnp.uint32, device=device))
    except jax.errors.JaxRuntimeError as error:
        if "RESOURCE_EXHAUSTED" not in str(error):
            raise
        size = math.prod(shape) * WORD_BITS // 8
        raise UserError(
            f"{shape[0]:,} training records, {size / 2**30:.2f} GiB, do not fit into the free memory of {device}; "
            "unset data.resident, use more devices or fewer records (data.split)"
        ) from error


@functools.partial(jax.jit, donate_argnums=0)
def _put(block: Rows, rows: Rows, first: Int32[Array, ""]) -> Rows:
    return jax.lax.dynamic_update_slice_in_dim(block, rows, first, axis=0)
