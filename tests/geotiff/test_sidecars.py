"""Files beside a raster: what GDAL applies is applied, all else that changes the raster is named and refused."""

import os

import numpy as np
import pytest
import rasterio
from rasterio.errors import NotGeoreferencedWarning

from tests.data_prep.test_geotiff import scene_db, write_raster
from tests.geotiff.test_values import invalid, only_scene, refused, write_pair

WORLD = (10, 0, 0, -10, 600_005, 5_399_995)
"""Of the grid that `write_raster` writes: it places the centre of the first pixel."""


def aux(path, band="", dataset="", end=".tif.aux.xml"):
    sidecar = path.with_name(path.stem + end)
    sidecar.write_text(f'<PAMDataset>{dataset}<PAMRasterBand band="1">{band}</PAMRasterBand></PAMDataset>')
    return sidecar


@pytest.fixture
def pair(tmp_path):
    values = scene_db(32)
    values[0, 3, 4] = -9999
    return write_pair(tmp_path, values)


def test_metadata_of_gdal_is_applied(pair, tmp_path):
    plain = only_scene(tmp_path).read()
    aux(pair[0], "<NoDataValue>-9999</NoDataValue><Offset>3</Offset><Scale>0.5</Scale><UnitType>dB</UnitType>")
    scene = only_scene(tmp_path)
    assert scene.statements.units == {"dB": "unit of band 1"}
    assert invalid(tmp_path) == [[3, 4]]
    np.testing.assert_allclose(scene.read()[0, 10:], plain[0, 10:] * 0.5 + 3, rtol=1e-6)
    np.testing.assert_array_equal(scene.read()[1], plain[1])


def test_metadata_and_world_files_place_a_raster_that_has_no_place(tmp_path):
    values = scene_db(32)
    profile = {"driver": "GTiff", "width": 32, "height": 32, "count": 1, "dtype": "float32"}
    for n, band in enumerate(("VH", "VV")):
        with pytest.warns(NotGeoreferencedWarning), rasterio.open(tmp_path / f"s_{band}.tif", "w", **profile) as file:
            file.write(values[n], 1)
        (tmp_path / f"s_{band}.TFW").write_text("\n".join(map(str, WORLD)))
        aux(tmp_path / f"s_{band}.tif", dataset="<SRS>EPSG:32633</SRS>")
    scene = only_scene(tmp_path)
    assert scene.transform == (10, 0, 600_000, 0, -10, 5_400_000) and scene.crs == "EPSG:32633"


@pytest.mark.parametrize("end", [".tif.aux.xml", ".tif.msk", ".tfw", ".TFW", ".wld", ".prj"])
def test_links_and_what_cannot_be_read_are_refused(pair, tmp_path, end):
    sidecar = pair[1].with_name(pair[1].stem + end)
    (tmp_path.parent / "elsewhere").write_text("")
    sidecar.symlink_to(tmp_path.parent / "elsewhere")
    assert f"{sidecar} is a link, or not a file that can be read" in refused(tmp_path)
    sidecar.unlink()
    sidecar.mkdir()
    assert f"{sidecar} is a link, or not a file that can be read" in refused(tmp_path)
    sidecar.rmdir()
    os.mkfifo(sidecar)
    assert f"{sidecar} is a link, or not a file that can be read" in refused(tmp_path)


@pytest.mark.parametrize("end", [".aux.xml", ".msk", ".tab", ".aux", ".tif.aux"])
def test_kinds_that_are_not_read_are_refused(pair, tmp_path, end):
    sidecar = pair[0].with_name(pair[0].stem + end)
    sidecar.write_text("")
    assert f"{sidecar} lies beside s_gamma0_VH.tif and is not read" in refused(tmp_path)


@pytest.mark.parametrize(
    "band, dataset, reason",
    [
        ("<NoDataValue>-7</NoDataValue>", "", "nodatavals -7.0 contradicts -5.0 of s_gamma0_VH.tif"),
        ("", "<SRS>EPSG:32632</SRS>", "crs EPSG:32632 contradicts EPSG:32633"),
        ("", "<GeoTransform>0,10,0,0,0,-10</GeoTransform>", "transform"),
        ("<Scale>2</Scale>", "", "scales 2.0 contradicts 0.5"),
    ],
)
def test_metadata_that_contradicts_the_raster_is_refused(tmp_path, band, dataset, reason):
    (path, _) = write_pair(tmp_path, scene_db(32), nodata=-5)
    with rasterio.open(path, "r+") as file:
        file.scales = (0.5,)
    aux(path, band, dataset)
    assert reason in refused(tmp_path)


