import dataclasses
import fcntl
import hashlib
import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import tensorflow_datasets as tfds

from sarwmix_jax.data.records import ExcludedError, Record, RecordError
from sarwmix_jax.data.sources import open_records
from sarwmix_jax.errors import UserError
from sarwmix_jax.preparation import shards, workers
from sarwmix_jax.preparation.plan import Plan
from sarwmix_jax.preparation.shards import prepare
from tests.data.conftest import toy_contract


@dataclasses.dataclass(frozen=True)
class Reader:
    """Makes an image from the row's number; some rows are bad in one way or another."""

    missing: frozenset[str] = frozenset()
    broken: frozenset[str] = frozenset()
    log: Path | None = None

    def __call__(self, row) -> Record:
        if self.log is not None:
            with self.log.open("a") as log:
                log.write(row["patch_id"] + "\n")
        if row["patch_id"] in self.missing:
            raise RecordError("no such file")
        number = int(row["patch_id"].split("_")[1])
        image = np.random.default_rng(number).normal([[[-19]], [[-12]]], 3, (2, 4, 4)).astype(np.float32)
        if row["patch_id"] in self.broken:
            image[0, 0, 0] = np.nan
        return Record(image, row["patch_id"], labels=("water",))


def plan(count: int = 40, size: int = 6) -> Plan:
    rows = [{"patch_id": f"patch_{n}", "split": ("train", "train", "test")[n % 3]} for n in range(count)]
    return Plan(toy_contract(), pa.Table.from_pylist(rows), size)


