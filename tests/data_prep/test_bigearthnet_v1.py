import csv
import json
import shutil

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet
import pytest
import rasterio
import zarr

from sarwmix_jax.data.records import Expectation
from sarwmix_jax.data.sources import check_contract, open_records
from sarwmix_jax.facts.bands import STATISTICS
from sarwmix_jax.facts.labels import CLASSES, ORIGINAL_TO_CLASS
from sarwmix_jax.preparation.patch_lists import read_lists

from .conftest import SHARED_DATA, needs_shared_data

pytestmark = needs_shared_data
SCRIPT = "bigearthnet_v1.py"
ROOT = SHARED_DATA / "bigearthnet_v1"
PATCHES = ROOT / "BigEarthNet-S1-v1.0"
META = SHARED_DATA / "meta"
NAMES = META / "bigearthnet_v1" / "s1_s2_name_country_season.csv.bz2"
SNOW = META / "bigearthnet_v2" / "metadata_for_patches_with_snow_cloud_or_shadow.parquet"
SUBSET = SHARED_DATA / "bigearthnet_v2" / "metadata_subset.parquet"


def patch_metadata() -> dict[str, dict]:
    return {folder.name: json.loads(next(folder.glob("*.json")).read_text()) for folder in sorted(PATCHES.iterdir())}


@pytest.fixture
def lists(tmp_path):
    """Split lists as the published system has them: no header, S1 name in the second column."""
    names = sorted(patch_metadata())
    files = []
    for split, some in (("train", names[:6]), ("validation", names[6:8]), ("test", names[8:])):
        files.append(f"{split}={tmp_path / split}.csv")
        with (tmp_path / f"{split}.csv").open("w") as file:
            csv.writer(file).writerows((f"S2-{name}", name) for name in some)
    return files


def make_store(path, zarr_format):
    group = zarr.open_group(path, mode="w", zarr_format=zarr_format).create_group("sentinel1")
    for name, fields in patch_metadata().items():
        patch = group.create_group(name)
        patch.attrs["labels"] = fields["labels"]
        for band in ("VH", "VV"):
            with rasterio.open(PATCHES / name / f"{name}_{band}.tif") as file:
                values = file.read(1)
            patch.create_array(band, shape=values.shape, chunks=values.shape, dtype=values.dtype)[:] = values
    return path


def all_records(folder, split="train+validation+test") -> dict[str, dict]:
    source = open_records(folder, split)
    return {record["s1_name"]: record for record in (source[n] for n in range(len(source)))}


@pytest.mark.parametrize("zarr_format", [2, 3])
def test_folders_and_zarr_store_give_the_same_bytes(run_here, lists, tmp_path, zarr_format):
    store = make_store(tmp_path / "store.zarr", zarr_format)
    fixed = ["--splits", *lists, "--records-per-shard=4"]
    for name, source in (("folders", ["--root", ROOT]), ("zarr", ["--zarr", store])):
        done = run_here(SCRIPT, *source, *fixed, "--out", tmp_path / name)
        assert done.returncode == 0, done.stderr
    files = sorted(path.name for path in (tmp_path / "folders").iterdir())
    assert len([name for name in files if "array_record" in name]) == 4
    for name in files:
        assert (tmp_path / "folders" / name).read_bytes() == (tmp_path / "zarr" / name).read_bytes()
    records = all_records(tmp_path / "zarr")
    assert len(records) == 10
    for name, record in records.items():
        for band, values in zip(("VH", "VV"), record["image"], strict=True):
            with rasterio.open(PATCHES / name / f"{name}_{band}.tif") as file:
                np.testing.assert_array_equal(values, file.read(1).astype(np.float16))


def test_labels_are_those_of_the_official_v2_metadata(run_here, lists, tmp_path):
    done = run_here(SCRIPT, "--root", ROOT, "--splits", *lists, "--out", tmp_path / "out")
    assert done.returncode == 0, done.stderr
    official = {row["s1_name"]: row["labels"] for row in pyarrow.parquet.read_table(SUBSET).to_pylist()}
    for name, record in all_records(tmp_path / "out").items():
        labels = [label for label, on in zip(CLASSES, record["labels"], strict=True) if on]
        assert sorted(labels) == sorted(official[name])
    expected = Expectation(quantity="sigma0", side=120, classes=CLASSES, statistics=STATISTICS["bigearthnet_v1"])
    check_contract(open_records(tmp_path / "out", "train"), expected)


