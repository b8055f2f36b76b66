"""Inputs of `--inputs`: which are found, and which are refused."""

import os
import subprocess

import numpy as np
import pytest
import rasterio
from rasterio.control import GroundControlPoint
from rasterio.errors import NotGeoreferencedWarning

from sarwmix_jax.data.records import read_contract

from .conftest import ENVIRONMENT, command_line
from .test_geotiff import SCRIPT, records_of, scene_db, write_raster


def pair(folder, name="gamma0", **more):
    return [
        write_raster(folder / f"{name}_{band}.tif", v, **more)
        for band, v in zip(("VH", "VV"), scene_db(64), strict=True)
    ]


@pytest.mark.parametrize("kind", ["nothing", "ground control points", "a system alone"])
def test_scenes_without_georeference_are_refused(run_here, refusal, tmp_path, kind):
    pair(tmp_path / "in", "gamma0_a")
    for path in pair(tmp_path / "in", "gamma0_b"):
        with rasterio.open(path) as file:
            values = file.read()
        crs = "EPSG:32633" if kind == "a system alone" else None
        profile = {"driver": "GTiff", "count": 1, "height": 64, "width": 64, "dtype": "float32", "crs": crs}
        with pytest.warns(NotGeoreferencedWarning), rasterio.open(path, "w", **profile) as file:
            file.write(values)
            if kind == "ground control points":
                points = [GroundControlPoint(r, c, 10 + c, 50 - r) for r in (0, 63) for c in (0, 63)]
                file.gcps = (points, rasterio.crs.CRS.from_epsg(4326))
    message = refusal("--inputs", tmp_path / "in", "--tile=64")
    assert "gamma0_b_VH.tif has no " in message and "gdalwarp -t_srs EPSG:326xx" in message
    assert ("only ground control points" in message) == (kind == "ground control points")
    assert ("has no transform" in message) == (kind == "a system alone")
    done = run_here(SCRIPT, "--inputs", tmp_path / "in", "--tile=64", "--on-error=skip", "--out", tmp_path / "out")
    assert done.returncode == 0, done.stderr
    assert [record["s1_name"] for record in records_of(tmp_path / "out").values()] == ["gamma0_a"]


def test_names_that_are_not_utf8_are_one_line_that_shows_their_bytes(run_here, refusal, tmp_path):
    folder = tmp_path / "in"
    for path in pair(folder, "gamma0_b"):
        os.rename(path, os.fsencode(folder) + b"/Z\xfcrich_" + path.name.encode())  # noqa: PTH104
    refused = refusal("--inputs", folder, "--tile=64")
    assert r"Z\xfcrich_gamma0_b_VH.tif has bytes that are not UTF-8" in refused
    pair(folder, "gamma0_a")
    assert r"(2 such; leave them out with --on-error=skip)" in refusal("--inputs", folder, "--tile=64")
    done = run_here(SCRIPT, "--inputs", folder, "--tile=64", "--on-error=skip", "--out", tmp_path / "out")
    assert done.returncode == 0, done.stderr
    assert "skipped 2 scenes, files or folders" in done.stdout
    assert done.stdout.count(r"Z\xfcrich_gamma0_b_V") == 2
    report = (tmp_path / "out" / "preparation.json").read_text()
    assert report.count(r"Z\\xfcrich_gamma0_b_V") == 2
    given = os.fsdecode(os.fsencode(folder) + b"/Z\xfcrich_gamma0_b_VH.tif")
    assert r"argument" in refusal("--inputs", given) and r"Z\xfcrich" in refusal("--inputs", given)
    pair(tmp_path / "coloured", "gamma0_\x1b[31m")
    assert r"gamma0_\x1b[31m_VH.tif has " in refusal("--inputs", tmp_path / "coloured", "--tile=64")


