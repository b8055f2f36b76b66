"""Run by test_device_cache.py in separate processes with several devices on the CPU; prints one JSON line."""

import json
import sys
from pathlib import Path
from typing import Any

import jax
import numpy as np

from sarwmix_jax.data.pipeline import Reading, TrainingInput, mixed_order
from sarwmix_jax.data.sources import RecordSource, open_records
from sarwmix_jax.settings.config import pretraining_config, resolve
from sarwmix_jax.settings.sections import PretrainingSettings
from sarwmix_jax.tasks.gradients import make_mesh, shard_batch
from sarwmix_jax.training.device_cache import load_rows, make_gather, row_layout
from sarwmix_jax.training.history import read_log, training_curve
from sarwmix_jax.training.loop import train
from tests.support import collectives
from tests.training.conftest import TINY_RUN

BATCH, SEED = 16, 5
WEIGHTS = {1: None, 2: (1, 1)}


def compare(sources: list[RecordSource], steps: int, *, masks: bool) -> tuple[list[bool], Any, Any]:
    """For every step, whether each device of this process holds the loader's rows in all bits; rows and gatherer."""
    mesh, weights = make_mesh(), WEIGHTS[len(sources)]
    processes = {"process_index": jax.process_index(), "process_count": jax.process_count()}
    loader = TrainingInput(sources, BATCH, SEED, weights=weights, **processes)
    columns = ("image", "valid_pixels") if masks else ("image",)
    layout, order = row_layout(sources, columns), mixed_order(sources, weights, BATCH, SEED)
    rows, gather = load_rows(sources, layout, mesh, threads=2), make_gather(layout, mesh)
    equal = []
    for step in range(steps):
        host = next(loader)
        expected = shard_batch({name: host[name] for name in columns}, mesh)
        got = gather(rows, order(step).astype(np.int32))
        pairs = [
            (one, other)
            for name in expected
            for one, other in zip(expected[name].addressable_shards, got[name].addressable_shards, strict=True)
        ]
        assert len(pairs) == len(expected) * jax.local_device_count()
        equal.append(
            all(
                one.device == other.device
                and one.index == other.index
                and np.asarray(one.data).tobytes() == np.asarray(other.data).tobytes()
                for one, other in pairs
            )
        )
    loader.close()
    return equal, rows, gather


def open_both(folder: Path) -> list[RecordSource]:
    return [open_records(folder / name, "train") for name in ("one", "two")]


def batches(folder: Path) -> dict:
    one, two = open_both(folder)
    alone, _, _ = compare([one], 6, masks=False)
    both, rows, gather = compare([one, two], 8, masks=True)
    order = mixed_order([one, two], WEIGHTS[2], BATCH, SEED)(0)
    names = [host_number(image, [one, two]) for image in np.asarray(gather(rows, order.astype(np.int32))["image"])]
    compiled = gather.lower(rows, np.zeros(BATCH, np.int32)).compile()
    return {
        "devices": jax.device_count(),
        "rows": [len(shard.data) for shard in rows.addressable_shards],
        "equal": {"one": alone, "both": both},
        "records": names,
        "order": order.tolist(),
        "collectives": collectives(compiled),
    }


def host_number(image: np.ndarray, sources: list[RecordSource]) -> int:
    """Number of the record with this image."""
    images = np.concatenate([source.read_batch(np.arange(len(source)))["image"] for source in sources])
    (found,) = np.flatnonzero((images.view(np.uint16) == image.view(np.uint16)).all(axis=(1, 2, 3)))
    return int(found)


def process(folder: Path, number: str, port: str) -> dict:
    """One of two processes."""
    jax.distributed.initialize(f"127.0.0.1:{port}", 2, int(number))
    sources, read = open_both(folder), set()
    layout = row_layout(sources, ("image", "valid_pixels"))
    firsts = {id(sources[0]): 0, id(sources[1]): len(sources[0])}
    records_of = RecordSource.read_batch

    def watched(self, indices, *more):
        read.update(int(index) + firsts[id(self)] for index in indices)
        return records_of(self, indices, *more)

    RecordSource.read_batch = watched  # type: ignore[method-assign]
    load_rows(sources, layout, make_mesh(), threads=2)
    RecordSource.read_batch = records_of  # type: ignore[method-assign]
    equal, _, _ = compare(sources, 8, masks=True)
    order = mixed_order(sources, WEIGHTS[2], BATCH, SEED)
    block = Reading(jax.process_index(), jax.process_count()).block(BATCH)
    return {
        "devices": jax.device_count(),
        "equal": equal,
        "records": [order(step)[block].tolist() for step in range(8)],
        "order": [order(step).tolist() for step in range(8)],
        "read": sorted(read),
    }


def losses(folder: Path, resident: str) -> dict:
    """Losses of twelve steps over all devices, with few optimisations by the compiler."""
    jax.config.update("jax_disable_most_optimizations", True)
    config = pretraining_config()
    config.update_from_flattened_dict(TINY_RUN)
    config.data.records, config.validation.split = (str(folder / "records"),), None
    config.data.resident = resident == "1"
    config.batch.update({"global_batch": 16, "mix_group": 2})
    config.optimizer.stop_after_epochs = 6.0
    progress = train(resolve(config, PretrainingSettings), folder / f"run{resident}")
    entries = training_curve(read_log(folder / f"run{resident}"))
    return {"devices": jax.device_count(), "steps": progress.step, "losses": [entry["loss"] for entry in entries]}


if __name__ == "__main__":
    what, place, *rest = sys.argv[1:]
    json.dump({"batches": batches, "process": process, "train": losses}[what](Path(place), *rest), sys.stdout)
