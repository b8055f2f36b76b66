"""Records held in device memory give the loader's batches, bit for bit."""

import json
import os
import socket
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import jax
import numpy as np
import pytest

from sarwmix_jax.data.pipeline import TrainingInput, mixed_order
from sarwmix_jax.data.records import Contract, Record
from sarwmix_jax.data.sources import open_records
from sarwmix_jax.errors import UserError
from sarwmix_jax.preparation.synthetic import write_synthetic_records
from sarwmix_jax.tasks.gradients import make_mesh, shard_batch
from sarwmix_jax.training import device_cache
from sarwmix_jax.training.device_cache import (
    Column,
    RowLayout,
    allocate,
    load_rows,
    make_gather,
    read_ahead,
    row_layout,
)
from tests.record_sets import write_records

ROOT = Path(__file__).parents[2]
ROW_BYTES = 2 * 6 * 5 * 2


def write_noise(folder, count, *, height=6, width=5, masks=False):
    """Records of all bit patterns of numbers below 100; a third of the pixels invalid where `masks`."""
    rng = np.random.default_rng(count)

    def record(number):
        limit = np.float16(100).view(np.uint16)  # of the magnitude; every bit pattern below it, zeros of both signs too
        signs = rng.integers(0, 2, (2, height, width), np.uint16) << 15
        image = (signs | rng.integers(0, limit, (2, height, width), np.uint16)).view(np.float16)
        valid = rng.random((height, width)) < 2 / 3 if masks else None
        return Record(image, f"noise_{count}_{number}", valid_pixels=valid)

    contract = Contract(folder.name, "1.0.0", "noise", "sigma0", height, width, has_valid_pixels=masks)
    write_records(folder, contract, {"train": [record(number) for number in range(count)]}, records_per_shard=7)
    return open_records(folder, "train")


def same_bits(one, other):
    assert one.dtype == other.dtype and one.shape == other.shape
    return np.asarray(one).tobytes() == np.asarray(other).tobytes()


def columns(masks):
    return ("image", "valid_pixels") if masks else ("image",)


def load(sources, masks=False, threads=2, **more):
    """Rows of all records, and what gathers batches of them."""
    mesh, layout = make_mesh(), row_layout(sources, columns(masks))
    return load_rows(sources, layout, mesh, threads=threads, **more), make_gather(layout, mesh)


def same_batches(sources, steps, *, weights=None, masks=False, batch=8):
    """Whether resident records give the loader's batches, in every array and bit."""
    mesh = make_mesh()
    loader = TrainingInput(sources, batch, 3, weights=weights)
    (rows, gather), order = load(sources, masks), mixed_order(sources, weights, batch, 3)
    for step in range(steps):
        host = next(loader)
        expected = shard_batch({name: host[name] for name in columns(masks)}, mesh)
        got = gather(rows, order(step).astype(np.int32))
        assert expected.keys() == got.keys()
        assert all(same_bits(expected[name], got[name]) for name in expected)
        assert all(expected[name].sharding == got[name].sharding for name in expected)
    loader.close()
    return True


@pytest.mark.parametrize("chunk_records", [1, 5, 100])
def test_batches_are_those_of_the_loader_over_epochs(tmp_path, monkeypatch, chunk_records):
    monkeypatch.setattr(device_cache, "CHUNK_BYTES", chunk_records * ROW_BYTES)
    assert same_batches([write_noise(tmp_path / "one", 29)], 8)


def test_several_weighted_sets_with_masks_of_which_one_has_none(tmp_path):
    sources = [write_noise(tmp_path / "one", 13), write_noise(tmp_path / "two", 16, masks=True)]
    assert same_batches(sources, 8, weights=(3, 1), masks=True)


def test_masks_stay_on_the_host_where_they_are_not_asked_for(tmp_path):
    assert same_batches([write_noise(tmp_path / "one", 16, masks=True)], 2)


@pytest.mark.parametrize(
    ("shape", "masks", "words"),
    [((2, 120, 120), False, 14400), ((2, 120, 120), True, 14850), ((1, 3, 3), True, 5 + 1), ((3, 8, 8), True, 96 + 2)],
)
def test_rows_take_the_stored_bits_and_one_bit_a_mask_pixel(shape, masks, words):
    rng = np.random.default_rng(0)
    batch = {"image": rng.integers(0, 2**16, (3, *shape), np.uint16).view(np.float16)}  # with NaNs of every kind
    batch["valid_pixels"] = rng.random((3, *shape[1:])) < 0.5
    layout = RowLayout(tuple(Column(name, batch[name].dtype, batch[name].shape[1:]) for name in columns(masks)))
    assert layout.words == words and layout.row_bytes == 4 * words
    check_round_trip(layout, batch, words)