def digests(folder: Path) -> dict[str, str]:
    files = (path for path in sorted(folder.rglob("*")) if path.is_file())
    return {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def names(folder: Path, split: str) -> list[str]:
    source = open_records(folder, split)
    return [source[n]["patch_id"] for n in range(len(source))]


def test_all_records_arrive_in_the_order_of_the_plan(tmp_path):
    work = plan()
    assert prepare(work, Reader(), tmp_path / "out") == {}
    for split in ("train", "test"):
        expected = [r["patch_id"] for r in work.rows.to_pylist() if r["split"] == split]
        assert names(tmp_path / "out", split) == expected
    source = open_records(tmp_path / "out", "train")
    values = np.stack([source[n]["image"].astype(np.float64) for n in range(len(source))])
    statistics = source.contract.statistics
    np.testing.assert_allclose(statistics.mean_db, values.mean((0, 2, 3)), rtol=1e-12)
    np.testing.assert_allclose(statistics.std_db, values.std((0, 2, 3)), rtol=1e-10)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out"]


@pytest.mark.parametrize("workers", [2, 4])
def test_the_worker_count_changes_no_byte(tmp_path, workers):
    reader = Reader(missing=frozenset({"patch_3", "patch_17"}))
    prepare(plan(), reader, tmp_path / "one", on_error="skip")
    skipped = prepare(plan(), reader, tmp_path / "many", workers=workers, on_error="skip")
    assert digests(tmp_path / "one") == digests(tmp_path / "many")
    assert set(skipped) == {"patch_3", "patch_17"}


def test_parts_merged_are_the_same_bytes(tmp_path):
    prepare(plan(), Reader(), tmp_path / "whole")
    for index in (2, 3):
        assert prepare(plan(), Reader(), tmp_path / "out", part=(index, 3)) is None
    with pytest.raises(UserError, match=r"3 of 8 shards are not in .*out.partial yet .*finish all parts"):
        prepare(plan(), Reader(), tmp_path / "out", merge=True)
    prepare(plan(), Reader(), tmp_path / "out", part=(1, 3))
    assert not (tmp_path / "out").exists()
    prepare(plan(), Reader(), tmp_path / "out", merge=True)
    assert digests(tmp_path / "whole") == digests(tmp_path / "out")


def test_parts_of_machines_without_a_common_disk_can_be_copied_together(tmp_path):
    prepare(plan(), Reader(), tmp_path / "whole")
    for index in (1, 2):
        prepare(plan(), Reader(), tmp_path / f"machine{index}" / "out", part=(index, 2))
    partial = tmp_path / "machine1" / "out.partial"
    for path in sorted((tmp_path / "machine2" / "out.partial").glob("*/*")):
        path.rename(partial / path.parent.name / path.name)
    prepare(plan(), Reader(), tmp_path / "machine1" / "out", merge=True)
    assert digests(tmp_path / "whole") == digests(tmp_path / "machine1" / "out")


def test_a_stopped_run_goes_on_with_what_is_left(tmp_path):
    prepare(plan(), Reader(), tmp_path / "whole")
    bad = plan().rows["patch_id"].to_pylist()[20]
    with pytest.raises(UserError, match=f"{bad}: no such file; repair it, or leave such records out with"):
        prepare(plan(), Reader(missing=frozenset({bad})), tmp_path / "out")
    assert not (tmp_path / "out").exists()
    log = tmp_path / "log"
    prepare(plan(), Reader(log=log), tmp_path / "out")
    assert len(log.read_text().split()) == 40 - 18  # three shards of six were finished
    assert digests(tmp_path / "whole") == digests(tmp_path / "out")


def test_a_finished_run_does_nothing_again(tmp_path):
    reader = Reader(missing=frozenset({"patch_3"}))
    prepare(plan(), reader, tmp_path / "out", on_error="skip")
    before = digests(tmp_path / "out")
    (tmp_path / "out.partial").mkdir()  # killed between publishing and clearing up
    skipped = prepare(plan(), Reader(), tmp_path / "out")
    assert skipped == {"patch_3": "no such file"}
    assert digests(tmp_path / "out") == before
    assert not (tmp_path / "out.partial").exists()
    with pytest.raises(UserError, match="out already exists"):
        prepare(plan(41), Reader(), tmp_path / "out")


def test_what_is_skipped_is_reported_with_its_reason(tmp_path):
    reader = Reader(missing=frozenset({"patch_3"}), broken=frozenset({"patch_8"}))
    prepare(plan(), reader, tmp_path / "out", on_error="skip")
    report = json.loads((tmp_path / "out" / "preparation.json").read_text())
    assert (report["planned"], report["written"]) == (40, 38)
    assert {problem["patch_id"]: problem["reason"] for problem in report["skipped"]} == {
        "patch_3": "no such file",
        "patch_8": "1 values are not finite in float16, first in VH",
    }
    assert open_records(tmp_path / "out", "train+test").contract.records == {"train": 26, "test": 12}
    assert "patch_3" not in names(tmp_path / "out", "train+test")


def test_records_skipped_before_are_not_accepted_in_silence(tmp_path):
    reader = Reader(missing=frozenset({"patch_3"}))
    for index in (1, 2):
        prepare(plan(), reader, tmp_path / "out", part=(index, 2), on_error="skip")
    with pytest.raises(UserError, match=r"1 records were skipped before \(first patch_3: no such file\)"):
        prepare(plan(), reader, tmp_path / "out", merge=True)


def test_a_whole_shard_or_split_may_be_unreadable(tmp_path):
    work = plan()
    first = {row["patch_id"] for row in work.rows_of(work.shards[0])}
    prepare(work, Reader(missing=frozenset(first)), tmp_path / "shard", on_error="skip")
    assert len(names(tmp_path / "shard", "train")) == 27 - 6
    plain = tfds.builder_from_directory(tmp_path / "shard").as_data_source(split="train")
    assert [r["patch_id"].decode() for r in plain] == names(tmp_path / "shard", "train")
    test = {row["patch_id"] for row in work.rows.to_pylist() if row["split"] == "test"}
    prepare(work, Reader(missing=frozenset(test)), tmp_path / "split", on_error="skip")
    assert open_records(tmp_path / "split", "train").contract.records == {"train": 27}
    everything = frozenset(work.rows["patch_id"].to_pylist())
    with pytest.raises(UserError, match="none of 40 records could be read: no such file"):
        prepare(work, Reader(missing=everything), tmp_path / "none", on_error="skip")


def sparse(count: int, *kept: int) -> tuple[Plan, Reader, list[str]]:
    """A plan of files of two records, of which few records can be read: those at the places `kept`."""
    work = plan(count, 2)
    planned = work.rows["patch_id"].to_pylist()
    there = [planned[place] for place in kept]
    return work, Reader(missing=frozenset(planned).difference(there)), there


def test_few_records_of_a_long_plan_make_few_files(tmp_path):
    work, reader, there = sparse(400, 0, 4, 5, 17, 130, 260, 300, 301, 399)  # the last 133 are those of test
    assert len(work.shards) == 201
    prepare(work, reader, tmp_path / "out", on_error="skip")
    described = {"contract.json", "dataset_info.json", "features.json", "labels.labels.txt", "preparation.json"}
    described |= {"checksums.json"}
    assert {path.name for path in (tmp_path / "out").iterdir()} - described == {
        *(f"toy-train.array_record-0000{n}-of-00004" for n in range(4)),
        *(f"toy-test.array_record-0000{n}-of-00002" for n in range(2)),
    }
    for split, expected in {"train": there[:6], "test": there[6:]}.items():
        assert names(tmp_path / "out", split) == expected
        source = open_records(tmp_path / "out", split)
        for number, name in enumerate(expected):
            image = Reader()({"patch_id": name}).image.astype(np.float16)
            np.testing.assert_array_equal(source[number]["image"], image)
        plain = tfds.builder_from_directory(tmp_path / "out").as_data_source(split=split)
        assert [r["patch_id"].decode() for r in plain] == expected
    values = np.stack([Reader()({"patch_id": name}).image.astype(np.float16) for name in there[:6]])
    means = open_records(tmp_path / "out", "train").contract.statistics.mean_db
    np.testing.assert_allclose(means, values.astype(np.float64).mean((0, 2, 3)), rtol=1e-12)


@pytest.mark.parametrize("steps", range(16))
def test_stopped_while_files_are_put_together_it_goes_on(tmp_path, monkeypatch, steps):
    """Stopped before any of the 14 file operations that put 12 files, 6 of them empty, together to 4."""
    work, reader, _ = sparse(24, 0, 4, 5, 9, 11, 17, 19)
    prepare(work, reader, tmp_path / "whole", on_error="skip")
    prepare(work, reader, tmp_path / "out", part=(1, 1), on_error="skip")
    left = iter(range(steps))

    def stopping(original):
        def operation(*arguments, **options):
            if next(left, None) is None:
                raise KeyboardInterrupt
            return original(*arguments, **options)

        return operation

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        for name in ("unlink", "replace"):
            patch.setattr(Path, name, stopping(getattr(Path, name)))
        prepare(work, reader, tmp_path / "out", merge=True, on_error="skip")
    assert not (tmp_path / "out").exists()
    prepare(work, reader, tmp_path / "out", merge=True, on_error="skip")
    assert digests(tmp_path / "whole") == digests(tmp_path / "out")


def test_other_work_in_the_same_place_is_refused(tmp_path):
    prepare(plan(), Reader(), tmp_path / "out", part=(1, 2))
    with pytest.raises(UserError, match=r"was started with other metadata.*\(40 records in 8 files, now 41 in 8\)"):
        prepare(plan(41), Reader(), tmp_path / "out", part=(2, 2))


def test_two_runs_do_not_meet(tmp_path):
    folder = tmp_path / "out.partial"
    folder.mkdir()
    with (folder / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        with pytest.raises(UserError, match=r"another run is preparing records in .*out.partial"):
            prepare(plan(), Reader(), tmp_path / "out")
    with (folder / "lock").open("w") as lock, (folder / "lock-1-of-2").open("w") as part_lock:
        fcntl.flock(lock, fcntl.LOCK_SH)
        fcntl.flock(part_lock, fcntl.LOCK_EX)
        with pytest.raises(UserError, match="another run"):
            prepare(plan(), Reader(), tmp_path / "out", part=(1, 2))
        assert prepare(plan(), Reader(), tmp_path / "out", part=(2, 2)) is None


@pytest.mark.parametrize("step", ["write_description", "publish"])
def test_stopped_while_finishing_it_finishes_the_next_time(tmp_path, monkeypatch, step):
    prepare(plan(), Reader(), tmp_path / "whole")

    def stop(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr({"write_description": shards, "publish": workers}[step], step, stop)
        prepare(plan(), Reader(), tmp_path / "out")
    assert not (tmp_path / "out").exists()
    prepare(plan(), Reader(), tmp_path / "out")
    assert digests(tmp_path / "whole") == digests(tmp_path / "out")


def test_leftovers_of_a_killed_write_are_cleared(tmp_path):
    prepare(plan(), Reader(), tmp_path / "whole")
    records = tmp_path / "out.partial" / "records"
    records.mkdir(parents=True)
    (records / f".{plan().shards[0].name}.4711.tmp").write_bytes(b"half")
    (records / plan().shards[1].name).write_bytes(b"a file that no progress file vouches for")
    prepare(plan(), Reader(), tmp_path / "out")
    assert digests(tmp_path / "whole") == digests(tmp_path / "out")


@pytest.mark.parametrize("part", [(0, 2), (3, 2)])
def test_parts_count_from_one(tmp_path, part):
    with pytest.raises(UserError, match="parts count from 1 to 2"):
        prepare(plan(), Reader(), tmp_path / "out", part=part)


@dataclasses.dataclass(frozen=True)
class Choosy:
    """Leaves out every fourth row on purpose and notes something of every fifth."""

    def __call__(self, row) -> Record:
        number = int(row["patch_id"].split("_")[1])
        if number % 4 == 0:
            raise ExcludedError("a multiple of four")
        facts = {"holes": number} if number % 5 == 0 else {}
        return dataclasses.replace(Reader()(row), facts=facts)


@pytest.mark.parametrize("workers", [1, 2])
def test_what_a_rule_excludes_is_counted_and_no_error(tmp_path, workers):
    seen = {}

    def finish(folder, work, outcomes):
        seen["files"] = sorted(path.name for path in folder.iterdir())
        seen["left out"] = set().union(*(outcome.excluded for outcome in outcomes))
        return {"facts": {name: fact for outcome in outcomes for name, fact in outcome.facts.items()}}

    work = Plan(toy_contract(), plan().rows, 6, {"snow": 3})
    assert prepare(work, Choosy(), tmp_path / "out", workers=workers, finish=finish) == {}
    report = json.loads((tmp_path / "out" / "preparation.json").read_text())
    assert (report["planned"], report["written"], report["skipped"]) == (40, 30, [])
    assert report["excluded"] == {"a multiple of four": 10} and report["snow"] == 3
    assert report["facts"] == {f"patch_{n}": {"holes": n} for n in (5, 10, 15, 25, 30, 35)}
    assert seen["left out"] == {f"patch_{n}" for n in range(0, 40, 4)}
    assert len(seen["files"]) == len(work.shards)


@pytest.mark.parametrize("damage", [lambda content: b"", lambda content: content[:-9], lambda content: content[:99]])
def test_a_shard_that_was_damaged_after_it_was_written_is_named_and_can_be_made_again(tmp_path, damage):
    prepare(plan(), Reader(), tmp_path / "whole")
    assert prepare(plan(), Reader(), tmp_path / "out", part=(1, 1)) is None
    shard = sorted((tmp_path / "out.partial" / "records").glob("*train*"))[1]
    shard.write_bytes(damage(shard.read_bytes()))
    note = tmp_path / "out.partial" / "progress" / f"{shard.name}.json"
    with pytest.raises(UserError) as caught:
        prepare(plan(), Reader(), tmp_path / "out")
    assert str(caught.value) == f"{shard} is damaged; remove {note}, and the next start makes it again"
    note.unlink()
    prepare(plan(), Reader(), tmp_path / "out")
    assert digests(tmp_path / "out") == digests(tmp_path / "whole")
