import json
import shutil

import numpy as np
import pytest
import rasterio
import tensorflow_datasets as tfds

from sarwmix_jax.data.pipeline import TrainingInput
from sarwmix_jax.data.records import Expectation
from sarwmix_jax.data.sources import check_contract, open_records
from sarwmix_jax.facts.labels import CLASSES
from tests.data.samples import opera_pairs, read_pair

from .conftest import SHARED_DATA, needs_shared_data

SCRIPT = "geotiff.py"
OPERA = SHARED_DATA / "opera_rtc_s1" / "2023-12-03"


def write_raster(path, values, *, descriptions=None, nodata=None, crs="EPSG:32633", **tags):
    values = np.atleast_3d(values) if values.ndim == 3 else values[None]
    profile = {"driver": "GTiff", "count": len(values), "height": values.shape[1], "width": values.shape[2]}
    grid = {"crs": crs, "transform": rasterio.Affine(10, 0, 600_000, 0, -10, 5_400_000)}
    path.parent.mkdir(parents=True, exist_ok=True)
    with rasterio.open(path, "w", **profile, **grid, dtype=values.dtype, nodata=nodata) as file:
        file.write(values)
        file.update_tags(**tags)
        for number, text in enumerate(descriptions or (), start=1):
            file.set_band_description(number, text)
    return path


def scene_db(side=96, seed=0) -> np.ndarray:
    """(VH, VV) float32 in dB."""
    rng = np.random.default_rng(seed)
    return (np.array([-19, -12])[:, None, None] + 3 * rng.standard_normal((2, side, side))).astype(np.float32)


def records_of(folder, split="train") -> dict[str, dict]:
    source = open_records(folder, split)
    return {record["patch_id"]: record for record in (source[n] for n in range(len(source)))}


@needs_shared_data
def test_opera_samples_become_records_that_pretraining_reads(run_here, tmp_path):
    done = run_here(SCRIPT, "--inputs", OPERA, "--tile=64", "--overlap=28", "--validation=0", "--out", tmp_path / "out")
    assert done.returncode == 0, done.stderr
    source = open_records(tmp_path / "out", "train")
    assert (source.contract.quantity, source.contract.unit, len(source)) == ("gamma0", "dB", 10 * 4)
    check_contract(source, Expectation(quantity="gamma0", side=64))
    batch = next(TrainingInput(source, 8, 0))
    assert batch["image"].shape == (8, 2, 64, 64) and np.isfinite(batch["image"]).all()
    paths = {path.name.replace("_VH.tif", ""): path for path in opera_pairs() if path.parent == OPERA}
    for record in records_of(tmp_path / "out").values():
        path = paths[record["s1_name"]]
        row, column = map(int, record["patch_id"].split("_")[-2:])
        power = read_pair(path)[:, row : row + 64, column : column + 64]
        expected = 10 * np.log10(np.maximum(power, 1e-6))
        np.testing.assert_array_equal(record["image"], expected.astype(np.float16))
        with rasterio.open(path) as file:
            assert record["crs"] == file.crs.to_string() == "EPSG:32611"
            assert tuple(record["transform"][[0, 1, 3, 4]]) == (30, 0, 0, -30)
            assert tuple(record["transform"][[2, 5]]) == file.xy(row, column, offset="ul")
    (first,) = tfds.builder_from_directory(tmp_path / "out").as_data_source(split="train[:1]")
    assert first["transform"].shape == (6,) and first["crs"] == b"EPSG:32611"


@needs_shared_data
def test_opera_samples_called_db_are_refused(refusal):
    message = refusal("--inputs", OPERA, "--tile=64", "--unit=dB")
    assert (
        "OPERA_L2_RTC-S1_T137-292318-IW1" in message
        and "taken as dB, but values from" in message
        and "0% of them negative" in message
        and "use --unit=linear" in message
    )


