import pickle
import threading

import numpy as np
import pytest

from sarwmix_jax.data.sources import open_records
from sarwmix_jax.errors import UserError


def names(source) -> list[str]:
    return [source[i]["patch_id"] for i in range(len(source))]


def test_slices_name_the_right_records_across_shards(make_source, tmp_path):
    make_source(20)  # shards of seven
    assert names(open_records(tmp_path / "toy", "train[5:16]")) == [f"patch_{n}" for n in range(5, 16)]
    assert names(open_records(tmp_path / "toy", "train[:12.5%]")) == ["patch_0", "patch_1"]
    both = open_records(tmp_path / "toy", "validation[-2:]+train[:1]")
    assert names(both) == ["patch_38", "patch_39", "patch_0"]
    assert len(open_records(tmp_path / "toy", "train+validation")) == 40


def test_a_source_opens_nothing_before_it_is_read_and_survives_pickling(make_source):
    source = make_source(20)
    source[3]
    copy = pickle.loads(pickle.dumps(source))
    assert copy._readers == {}
    assert copy[19]["patch_id"] == "patch_19"


def test_batches_keep_the_order_asked_for(make_source):
    source = make_source(20)
    batch = source.read_batch(np.array([19, 0, 8]))
    np.testing.assert_array_equal(batch["image"][:, 0, 0, 0], [-20 - 19 / 8, -20, -21])
    assert batch["labels"].tolist() == [[0, 1, 0], [1, 0, 0], [0, 0, 1]]


def test_threads_read_the_same(make_source):
    source = make_source(60)
    expected = source.read_batch(range(60))["image"]
    got: dict[int, np.ndarray] = {}

    def read(number: int) -> None:
        got[number] = source.read_batch(range(60))["image"]

    threads = [threading.Thread(target=read, args=(n,)) for n in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(got) == 8
    for image in got.values():
        np.testing.assert_array_equal(image, expected)


def test_mistakes_are_one_line(make_source, tmp_path):
    source = make_source(20)
    with pytest.raises(IndexError):
        source[20]
    with pytest.raises(UserError, match="the folder does not exist"):
        open_records(tmp_path / "nowhere", "train")
    with pytest.raises(UserError, match=r"no split 'test' in .*toy; it has train"):
        open_records(tmp_path / "toy", "test")
    (tmp_path / "toy" / "toy-train.array_record-00001-of-00003").unlink()
    with pytest.raises(UserError, match=r"00001-of-00003 is missing \(1 of 3 files\)"):
        open_records(tmp_path / "toy", "train")
    (tmp_path / "toy" / "dataset_info.json").write_text("{}")
    with pytest.raises(UserError, match=r"dataset_info.json cannot be read"):
        open_records(tmp_path / "toy", "train")


def test_a_damaged_file_is_named(make_source, tmp_path):
    make_source(20)
    path = tmp_path / "toy" / "toy-train.array_record-00001-of-00003"
    path.write_bytes(path.read_bytes()[:100])
    for message in ("is not the file that the preparation wrote", "cannot be read"):
        with pytest.raises(UserError, match=f"00001-of-00003 {message}") as caught:
            open_records(tmp_path / "toy", "train")[8]
        assert "\n" not in str(caught.value)
        (tmp_path / "toy" / "checksums.json").unlink(missing_ok=True)
