"""Validity from every source that files have, and values that are not backscatter: refused with their place."""

import numpy as np
import pytest
import rasterio
from rasterio.enums import ColorInterp

from sarwmix_jax.data.records import RecordError
from sarwmix_jax.geotiff.scenes import find_scenes
from sarwmix_jax.geotiff.tiles import TileGrid
from sarwmix_jax.geotiff.units import find_quantity, find_unit
from sarwmix_jax.geotiff.values import holds
from sarwmix_jax.preparation.to_db import read_tile
from tests.data_prep.test_geotiff import scene_db, write_raster

FLOAT32_MINIMUM = float(np.finfo(np.float32).min)


def write_pair(folder, values, *, name="s_gamma0", **more):
    """One file a polarisation."""
    return [write_raster(folder / f"{name}_{band}.tif", values[n], **more) for n, band in enumerate(("VH", "VV"))]


def only_scene(folder, **more):
    ((scene,), problems) = find_scenes([folder], **more)
    assert not problems
    return scene


def refused(folder, **more) -> str:
    scenes, problems = find_scenes([folder], **more)
    assert not scenes
    return problems[0][1]


def invalid(folder, **more) -> list[list[int]]:
    return np.argwhere(np.isnan(only_scene(folder, **more).read()).any(axis=0)).tolist()


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("value", [-9999.9, FLOAT32_MINIMUM, 1e-6, -1e20, np.inf, 0.1])
def test_nodata_is_compared_in_the_type_of_the_file(tmp_path, dtype, value):
    values = scene_db(32).astype(dtype)
    values[0, 3, 4], values[1, 5, 6] = value, value
    write_pair(tmp_path / "tag", values, nodata=value)
    assert invalid(tmp_path / "tag") == [[3, 4], [5, 6]]
    write_pair(tmp_path / "option", values, nodata=-7.0)
    assert invalid(tmp_path / "option", nodata=value) == [[3, 4], [5, 6]]
    write_pair(tmp_path / "netcdf", values, **{"VH#_FillValue": repr(value)})
    assert invalid(tmp_path / "netcdf") == [[3, 4], [5, 6]]


def test_nodata_that_a_type_cannot_hold_marks_nothing():
    stored = np.array([-32768, -1, 0, 255], np.int16)
    assert not any(holds(stored, value).any() for value in (np.inf, np.nan, 0.5, 99999.0, -3.4e38))
    assert holds(stored, -32768.0).tolist() == [True, False, False, False]
    assert holds(np.array([255, 0], np.uint8), -1.0).tolist() == [False, False]
    assert holds(np.array([-np.inf, 1], np.float32), -1.7e308).tolist() == [True, False]


def test_tag_option_and_nan_count_together(tmp_path):
    values = scene_db(32)
    values[0, 1, 1], values[1, 2, 2], values[0, 3, 3] = -9999, -8888, np.nan
    write_pair(tmp_path, values, nodata=-9999)
    assert invalid(tmp_path, nodata=-8888.0) == [[1, 1], [2, 2], [3, 3]]


@pytest.mark.parametrize("internal", [True, False])
@pytest.mark.parametrize("nodata", [None, -9999])
def test_masks_of_gdal(tmp_path, monkeypatch, internal, nodata):
    """GDAL gives a mask the place of nodata: both count here. The environment cannot switch side-cars off."""
    values = scene_db(32)
    values[:, 0, 0] = -9999 if nodata else -10
    for path, hole in zip(write_pair(tmp_path, values, nodata=nodata), ((2, 3), (4, 5)), strict=True):
        mask = np.full((32, 32), 255, np.uint8)
        mask[hole] = 0
        with rasterio.Env(GDAL_TIFF_INTERNAL_MASK=internal), rasterio.open(path, "r+") as file:
            file.write_mask(mask)
        assert path.with_name(path.name + ".msk").exists() != internal
    monkeypatch.setenv("GDAL_DISABLE_READDIR_ON_OPEN", "EMPTY_DIR")
    monkeypatch.setenv("GDAL_PAM_ENABLED", "NO")
    assert invalid(tmp_path) == ([[0, 0]] if nodata else []) + [[2, 3], [4, 5]]