@needs_shared_data
def test_opera_samples_with_swapped_names_are_refused(refusal, tmp_path):
    for path in OPERA.iterdir():
        other = {"VH": "VV", "VV": "VH"}[path.stem[-2:]]
        shutil.copy(path, tmp_path / f"{path.stem[:-2]}{other}.tif")
    assert "images), but is always below: the bands are swapped; correct their names" in refusal(
        "--inputs", tmp_path, "--tile=64"
    )


@pytest.mark.parametrize(
    "order, bands, arguments",
    [
        ([1, 0], ["Sigma0_VV", "Sigma0_VH"], []),
        ([1, 0], ["", ""], ["--bands=VV,VH", "--quantity=sigma0"]),
        ([0, 1, 1], ["VH", "VV", "angle"], ["--quantity=sigma0"]),
        ([0, 1, 1], ["", "", ""], ["--bands=VH,VV,angle", "--quantity=sigma0"]),
    ],
)
def test_bands_of_one_file_are_found(run_here, tmp_path, order, bands, arguments):
    values = scene_db()
    write_raster(tmp_path / "in" / "scene.tif", values[order], descriptions=bands)
    done = run_here(SCRIPT, "--inputs", tmp_path / "in", "--tile=96", "--out", tmp_path / "out", *arguments)
    assert done.returncode == 0, done.stderr
    record = records_of(tmp_path / "out")["scene_000000_000000"]
    np.testing.assert_array_equal(record["image"], values.astype(np.float16))
    assert open_records(tmp_path / "out", "train").contract.quantity == "sigma0"


def test_bands_that_are_not_known_or_wrong_are_refused(refusal, tmp_path):
    path = write_raster(tmp_path / "in" / "scene.tif", scene_db())
    fixed = ["--inputs", path, "--tile=96", "--quantity=sigma0"]
    assert "no VH is found" in refusal(*fixed)
    assert "the bands are swapped" in refusal(*fixed, "--bands=VV,VH")
    assert "has 2 bands, --bands names 3" in refusal(*fixed, "--bands=VV,VH,angle")
    lone = write_raster(tmp_path / "lone" / "scene_VV.tif", scene_db()[1])
    assert "no VH is found" in refusal("--inputs", lone, "--tile=96")
    write_raster(tmp_path / "lone" / "scene_VH.tif", scene_db(80)[0])
    assert "is on another grid than" in refusal("--inputs", lone.parent, "--tile=64")


def test_what_the_values_are_not_is_refused(refusal, tmp_path):
    def scene(name, values, **more):
        return ["--inputs", write_raster(tmp_path / name / "s.tif", values, descriptions=["VH", "VV"], **more)]

    power = 10 ** (scene_db() / 10)
    assert "taken as linear, but 100% of the values are negative" in refusal(
        *scene("a", scene_db()), "--tile=96", "--unit=linear", "--quantity=sigma0"
    )
    assert "is not linear power" in refusal(*scene("b", 1000 * np.sqrt(power)), "--tile=96")
    assert "not calibrated backscatter" in refusal(*scene("c", (power * 1000).astype(np.uint16)), "--tile=96")
    holes = scene_db()
    holes[:, :5] = -9999
    assert "neither linear power nor backscatter in dB; give --nodata" in refusal(*scene("d", holes), "--tile=96")
    assert "does not state whether it is sigma0 or gamma0" in refusal(*scene("e", power), "--tile=96")
    assert "is declared as gamma0 (tag PRODUCT), expected sigma0" in refusal(
        *scene("f", power, PRODUCT="Gamma0"), "--tile=96", "--quantity=sigma0"
    )
    assert "has 96x96 pixels, less than a tile of 128" in refusal(*scene("g", power), "--quantity=sigma0")
    assert "no file or folder" in refusal("--inputs", tmp_path / "nothing")
    assert "--overlap=128: give 0 to 127" in refusal(*scene("g", power), "--overlap=128")
    (tmp_path / "h" / "s.tif").parent.mkdir()
    (tmp_path / "h" / "s.tif").write_text("no raster")
    assert "h/s.tif cannot be opened" in refusal("--inputs", tmp_path / "h")