@pytest.mark.parametrize("end", [".msk", ".MSK"])
@pytest.mark.parametrize("flags, applied", [("0", True), ("2", True), (None, False)])
def test_masks_beside_a_raster_of_one_band_or_all(pair, tmp_path, end, flags, applied):
    """GDAL passes over masks that do not state of what they are."""
    mask = np.full((32, 32), 255, np.uint8)
    mask[6, 7] = 0
    tags = {} if flags is None else {"INTERNAL_MASK_FLAGS_1": flags}
    write_raster(tmp_path.parent / "mask.tif", mask, **tags).rename(tmp_path / f"s_gamma0_VH.tif{end}")
    if applied:
        assert invalid(tmp_path) == [[6, 7]]
    else:
        assert "is not a mask of s_gamma0_VH.tif that GDAL can read" in refused(tmp_path)


def test_a_damaged_mask_and_metadata_in_capitals_are_refused(pair, tmp_path):
    (tmp_path / "s_gamma0_VH.tif.msk").write_text("broken")
    assert "s_gamma0_VH.tif.msk is not a mask of" in refused(tmp_path)
    (tmp_path / "s_gamma0_VH.tif.msk").unlink()
    sidecar = aux(pair[0], "<NoDataValue>-5</NoDataValue>", end=".tif.AUX.XML")
    assert f"{sidecar} lies beside s_gamma0_VH.tif and is not read" in refused(tmp_path)


BAD_NUMBER = "<PAMDataset><PAMRasterBand band='1'><NoDataValue>none</NoDataValue></PAMRasterBand></PAMDataset>"


@pytest.mark.parametrize("text", ["", "<PAMDataset>", "no metadata", "<Other/>", BAD_NUMBER])
def test_damaged_metadata_is_refused(pair, tmp_path, text):
    sidecar = pair[0].with_name("s_gamma0_VH.tif.aux.xml")
    sidecar.write_text(text)
    assert str(sidecar) in refused(tmp_path)


@pytest.mark.parametrize(
    "numbers, reason",
    [
        ((10, 0, 0, -10, 600_015, 5_399_995), "places the raster elsewhere"),
        ((10, 0, 0, 10, 600_005, 5_399_995), "places the raster elsewhere"),
        ((20, 0, 0, -20, 600_010, 5_399_990), "places the raster elsewhere"),
        ((10, 0, 0, -10, 600_005), "is not a world file of six numbers"),
        (("a",) * 6, "is not a world file of six numbers"),
    ],
)
def test_world_files_that_gdal_would_pass_over_are_refused(pair, tmp_path, numbers, reason):
    world = pair[0].with_suffix(".tfw")
    world.write_text("\n".join(map(str, WORLD)))
    only_scene(tmp_path)
    world.write_text("\n".join(map(str, numbers)))
    assert f"{world} " in refused(tmp_path) and reason in refused(tmp_path)


def test_reference_systems_beside_a_raster_are_compared(pair, tmp_path):
    beside = pair[0].with_suffix(".prj")
    beside.write_text(rasterio.crs.CRS.from_epsg(32633).to_wkt(version="WKT1_ESRI"))
    only_scene(tmp_path)
    for text in (rasterio.crs.CRS.from_epsg(32632).to_wkt(), "no system"):
        beside.write_text(text)
        assert f"{beside} has another reference system" in refused(tmp_path)


def test_a_second_mask_is_refused_and_harmless_files_are_not(pair, tmp_path):
    mask = np.full((32, 32), 255, np.uint8)
    with rasterio.Env(TIFF_USE_OVR=True), rasterio.open(pair[1], "r+") as file:
        file.build_overviews([2])
    assert (tmp_path / "s_gamma0_VV.tif.ovr").is_file()
    for name in (pair[0].stem + ".xml", "readme.txt", pair[0].name + ".json"):
        (tmp_path / name).write_text("")
    aside, kept = tmp_path / "s_gamma0_VH.tif.msk", tmp_path.parent / "kept.msk"
    for internal in (False, True):
        with rasterio.Env(GDAL_TIFF_INTERNAL_MASK=internal), rasterio.open(pair[0], "r+") as file:
            file.write_mask(mask)
        only_scene(tmp_path)
        if not internal:
            aside.rename(kept)
    kept.rename(aside)
    assert "s_gamma0_VH.tif.msk is a second mask of s_gamma0_VH.tif" in refused(tmp_path)


def test_side_cars_of_the_file_behind_a_link_are_not_lost(tmp_path):
    paths = write_pair(tmp_path / "real", scene_db(32))
    (tmp_path / "in").mkdir()
    for path in paths:
        (tmp_path / "in" / path.name).symlink_to(path)
    only_scene(tmp_path / "in")
    sidecar = aux(paths[1], "<NoDataValue>-5</NoDataValue>")
    assert f"{sidecar} belongs to {paths[1]}, but is not beside its link" in refused(tmp_path / "in")


def test_two_bands_of_one_file_are_compared_band_by_band(tmp_path):
    path = write_raster(tmp_path / "s.tif", scene_db(32), descriptions=["VH", "VV"])
    aux(path, "<Description>VV</Description>")
    assert "descriptions VV contradicts VH of s.tif" in refused(tmp_path)