def test_linked_folders_are_read_and_cycles_are_reported(run_here, refusal, tmp_path):
    pair(tmp_path / "elsewhere", "gamma0_a")
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "link").symlink_to(tmp_path / "elsewhere")
    done = run_here(SCRIPT, "--inputs", tmp_path / "in", "--tile=64", "--out", tmp_path / "out")
    assert done.returncode == 0, done.stderr
    (record,) = records_of(tmp_path / "out").values()
    assert record["s1_name"] == "link/gamma0_a"
    np.testing.assert_array_equal(record["image"], scene_db(64).astype(np.float16))
    (tmp_path / "elsewhere" / "back").symlink_to(tmp_path / "in")
    assert "back is " in refusal("--inputs", tmp_path / "in", "--tile=64")


def test_options_without_effect_are_refused(run_here, refusal, tmp_path):
    pair(tmp_path / "in", "gamma0_a")
    fixed = ["--inputs", tmp_path / "in", "--tile=48"]
    assert "--bands=VV,VH,ANGLE does not fit: every file has one band" in refusal(*fixed, "--bands=vv,vh,angle")
    done = run_here(SCRIPT, *fixed, "--bands=vv,vh", "--dry-run", "--out", tmp_path / "agreeing")
    assert done.returncode == 0, done.stderr
    assert "--nodata=nan: NaN is always nodata" in refusal(*fixed, "--nodata=nan")
    assert "--overlap=31: no scene has room for a second tile of 48" in refusal(*fixed, "--overlap=31")
    assert "--validation=0.5: all scenes lie in one place" in refusal(*fixed, "--validation=0.5")
    assert "--validation=1: give a share of the places from 0 to below 1" in refusal(*fixed, "--validation=1")
    assert "--validation=-0.1: give a share of the places" in refusal(*fixed, "--validation=-0.1")
    assert "--min-valid=50.0: a share is 0 to 1" in refusal(*fixed, "--min-valid=50")
    assert "--min-valid=nan: a share is 0 to 1" in refusal(*fixed, "--min-valid=nan")
    write_raster(tmp_path / "both" / "gamma0.tif", scene_db(64), descriptions=["VH", "VV"])
    command = ["--inputs", tmp_path / "both", tmp_path / "in", "--tile=64", "--bands=VH,VV"]
    done = run_here(SCRIPT, *command, "--out", tmp_path / "mixed")
    assert done.returncode == 0 and len(records_of(tmp_path / "mixed")) == 2, done.stderr


def test_lists_of_labels_are_utf8_and_give_labels(run_here, refusal, tmp_path):
    pair(tmp_path / "in", "gamma0_a")
    labels = tmp_path / "labels.csv"
    fixed = ["--inputs", tmp_path / "in", "--tile=48", "--labels", labels]
    for text, reason in (("name,labels\n", "has no rows"), ("name,labels\ngamma0_a,\n", "gives no label to any")):
        labels.write_text(text)
        assert reason in refusal(*fixed)
    labels.write_bytes("name,labels\ngamma0_a,Stra\u00dfe\n".encode("latin-1"))
    assert "labels.csv is not UTF-8 (byte 25 is 0xdf)" in refusal(*fixed)
    labels.write_text("\ufeffname,labels\ngamma0_a,Stra\u00dfe", encoding="utf-8")
    done = run_here(SCRIPT, *fixed, "--overlap=32", "--nodata=-9999", "--out", tmp_path / "out")
    assert done.returncode == 0, done.stderr
    records = records_of(tmp_path / "out")
    assert len(records) == 4  # 64 - 48 = 16 = 48 - 32: two tiles in each direction
    assert all(list(record["labels"]) == [1] for record in records.values())
    assert read_contract(tmp_path / "out").classes == ("Stra\u00dfe",)


def test_a_terminal_that_cannot_show_a_name_stops_nothing(tmp_path):
    pair(tmp_path / "in", "gamma0_Gda\u0144sk")
    options = ["--inputs", tmp_path / "in", "--tile=64", "--out", tmp_path / "\u0144"]
    environment = ENVIRONMENT | {"PYTHONIOENCODING": "ascii"}
    done = subprocess.run(command_line(SCRIPT, *options), capture_output=True, text=True, env=environment, check=False)
    assert done.returncode == 0, done.stderr
    assert f"wrote {tmp_path}/\\u0144: train 1" in done.stdout
    assert [record["s1_name"] for record in records_of(tmp_path / "\u0144").values()] == ["gamma0_Gda\u0144sk"]
