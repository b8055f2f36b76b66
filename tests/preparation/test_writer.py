import hashlib
import json
import math
import subprocess
import sys
import textwrap
from pathlib import Path

import numpy as np
import pytest
import tensorflow_datasets as tfds

from sarwmix_jax.data.records import Record, read_contract
from sarwmix_jax.data.sources import open_records
from sarwmix_jax.errors import UserError
from sarwmix_jax.preparation.writer import ShardSummary, check_absent, merged_statistics, write_shard
from tests.data.conftest import toy_contract, toy_records
from tests.record_sets import encoded, write_records


def digests(folder: Path) -> dict[str, str]:
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in sorted(folder.iterdir())}


def test_plain_tfds_reads_what_was_written(tmp_path):
    write_records(tmp_path / "toy", toy_contract(), {"train": toy_records(10)}, records_per_shard=4)
    builder = tfds.builder_from_directory(tmp_path / "toy")
    source = builder.as_data_source(split="train")
    written = open_records(tmp_path / "toy", "train")
    assert builder.info.splits["train"].shard_lengths == [4, 4, 2]
    assert len(source) == len(written) == 10
    for number in range(10):
        assert source[number]["patch_id"] == f"patch_{number}".encode()
        assert written[number]["patch_id"] == f"patch_{number}"
        assert list(source[number]["labels"]) == [number % 3]
        np.testing.assert_array_equal(source[number]["image"], written[number]["image"])
    assert "tensorflow" not in sys.modules


def test_statistics_are_those_of_the_stored_training_values(tmp_path):
    rng = np.random.default_rng(3)
    images = rng.normal([[[-19.0]], [[-12.0]]], [[[5.0]], [[4.0]]], (20, 2, 4, 4))
    masks = rng.random((20, 4, 4)) < 0.7
    records = [Record(i, f"p{n}", valid_pixels=m) for n, (i, m) in enumerate(zip(images, masks, strict=True))]
    contract = toy_contract(has_valid_pixels=True)
    written = write_records(tmp_path / "toy", contract, {"train": records}, records_per_shard=3)
    values = images.astype(np.float16).astype(np.float64).transpose(1, 0, 2, 3)[:, masks]
    assert written.statistics_split == "train"
    np.testing.assert_allclose(written.statistics.mean_db, values.mean(axis=1), rtol=1e-12)
    np.testing.assert_allclose(written.statistics.std_db, values.std(axis=1), rtol=1e-10)
    assert read_contract(tmp_path / "toy") == written


def test_the_same_records_give_the_same_files(tmp_path):
    for name in ("a", "b"):
        splits = {"train": toy_records(9), "test": toy_records(3)}
        write_records(tmp_path / name, toy_contract(), splits, records_per_shard=4)
    assert digests(tmp_path / "a") == digests(tmp_path / "b")
    assert len(digests(tmp_path / "a")) == 3 + 2 + 4  # shards, contract.json, checksums.json, TFDS's own four


def test_a_failure_leaves_nothing(tmp_path):
    def broken():
        yield from encoded(toy_records(5), "train", toy_contract())
        raise RuntimeError("the source broke")

    with pytest.raises(UserError, match="the source broke"):
        write_shard(tmp_path / "shard", broken(), 2)
    assert list(tmp_path.iterdir()) == []


def test_a_failed_shard_leaves_the_old_one(tmp_path):
    path = tmp_path / "shard"
    write_shard(path, encoded(toy_records(3), "train", toy_contract()), 2)
    before = path.read_bytes()
    records = [*toy_records(2), Record(np.zeros((2, 3, 3)), "p")]
    with pytest.raises(ValueError, match="expected"):
        write_shard(path, encoded(records, "train", toy_contract()), 2)
    assert [path.name for path in tmp_path.iterdir()] == ["shard"]
    assert path.read_bytes() == before


def test_an_existing_folder_is_not_touched(tmp_path):
    (tmp_path / "toy").mkdir()
    (tmp_path / "toy" / "mine").write_text("mine")
    with pytest.raises(UserError, match="toy already exists; remove it or choose another"):
        check_absent(tmp_path / "toy")
    (tmp_path / "empty").mkdir()
    check_absent(tmp_path / "empty")
    assert (tmp_path / "toy" / "mine").read_text() == "mine"


def test_a_full_disk_is_one_line(tmp_path):
    """A file-size limit of the process stands in for the full disk: the same failing write()."""
    code = f"""
        import resource, signal
        from pathlib import Path
        from sarwmix_jax.preparation.writer import write_shard
        from tests.record_sets import encoded
        from tests.data.conftest import toy_contract, toy_records
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (200_000, resource.RLIM_INFINITY))
        try:
            records = encoded(toy_records(40, side=120), "train", toy_contract(height=120, width=120))
            write_shard(Path({str(tmp_path / "toy")!r}), records, 2)
        except Exception as error:
            print(type(error).__name__, error, sep="|")
    """
    done = subprocess.run([sys.executable, "-c", textwrap.dedent(code)], capture_output=True, text=True, timeout=300)
    kind, message = done.stdout.rstrip("\n").split("|")
    assert kind == "UserError"
    assert message.startswith("cannot write ") and "File too large" in message and "free space" in message
    assert "\n" not in message
    assert list(tmp_path.iterdir()) == []


def test_contract_is_plain_json(tmp_path):
    write_records(tmp_path / "toy", toy_contract(), {"train": toy_records(2), "test": []})
    fields = json.loads((tmp_path / "toy" / "contract.json").read_text())
    assert fields["bands"] == ["VH", "VV"]
    assert fields["unit"] == "dB"
    assert fields["records"] == {"train": 2}


def test_statistics_do_not_depend_on_how_shards_are_added_up():
    rng = np.random.default_rng(0)
    shards = [
        ShardSummary(10, 1000, 160, (float(a), float(b)), (float(a) ** 2, float(b) ** 2))
        for a, b in rng.normal(-2400, 300, (50, 2))
    ]
    forward, backward = merged_statistics(shards), merged_statistics(shards[::-1])
    assert forward == backward
    assert math.isclose(forward.mean_db[0], sum(s.sums[0] for s in shards) / 8000, rel_tol=1e-12)
