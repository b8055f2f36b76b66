"""Records on the disk and the real ways from there to the device: the pipeline, or a set held in device memory."""

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from jax.sharding import Mesh

from sarwmix_jax.bench import sample
from sarwmix_jax.bench.work import Unavailable

SEED, SPLIT, CHUNK = 0, "train", 64
WARM_BATCHES = 8


def record_source(folder: Path, count: int) -> Any:
    """Random records in `folder`, written at the first call.

    Raises:
        Unavailable: A library of the record files is not installed.
    """
    try:
        from sarwmix_jax.data.records import Contract, Record
        from sarwmix_jax.data.sources import open_records
        from sarwmix_jax.preparation.shards import write_records
    except ImportError as error:
        raise Unavailable(f"{error.name} is not installed, and records need it") from error

    def records() -> Iterator[Record]:
        for first in range(0, count, CHUNK):
            images = sample.speckle_db(np.random.default_rng([SEED, first]), min(CHUNK, count - first))
            yield from (Record(image, f"random_{first + place:06d}") for place, image in enumerate(images))

    if not folder.exists():
        contract = Contract(
            name="bench",
            version="1.0.0",
            source="random speckle",
            quantity="sigma0",
            height=sample.SIDE,
            width=sample.SIDE,
        )
        write_records(folder, contract, {SPLIT: records()})
    return open_records(folder, SPLIT)


def open_input(source: Any, options: dict[str, Any], batch: int) -> Any:
    """The real training input over the records."""
    from sarwmix_jax.data.pipeline import TrainingInput

    return TrainingInput(
        source, batch, SEED, threads=options["threads"], workers=options["workers"], prefetch=options["prefetch"]
    )


def open_feed(kind: str, options: dict[str, Any], batch: int, mesh: Mesh) -> Iterator[dict[str, Any]]:
    """Device batches of one kind of feed, without end.

    Raises:
        Unavailable: This version or machine has no such feed.
    """
    source = record_source(Path(options["folder"]), options["records"])
    return resident(source, options, batch, mesh) if kind == "resident" else fed(source, options, batch, mesh)


def fed(source: Any, options: dict[str, Any], batch: int, mesh: Mesh) -> Iterator[dict[str, Any]]:
    """Batches that the pipeline reads while the device computes."""
    from sarwmix_jax.training.validation import device_batch

    for host in open_input(source, options, batch):
        yield device_batch(host, mesh, nodata=False)


def resident(source: Any, options: dict[str, Any], batch: int, mesh: Mesh) -> Iterator[dict[str, Any]]:
    """Batches gathered from records that lie on the device."""
    try:
        from sarwmix_jax.training.resident import load_records
    except ImportError as error:
        raise Unavailable("not in this version: records held in device memory") from error
    from sarwmix_jax.data.pipeline import training_order

    order = training_order([len(source)], None, batch, SEED)
    records = load_records((source,), mesh, masks=False, threads=options["threads"])
    step = 0
    while True:
        yield records.batch(order(step))
        step += 1


class HostInput:
    """The pipeline alone, without a device."""

    def __init__(self, spec: dict[str, Any]):
        self.spec = spec
        self.input: Any
        self.cpu_started = 0.0

    def set_up(self) -> dict[str, Any]:
        """Opens the records and reads the first batches."""
        options, batch = self.spec["options"], self.spec["batch"]
        self.input = open_input(record_source(Path(options["folder"]), options["records"]), options, batch)
        started = time.perf_counter()
        for _ in range(WARM_BATCHES):
            self.step()
        return {"step_seconds": (time.perf_counter() - started) / WARM_BATCHES}

    def step(self) -> None:
        """Reads one batch."""
        next(self.input)

    def wait(self) -> None:
        """Nothing is left to wait for."""

    def before_round(self) -> None:
        """Uses up what was read ahead."""
        for _ in range(self.spec["options"]["buffered"]):
            self.step()
        self.cpu_started = time.process_time()

    def after_round(self) -> dict[str, Any]:
        """Processor time of this process, all threads."""
        return {"cpu_seconds": time.process_time() - self.cpu_started}

    def facts(self) -> dict[str, Any]:
        """Nothing more."""
        return {}