@pytest.mark.parametrize("hole, tag, arguments", [(np.nan, None, []), (-9999, -9999, []), (-7, None, ["--nodata=-7"])])
def test_nodata_is_masked_and_mostly_nodata_tiles_are_left_out(run_here, tmp_path, hole, tag, arguments):
    power = 10 ** (scene_db(128) / 10)
    power[0, :64, :64] = hole  # a tile without VH
    power[1, 64:80, :64] = hole  # a quarter of another
    path = write_raster(tmp_path / "gamma0_s.tif", power, descriptions=["VH", "VV"], nodata=tag)
    fixed = ["--inputs", path, "--tile=64", "--out", tmp_path / "out"]
    done = run_here(SCRIPT, *fixed, *arguments)
    assert done.returncode == 0, done.stderr
    assert "excluded 1 records: less than 50% valid pixels" in done.stdout
    records = records_of(tmp_path / "out")
    assert len(records) == 3
    record = records["gamma0_s_000064_000000"]
    assert record["valid_pixels"].mean() == 0.75 and not record["valid_pixels"][:16].any()
    assert np.isfinite(record["image"]).all()
    report = json.loads((tmp_path / "out" / "preparation.json").read_text())
    assert report["excluded"] == {"less than 50% valid pixels": 1} and report["scenes"] == 1


@pytest.mark.parametrize("zeros, valid", [("outside", 0.75), ("nodata", 0.5), ("floor", 1.0)])
def test_zeros_are_what_they_are_called(run_here, tmp_path, zeros, valid):
    power = 10 ** (scene_db(64) / 10)
    power[:, :16] = 0
    power[0, 16:32] = 0
    path = write_raster(tmp_path / "sigma0.tif", power, descriptions=["VH", "VV"])
    done = run_here(SCRIPT, "--inputs", path, "--tile=64", "--out", tmp_path / "out", f"--zeros={zeros}")
    assert done.returncode == 0, done.stderr
    (record,) = records_of(tmp_path / "out").values()
    assert record["valid_pixels"].mean() == valid
    assert (record["image"][0, 16:32] == -60).all() == (zeros != "nodata")


def test_labels_and_splits(run_here, refusal, tmp_path):
    for number in range(6):
        values = 10 ** (scene_db(64, number) / 10)
        write_raster(
            tmp_path / "in" / f"gamma0_{number}.tif", values, descriptions=["VH", "VV"], crs=f"EPSG:{32630 + number}"
        )
    labels = tmp_path / "labels.csv"
    labels.write_text("name,labels\ngamma0_0,water; ice\ngamma0_1_000000_000032,ice\n")
    fixed = ["--inputs", tmp_path / "in", "--tile=32", "--labels", labels]
    done = run_here(SCRIPT, *fixed, "--validation=0.5", "--out", tmp_path / "out")
    assert done.returncode == 0, done.stderr
    train, validation = (records_of(tmp_path / "out", split) for split in ("train", "validation"))
    assert len(train) + len(validation) == 24
    assert not {r["s1_name"] for r in train.values()} & {r["s1_name"] for r in validation.values()}
    records = train | validation
    assert open_records(tmp_path / "out", "train").contract.classes == ("ice", "water")
    assert all(list(records[f"gamma0_0_{row}_{row}"]["labels"]) == [1, 1] for row in ("000000", "000032"))
    assert list(records["gamma0_1_000000_000032"]["labels"]) == [1, 0]
    assert list(records["gamma0_1_000000_000000"]["labels"]) == [0, 0]
    labels.write_text("name,labels\ngamma0_9,water\n")
    assert "names gamma0_9, which is neither a scene nor a tile" in refusal(*fixed)
    labels.write_text("scene,labels\ngamma0_9,water\n")
    assert "it needs name and labels" in refusal(*fixed)
    labels.write_text(f"name,labels\ngamma0_0,{CLASSES[4]}\n")
    assert run_here(SCRIPT, *fixed, "--out", tmp_path / "b").returncode == 0
    assert open_records(tmp_path / "b", "train").contract.classes == CLASSES