def test_the_label_map_is_the_published_one():
    table = json.loads((META / "label_indices.json").read_text())
    position = {number: name for name, number in table["original_labels"].items()}
    expected = dict.fromkeys(position.values())
    for name, numbers in zip(CLASSES, table["label_conversion"], strict=True):
        expected |= dict.fromkeys((position[number] for number in numbers), name)
    assert expected == ORIGINAL_TO_CLASS
    assert sum(name is not None for name in expected.values()) == 32


def test_s2_names_map_through_the_name_table(run_here, tmp_path):
    wanted = {name: fields["corresponding_s2_patch"] for name, fields in patch_metadata().items()}
    lines = [f"{s1_name},{s2_name},Austria,Summer\n" for s1_name, s2_name in wanted.items()]
    (tmp_path / "names.csv").write_text("".join(["s1_name,s2_name,country,season\n", *lines]))
    (tmp_path / "test.csv").write_text("".join(f"{name}\n" for name in wanted.values()))
    command = ["--root", ROOT, "--names", tmp_path / "names.csv", "--splits", f"test={tmp_path / 'test.csv'}", "--out"]
    planned = run_here(SCRIPT, *command, tmp_path / "out", "--dry-run")
    assert planned.returncode == 0 and "would write 10 records in 1 files" in planned.stdout
    assert not (tmp_path / "out").exists() and not (tmp_path / "out.partial").exists()
    assert run_here(SCRIPT, *command, tmp_path / "out").returncode == 0
    records = all_records(tmp_path / "out", "test")
    assert {name: record["patch_id"] for name, record in records.items()} == wanted
    assert {record["country"] for record in records.values()} == {"Austria"}
    (tmp_path / "test.csv").write_text("S2A_nothing\n")
    done = run_here(SCRIPT, *command, tmp_path / "other")
    assert done.returncode == 2 and "names S2A_nothing, which the --names table does not hold" in done.stderr


@pytest.mark.slow
def test_the_official_lists_map_through_the_official_table():
    """All 519,284 names have an S1 name and a country, and those of the samples are right."""
    files = {"train": "train", "validation": "val", "test": "test"}
    rows = read_lists([f"{split}={META}/bigearthnet_v1/{file}.csv.bz2" for split, file in files.items()], NAMES, None)
    counts = {split: rows["split"].to_pylist().count(split) for split in files}
    assert counts == {"train": 269_695, "validation": 123_723, "test": 125_866}
    assert rows["s1_name"].null_count == rows["country"].null_count == 0
    wanted = {name: fields["corresponding_s2_patch"] for name, fields in patch_metadata().items()}
    found = rows.filter(pc.is_in(rows["s1_name"], pa.array(list(wanted)))).to_pylist()
    assert len(found) >= 6 and all(wanted[row["s1_name"]] == row["patch_id"] for row in found)


def copy_patches(to):
    shutil.copytree(ROOT, to / "root")
    return to / "root", sorted((to / "root" / PATCHES.name).iterdir())


def set_labels(folder, labels):
    path = next(folder.glob("*.json"))
    path.write_text(json.dumps(json.loads(path.read_text()) | {"labels": labels}))


def test_patches_without_class_and_with_snow_are_excluded_and_counted(run_here, lists, tmp_path):
    root, folders = copy_patches(tmp_path)
    set_labels(folders[0], ["Airports", "Burnt areas"])
    (tmp_path / "cloud.csv").write_text(f"{folders[1].name}\n")
    command = ["--root", root, "--splits", *lists, "--exclude", SNOW, f"cloud={tmp_path / 'cloud.csv'}", "--out"]
    done = run_here(SCRIPT, *command, tmp_path / "out")
    assert done.returncode == 0, done.stderr
    assert "excluded 1 records: none of the 19 classes" in done.stdout
    assert "excluded 1 records: snow (list)" in done.stdout
    report = json.loads((tmp_path / "out" / "preparation.json").read_text())
    assert report["excluded"] == {"none of the 19 classes": 1} and report["skipped"] == []
    assert report["excluded by lists"] == {"snow": 1, "cloud or shadow": 0, "cloud": 1}
    assert (report["planned"], report["written"]) == (8, 7)
    assert folders[0].name not in all_records(tmp_path / "out")
    done = run_here(SCRIPT, "--root", root, "--splits", *lists, "--without-class=keep", "--out", tmp_path / "keep")
    assert done.returncode == 0, done.stderr
    assert all_records(tmp_path / "keep")[folders[0].name]["labels"].sum() == 0


