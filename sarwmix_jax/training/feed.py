"""What feeds the loop: device batches with their record numbers, read in every step or held in device memory.

Both kinds give the same batches, bit for bit; which records a step gets depends on seed and step alone.
"""

import time
from collections.abc import Iterator
from typing import NamedTuple

import jax
import numpy as np
from jax.sharding import Mesh
from jaxtyping import Array, Int

from sarwmix_jax.data.pipeline import TrainingInput, TrainingOrder, mixed_order, process_block
from sarwmix_jax.training import resident
from sarwmix_jax.training.logs import RunLog
from sarwmix_jax.training.setup import Run
from sarwmix_jax.training.validation import device_batch


class DeviceBatch(NamedTuple):
    """One step's batch.

    Attributes:
        arrays: What the compiled step takes, sharded over the devices.
        records: Numbers of the records of this process's part.
        waited: Seconds until the host knew what to send.
    """

    arrays: dict[str, Array]
    records: Int[np.ndarray, " local_batch"]
    waited: float


class LoaderFeed(Iterator[DeviceBatch]):
    """Batches read from the records in every step."""

    def __init__(self, batches: TrainingInput, mesh: Mesh, *, nodata: bool) -> None:
        """Put host batches on the devices, with their masks where `nodata`."""
        self._batches, self._mesh, self._nodata = batches, mesh, nodata

    def __next__(self) -> DeviceBatch:
        asked = time.perf_counter()
        host = next(self._batches)
        waited = time.perf_counter() - asked
        return DeviceBatch(device_batch(host, self._mesh, nodata=self._nodata), host["record"], waited)

    def close(self) -> None:
        """Stop reading."""
        self._batches.close()


class ResidentFeed(Iterator[DeviceBatch]):
    """Batches gathered from records that lie on the devices; only record numbers go there."""

    def __init__(self, records: resident.ResidentRecords, order: TrainingOrder, step: int, block: slice) -> None:
        """Begin at `step`; `block` is this process's part of a global batch."""
        self._records, self._order, self._step, self._block = records, order, step, block

    def __next__(self) -> DeviceBatch:
        asked = time.perf_counter()
        numbers = self._order(self._step)
        waited = time.perf_counter() - asked
        self._step += 1
        return DeviceBatch(self._records.batch(numbers), numbers[self._block], waited)

    def close(self) -> None:
        """Free the device memory."""
        self._records.close()


Feed = LoaderFeed | ResidentFeed


def training_input(run: Run, start: int, run_log: RunLog) -> Feed:
    """Batches from step `start` on, of the kind that the settings ask for.

    Raises:
        UserError: The record sets cannot be mixed; held in device memory, they do not fit or cannot be read.
    """
    if run.settings.data.resident:
        return resident_feed(run, start, run_log)
    data = run.settings.data
    batches = TrainingInput(
        run.sources,
        run.settings.batch.global_batch,
        run.settings.seed,
        weights=data.mix_weights,
        start_step=start,
        process_index=jax.process_index(),
        process_count=jax.process_count(),
        threads=data.threads,
        workers=data.workers,
        prefetch=data.prefetch,
    )
    return LoaderFeed(batches, run.mesh, nodata=data.nodata_aware)


def resident_feed(run: Run, start: int, run_log: RunLog) -> ResidentFeed:
    """Load the training records onto the devices and say so."""
    data, batch, began = run.settings.data, run.settings.batch.global_batch, time.perf_counter()
    order = mixed_order(run.sources, data.mix_weights, batch, run.settings.seed)
    block = process_block(batch, jax.process_index(), jax.process_count())
    count, local = resident.records_per_device(run.sources, run.mesh.size), len(run.mesh.local_devices)
    with run_log.task("loading records", min(count * local, sum(order.lengths))) as advance:
        records = resident.load_records(
            run.sources, run.mesh, masks=data.nodata_aware, threads=data.threads, advance=advance
        )
    seconds = time.perf_counter() - began
    size = resident.bytes_per_device(run.sources, run.mesh.size, masks=data.nodata_aware)
    run_log.say(
        f"{sum(order.lengths):,} records lie on {run.mesh.size} devices, {size / 2**30:.2f} GiB on each, "
        f"loaded in {seconds:.1f} s"
    )
    run_log.write("resident", records=sum(order.lengths), bytes_per_device=size, seconds=seconds)
    return ResidentFeed(records, order, start, block)