@pytest.mark.parametrize("dtype, on", [("float32", 1), ("float32", 255), ("float64", 0.5)])
def test_alpha_bands_also_where_gdal_passes_over_them(tmp_path, dtype, on):
    alpha = np.full((32, 32), on, dtype)
    alpha[7, 8] = 0
    profile = {"driver": "GTiff", "width": 32, "height": 32, "count": 3, "dtype": dtype, "nodata": -9999}
    profile |= {"crs": "EPSG:32633", "transform": rasterio.Affine(10, 0, 0, 0, -10, 0)}
    with rasterio.open(tmp_path / "sigma0.tif", "w", **profile) as file:
        file.colorinterp = (ColorInterp.gray, ColorInterp.undefined, ColorInterp.alpha)
        file.write(np.stack([*scene_db(32), alpha]))
        file.descriptions = ("VH", "VV", None)
    assert invalid(tmp_path) == [[7, 8]]


@pytest.mark.parametrize("name", ["dataMask", "DATA_MASK", "valid", "validity mask"])
def test_mask_bands_by_their_names(tmp_path, name):
    mask = np.ones((32, 32), np.float32)
    mask[7, 8] = 0
    write_raster(tmp_path / "sigma0.tif", np.stack([*scene_db(32), mask]), descriptions=["VH", "VV", name])
    assert invalid(tmp_path) == [[7, 8]]


def test_mask_bands_that_may_mean_either_are_refused(tmp_path):
    bands = np.stack([*scene_db(32), np.ones((32, 32), np.float32)])
    for name in ("mask", "cloud_mask", "layover shadow mask", "noData"):
        write_raster(tmp_path / "sigma0.tif", bands, descriptions=["VH", "VV", name])
        assert f"band 3 is called {name}, which may mean either" in refused(tmp_path)
    write_raster(tmp_path / "sigma0.tif", bands)
    assert "band 3 is called MASK" in refused(tmp_path, order=["VH", "VV", "MASK"])
    assert invalid(tmp_path, order=["VH", "VV", "DATAMASK"]) == []
    bands[2, 3, 3] = 2
    write_raster(tmp_path / "sigma0.tif", bands, descriptions=["VH", "VV", "dataMask"])
    with pytest.raises(RecordError, match="holds other values than 0 and 1"):
        only_scene(tmp_path).read()


@pytest.mark.parametrize("dtype", [np.int16, np.uint16, np.int32, np.float32, np.float64])
def test_scale_and_offset_are_applied(tmp_path, dtype):
    stored = np.round((scene_db(32) + 60) * 100).astype(dtype)
    for path in write_pair(tmp_path, stored, name="sigma0_db", nodata=1):
        with rasterio.open(path, "r+") as file:
            file.scales, file.offsets = (0.01,), (-60.0,)
    scene = only_scene(tmp_path)
    np.testing.assert_allclose(scene.read(), stored.astype(np.float64) / 100 - 60, atol=2e-5)
    assert find_unit(scene, None) == "dB"


@pytest.mark.parametrize(
    "dtype, fill", [(np.int16, -9999), (np.int16, -32768), (np.uint16, 65535), (np.float32, -9999)]
)
def test_fill_that_its_scale_makes_plausible_is_refused(tmp_path, dtype, fill):
    offset = -60.0 if dtype == np.uint16 else 0.0
    stored = np.round((scene_db(32) - offset) * 100).astype(dtype)
    stored[1, 9, 8] = fill
    for path in write_pair(tmp_path, stored, name="sigma0_db"):
        with rasterio.open(path, "r+") as file:
            file.scales, file.offsets = (0.001,), (offset,)
    place = rf"sigma0_db_VV.tif: {fill} at row 9, column 8 \(VV\).*give --nodata={fill}"
    with pytest.raises(RecordError, match=place):
        only_scene(tmp_path).read(rasterio.windows.Window(4, 5, 16, 16))
    assert invalid(tmp_path, nodata=float(fill)) == [[9, 8]]