@pytest.mark.parametrize("suffix", ["_VH.tif", "_VV.tif", "_labels_metadata.json"])
def test_missing_and_damaged_files_are_named(run_here, lists, tmp_path, suffix):
    root, folders = copy_patches(tmp_path)
    path = folders[3] / f"{folders[3].name}{suffix}"
    path.write_bytes(path.read_bytes()[:100])
    done = run_here(SCRIPT, "--root", root, "--splits", *lists, "--out", tmp_path / "out")
    assert done.returncode == 2 and path.name in done.stderr and done.stderr.count("\n") == 1
    path.unlink()
    done = run_here(SCRIPT, "--root", root, "--splits", *lists, "--out", tmp_path / "out")
    assert done.returncode == 2 and f"{path.name} is missing" in done.stderr
    done = run_here(SCRIPT, "--root", root, "--splits", *lists, "--out", tmp_path / "out", "--on-error=skip")
    assert done.returncode == 0 and "skipped 1 records" in done.stdout
    assert len(all_records(tmp_path / "out")) == 9


def test_damage_in_a_zarr_store_is_named(run_here, lists, tmp_path):
    store = make_store(tmp_path / "store.zarr", 2)
    names = sorted(patch_metadata())
    shutil.rmtree(store / "sentinel1" / names[0] / "VH")
    (store / "sentinel1" / names[1] / "VV" / "0.0").write_bytes(b"damage")
    (store / "sentinel1" / names[2] / ".zattrs").write_text('{"labels": ["Moon"]}')
    done = run_here(SCRIPT, "--zarr", store, "--splits", *lists, "--out", tmp_path / "out", "--on-error=skip")
    assert done.returncode == 0, done.stderr
    report = json.loads((tmp_path / "out" / "preparation.json").read_text())
    reasons = {problem["patch_id"]: problem["reason"] for problem in report["skipped"]}
    assert reasons.keys() == set(names[:3])
    assert reasons[names[0]] == f"{names[0]}/VH is missing"
    assert reasons[names[1]].startswith(f"{names[1]}/VV is damaged (")
    assert reasons[names[2]] == "label 'Moon' is not one of the 43 original names"


def test_mistakes_are_one_line(run_here, lists, tmp_path):
    def refusal(*arguments) -> str:
        done = run_here(SCRIPT, "--out", tmp_path / "out", *arguments)
        assert done.returncode == 2 and done.stderr.startswith("error: ") and done.stderr.count("\n") == 1
        return done.stderr

    assert "no folder BigEarthNet-S1-v1.0 in" in refusal("--root", tmp_path, "--splits", *lists)
    assert "no group sentinel1 in" in refusal("--zarr", tmp_path, "--splits", *lists)
    assert "write it as train=FILE" in refusal("--root", ROOT, "--splits", "train.csv")
    assert "no file" in refusal("--root", ROOT, "--splits", "train=nothing.csv")
    assert "no column 2; choose --s1-column" in refusal("--root", ROOT, "--s1-column=2", "--splits", *lists)
    (tmp_path / "s2.csv").write_text("S2A_MSIL2A_20170717T113321_28_87\n")
    assert "give the table that maps them" in refusal("--root", ROOT, "--splits", f"train={tmp_path / 's2.csv'}")
    (tmp_path / "odd.csv").write_text("S2A_1,s1_name\nS2A_2,S1A_2\n")
    assert "row 1: 's1_name' is no S1 name" in refusal("--root", ROOT, "--splits", f"train={tmp_path / 'odd.csv'}")
    assert "give a reason, as in snow=" in refusal("--root", ROOT, "--splits", *lists, "--exclude", "list.csv")
    assert not (tmp_path / "out").exists()