def test_a_tenth_of_the_places_is_held_out_by_default(run_here, refusal, tmp_path):
    """Five places of two dates each, 15 tiles a date; then one of them alone."""
    for number in range(10):
        values, crs = 10 ** (scene_db(64, number) / 10), f"EPSG:{32630 + number % 5}"
        path = write_raster(tmp_path / "in" / f"gamma0_{number}.tif", values[:, :, :40], crs=crs)
        with rasterio.open(path, "r+") as file:
            file.descriptions = ("VH", "VV")
    fixed = ["--tile=16", "--overlap=4", "--min-valid=0"]
    done = run_here(SCRIPT, "--inputs", tmp_path / "in", *fixed, "--out", tmp_path / "out")
    assert done.returncode == 0 and done.stdout.startswith(f"wrote {tmp_path / 'out'}: train 120, validation 30\n")
    held_out = {record["s1_name"][-1] for record in records_of(tmp_path / "out", "validation").values()}
    first, second = sorted(map(int, held_out))
    assert second == first + 5
    alone = ["--inputs", tmp_path / "in" / "gamma0_3.tif", tmp_path / "in" / "gamma0_8.tif", *fixed]
    done = run_here(SCRIPT, *alone, "--out", tmp_path / "alone")
    assert done.stdout.startswith("no validation split: all scenes lie in one place, and neighbouring tiles are too ")
    assert open_records(tmp_path / "alone", "train").contract.records == {"train": 30}
    assert "--validation=0.1: all scenes lie in one place" in refusal(*alone, "--validation=0.1")
    assert "--validation=1: give a share of the places" in refusal(*alone, "--validation=1")


def test_damaged_scenes_stop_or_are_skipped_and_dry_runs_write_nothing(run_here, refusal, tmp_path):
    power = 10 ** (scene_db(64) / 10)
    write_raster(tmp_path / "in" / "gamma0_a.tif", power, descriptions=["VH", "VV"])
    (tmp_path / "in" / "gamma0_b.tif").write_text("no raster")
    fixed = ["--inputs", tmp_path / "in", "--tile=32"]
    assert "gamma0_b.tif cannot be opened" in refusal(*fixed)
    planned = run_here(SCRIPT, *fixed, "--out", tmp_path / "out", "--on-error=skip", "--dry-run")
    assert planned.returncode == 0 and "would write 4 records" in planned.stdout
    assert sorted(path.name for path in tmp_path.iterdir()) == ["in"]
    done = run_here(SCRIPT, *fixed, "--out", tmp_path / "out", "--on-error=skip")
    assert done.returncode == 0, done.stderr
    report = json.loads((tmp_path / "out" / "preparation.json").read_text())
    assert len(report["skipped scenes"]) == 1 and "gamma0_b.tif" in report["skipped scenes"][0]


def test_workers_change_no_byte(run_here, tmp_path):
    for number in range(3):
        values = 10 ** (scene_db(96, number) / 10)
        write_raster(tmp_path / "in" / f"gamma0_{number}.tif", values, descriptions=["VH", "VV"])
    fixed = ["--inputs", tmp_path / "in", "--tile=32", "--overlap=16", "--records-per-shard=10"]
    for workers in (1, 2):
        done = run_here(SCRIPT, *fixed, "--out", tmp_path / str(workers), f"--workers={workers}")
        assert done.returncode == 0, done.stderr
    names = sorted(path.name for path in (tmp_path / "1").iterdir())
    assert sum("array_record" in name for name in names) == 8
    for name in names:
        assert (tmp_path / "1" / name).read_bytes() == (tmp_path / "2" / name).read_bytes()