@pytest.mark.parametrize(("dtype", "shape", "words"), [(np.uint8, (19,), 5), (np.int32, (), 1), (np.bool_, (33,), 2)])
def test_labels_of_any_kind_come_back(dtype, shape, words):
    values = np.random.default_rng(0).integers(0, 2, (5, *shape)).astype(dtype)
    check_round_trip(RowLayout((Column("labels", values.dtype, shape),)), {"labels": values}, words)


def check_round_trip(layout, batch, words):
    rows = layout.pack(batch)
    assert rows.shape == (len(next(iter(batch.values()))), words)
    back = jax.jit(layout.unpack)(rows)
    assert set(back) == {column.name for column in layout.columns}
    assert all(same_bits(back[name], batch[name]) for name in back)


def test_loading_fills_the_rows_where_they_are():
    block = allocate((6, 4), jax.devices()[0])
    place = block.unsafe_buffer_pointer()
    filled = device_cache._put(block, np.full((2, 4), 7, np.uint32), np.int32(3))
    assert block.is_deleted() and filled.unsafe_buffer_pointer() == place
    np.testing.assert_array_equal(filled[:, 0], [0, 0, 0, 7, 7, 0])


def test_reading_goes_on_ahead_but_not_without_end():
    begun, enough = [], threading.Semaphore(0)

    def read(chunk):
        begun.append(chunk.start)
        enough.release()
        return np.array(chunk)

    with ThreadPoolExecutor(2) as pool:
        chunks = read_ahead(pool, read, [range(start, start + 2) for start in range(0, 20, 2)], 3)
        np.testing.assert_array_equal(next(chunks), [0, 1])
        for _ in range(4):
            assert enough.acquire(timeout=120)
        assert sorted(begun) == [0, 2, 4, 6]  # what was given, and three ahead
        np.testing.assert_array_equal(np.concatenate(list(chunks)), np.arange(2, 20))


def test_progress_counts_every_record(tmp_path, monkeypatch):
    monkeypatch.setattr(device_cache, "CHUNK_BYTES", 4 * ROW_BYTES)
    counts = []
    load([write_noise(tmp_path / "one", 10)], threads=1, advance=counts.append)
    assert counts == [4, 4, 2]


def test_records_that_do_not_fit_are_one_line():
    with pytest.raises(
        UserError,
        match=r"^1,099,511,627,776 training records, 65536.00 GiB, do not fit .*; give --config.data.resident=false",
    ):
        allocate((2**40, 16), jax.devices()[0])


def test_a_damaged_file_is_one_line(tmp_path):
    source = write_noise(tmp_path / "one", 29)
    path = source._files[1].path
    path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(UserError, match="00001-of-00005 cannot be read"):
        load([source])


def start(what, folder, *arguments, devices=8):
    environment = os.environ | {
        "XLA_FLAGS": f"{os.environ.get('XLA_FLAGS', '')} --xla_force_host_platform_device_count={devices}",
        "JAX_PLATFORMS": "cpu",
        "PYTHONPATH": str(ROOT),
    }
    command = [sys.executable, "-m", "tests.training.cache_devices", what, str(folder), *map(str, arguments)]
    return subprocess.Popen(command, cwd=ROOT, env=environment, text=True, stdout=subprocess.PIPE, stderr=-1)


def answer(process):
    out, errors = process.communicate(timeout=900)
    assert process.returncode == 0, errors
    return json.loads(out.splitlines()[-1])  # gloo prints lines before it


def write_both(folder):
    """37 records in two sets, one with masks: not whole blocks on eight devices, nor on four."""
    write_noise(folder / "one", 20)
    write_noise(folder / "two", 17, masks=True)


def test_eight_devices_give_the_loaders_global_batches(tmp_path):
    write_both(tmp_path)
    found = answer(start("batches", tmp_path))
    assert found["devices"] == 8
    assert found["rows"] == [5] * 8
    assert found["equal"] == {"one": [True] * 6, "both": [True] * 8}
    assert found["records"] == found["order"]
    assert found["collectives"] == {"reduce-scatter": 1}


@pytest.mark.slow
def test_two_processes_read_their_own_records_and_give_the_same_global_batches(tmp_path):
    write_both(tmp_path)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    started = [start("process", tmp_path, number, port, devices=2) for number in range(2)]
    one, two = map(answer, started)
    assert one["devices"] == two["devices"] == 4
    assert one["equal"] == two["equal"] == [True] * 8
    assert [first + second for first, second in zip(one["records"], two["records"], strict=True)] == one["order"]
    assert (one["read"], two["read"]) == (list(range(20)), list(range(20, 37)))


@pytest.mark.slow
def test_training_on_eight_devices_has_the_losses_of_the_loader(tmp_path):
    write_synthetic_records(tmp_path / "records", train=37, side=64)
    loaded, held = (answer(start("train", tmp_path, resident)) for resident in (0, 1))
    assert held == loaded
    assert (held["devices"], held["steps"]) == (8, 12)
    assert len(set(held["losses"])) == 12
