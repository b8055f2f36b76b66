import collections
import json
import shutil
import time

import numpy as np
import pyarrow
import pyarrow.compute
import pyarrow.parquet
import pytest
import rasterio
import tensorflow_datasets as tfds

from sarwmix_jax.data.pipeline import TrainingInput
from sarwmix_jax.data.sources import open_records
from sarwmix_jax.facts.labels import CLASSES
from sarwmix_jax.preparation import bigearthnet, patch_lists
from sarwmix_jax.preparation.plan import Plan

from .conftest import SHARED_DATA, copy_as_v2, needs_shared_data

pytestmark = needs_shared_data
OFFICIAL = SHARED_DATA / "meta" / "bigearthnet_v2" / "metadata.parquet"
SNOW = OFFICIAL.with_name("metadata_for_patches_with_snow_cloud_or_shadow.parquet")
SUBSET = SHARED_DATA / "bigearthnet_v2" / "metadata_subset.parquet"


@pytest.fixture
def tree(tmp_path):
    """A tree of all thirteen sample patches, with their rows of the official metadata."""
    root = copy_as_v2(tmp_path / "tree")
    shutil.copytree(SHARED_DATA / "bigearthnet_v2" / "BigEarthNet-S1", root / "BigEarthNet-S1", dirs_exist_ok=True)
    return root


@pytest.fixture
def prepare(run_here):
    def run(root, out, *arguments, metadata=(SUBSET,)):
        return run_here("bigearthnet_v2.py", "--root", root, "--out", out, "--metadata", *metadata, *arguments)

    return run


def rows(file=SUBSET) -> dict[str, dict]:
    return {row["patch_id"]: row for row in pyarrow.parquet.read_table(file).to_pylist()}


def test_every_patch_arrives_with_its_values_labels_and_split(prepare, tree, tmp_path):
    done = prepare(tree, tmp_path / "out")
    assert done.returncode == 0, done.stderr
    expected = rows()
    seen = []
    for split in ("train", "validation", "test"):
        source = open_records(tmp_path / "out", split)
        for number in range(len(source)):
            record = source[number]
            row = expected[record["patch_id"]]
            name = row["s1_name"]
            for band, values in zip(("VH", "VV"), record["image"], strict=True):
                path = tree / "BigEarthNet-S1" / name.rsplit("_", 3)[0] / name / f"{name}_{band}.tif"
                with rasterio.open(path) as file:
                    np.testing.assert_array_equal(values, file.read(1).astype(np.float16))
            assert [c for c, label in zip(CLASSES, record["labels"], strict=True) if label] == sorted(
                row["labels"], key=CLASSES.index
            )
            assert (record["split"], record["s1_name"], record["country"]) == (split, name, row["country"])
            assert row["split"] == split
            seen.append(record["patch_id"])
    assert sorted(seen) == sorted(expected) and len(seen) == 13
    contract = open_records(tmp_path / "out", "train").contract
    assert contract.records == {"train": 5, "validation": 2, "test": 6}
    assert (contract.bands, contract.unit, contract.shape) == (("VH", "VV"), "dB", (2, 120, 120))
    assert len(tfds.builder_from_directory(tmp_path / "out").as_data_source(split="test")) == 6
    assert next(TrainingInput(open_records(tmp_path / "out", "train+validation"), 4, 0))["image"].shape[0] == 4


def test_missing_patches_stop_or_are_reported(prepare, tmp_path):
    """The official rows name thirteen patches, the v2 sample tree holds three of them."""
    root = SHARED_DATA / "bigearthnet_v2"
    stopped = prepare(root, tmp_path / "out")
    assert stopped.returncode == 2
    assert stopped.stderr.startswith("error: ") and stopped.stderr.count("\n") == 1
    assert "_VH.tif is missing; repair it, or leave such records out with --on-error=skip" in stopped.stderr
    assert not (tmp_path / "out").exists()
    skipped = prepare(root, tmp_path / "out2", "--on-error=skip")
    assert skipped.returncode == 0, skipped.stderr
    assert "skipped 10 records" in skipped.stdout
    report = json.loads((tmp_path / "out2" / "preparation.json").read_text())
    assert (report["planned"], report["written"], len(report["skipped"])) == (13, 3, 10)
    assert open_records(tmp_path / "out2", "train+validation").contract.records == {"train": 2, "validation": 1}


def test_official_metadata_with_a_tree_of_v1_patches(prepare, tmp_path):
    """Nine of the ten v1 patches are recommended, one has snow: it is in the other official file."""
    root = copy_as_v2(tmp_path / "tree")
    names = {path.name for path in (root / "BigEarthNet-S1").glob("*/*")}
    files = []
    for file, expected in ((OFFICIAL, 9), (SNOW, 1)):
        table = pyarrow.parquet.read_table(file)
        found = table.filter(pyarrow.compute.is_in(table["s1_name"], pyarrow.array(sorted(names))))
        assert found.num_rows == expected
        files.append(tmp_path / file.name)
        pyarrow.parquet.write_table(found, files[-1])
    done = prepare(root, tmp_path / "nine", metadata=files[:1])
    assert done.returncode == 0, done.stderr
    done = prepare(root, tmp_path / "ten", metadata=files)
    assert done.returncode == 0, done.stderr
    assert len(open_records(tmp_path / "nine", "train+validation+test")) == 9
    assert len(open_records(tmp_path / "ten", "train+validation+test")) == 10


@pytest.mark.slow
def test_planning_all_official_rows_takes_seconds(run_here):
    """549,488 rows: about five seconds of processor time, which other work on the machine does not change."""
    begin = time.process_time()
    rows = patch_lists.read_metadata([str(OFFICIAL), str(SNOW)])
    plan = Plan(bigearthnet.CONTRACT_V2, rows)
    seconds = time.process_time() - begin
    assert plan.rows.num_rows == 549_488
    counts = collections.Counter(plan.rows["split"].to_pylist())
    assert counts == {"train": 237_871 + 34_673, "validation": 122_342 + 17_235, "test": 119_825 + 17_542}
    assert sum(shard.count for shard in plan.shards) == 549_488
    assert seconds < 30