def test_scales_that_cannot_be_applied_are_refused(tmp_path):
    (path, _) = write_pair(tmp_path, scene_db(32))
    with rasterio.open(path, "r+") as file:
        file.scales = (0.0,)
    assert "scale 0.0 and offset 0.0 of band 1 cannot be applied" in refused(tmp_path)
    for tag, text in {"scale_factor": "0.01", "VH#add_offset": "-3", "SCALE": "100", "offset": "5"}.items():
        write_pair(tmp_path, scene_db(32), **{tag: text})
        assert f"tag {tag}={text} is not applied" in refused(tmp_path)
    write_pair(tmp_path, scene_db(32), scale_factor="1.0", OFFSET="0", scale="decibel")
    assert only_scene(tmp_path).statements.units == {"dB": "tag scale"}
    write_pair(tmp_path, scene_db(32), _FillValue="none")
    assert "tag _FillValue=none is not a number" in refused(tmp_path)
    write_pair(tmp_path, np.int16(scene_db(32)))
    with pytest.raises(RecordError, match="holds int16: not calibrated backscatter"):
        only_scene(tmp_path).read()


STRIP = (100, 110)
"""Rows between the windows that are looked at first, in a scene of 400."""


def tile_of(folder, unit, row, side=80, **more):
    scene = only_scene(folder, **more)
    assert find_unit(scene, unit) == unit  # whose samples do not see the strip
    assert find_quantity([scene], None) == "gamma0"
    units = {scene.name: (scene, unit)}
    return read_tile(
        units, TileGrid(side), 0.5, {"s1_name": scene.name, "row": row, "column": 0, "labels": []} | {"patch_id": "p"}
    )


@pytest.mark.parametrize("unit", ["dB", "linear"])
@pytest.mark.parametrize("fill", [-9999.0, FLOAT32_MINIMUM, -200.5, -np.inf, np.inf, 1.5e6])
def test_fill_between_the_samples_is_refused_with_its_place(tmp_path, unit, fill):
    values = scene_db(400) if unit == "dB" else 10 ** (scene_db(400) / 10)
    values[1, slice(*STRIP)] = fill
    write_pair(tmp_path, values)
    place = rf"s_gamma0_VV.tif: {f'{fill:.9g}'.replace('+', '.')} at row 100, column 0 \(VV\): such values are not .*"
    with pytest.raises(RecordError, match=place + rf"give --nodata={f'{fill:.9g}'.replace('+', '.')} "):
        tile_of(tmp_path, unit, 80)
    record = tile_of(tmp_path, unit, 80, nodata=float(f"{fill:.9g}"))
    assert np.argwhere(~record.valid_pixels.all(axis=1)).ravel().tolist() == list(range(20, 30))
    assert tile_of(tmp_path, unit, 160).valid_pixels.all()


@pytest.mark.parametrize("unit, kept", [("dB", (-199.9, 59.9)), ("linear", (-0.05, 9.9e5)), ("linear", (-1e-3, 0.0))])
def test_what_is_inside_the_range_is_kept(tmp_path, unit, kept):
    values = scene_db(400) if unit == "dB" else 10 ** (scene_db(400) / 10)
    values[0, 100, 0], values[1, 100, 1] = kept
    write_pair(tmp_path, values)
    record = tile_of(tmp_path, unit, 80)
    assert record.valid_pixels.all()
    expected = kept if unit == "dB" else [-60 if value < 1e-6 else 10 * np.log10(value) for value in kept]
    np.testing.assert_allclose([record.image[0, 20, 0], record.image[1, 20, 1]], expected, rtol=1e-5)


def test_power_just_below_the_range_is_refused_and_hidden_pixels_are_not_looked_at(tmp_path):
    values = 10 ** (scene_db(400) / 10)
    values[0, 101, 7] = -0.0501
    write_pair(tmp_path, values)
    with pytest.raises(
        RecordError, match=r"-0.0500999987 at row 101, column 7 \(VH\): such values are not linear power"
    ):
        tile_of(tmp_path, "linear", 80)
    values[1, 101, 7] = np.nan
    write_pair(tmp_path, values)
    assert np.argwhere(~tile_of(tmp_path, "linear", 80).valid_pixels).tolist() == [[21, 7]]


@pytest.mark.parametrize("unit", ["dB", "linear"])
def test_the_unit_of_a_scene_that_is_valid_only_between_the_samples(tmp_path, unit):
    values = np.full((2, 400, 400), np.nan, np.float32)
    part_db = scene_db(30)
    values[:, 75:105, 75:105] = part_db if unit == "dB" else 10 ** (part_db / 10)
    write_pair(tmp_path, values)
    assert find_unit(only_scene(tmp_path), None) == unit
    with pytest.raises(RecordError, match=r"dB, not linear power|linear power, not dB"):
        find_unit(only_scene(tmp_path), {"dB": "linear", "linear": "dB"}[unit])
