"""Files called .tif that are something else: refused in one line, before anything else is opened or much allocated."""

import http.server
import os
import struct
import threading
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
import rasterio

from sarwmix_jax.data.records import RecordError
from sarwmix_jax.geotiff.files import find_files
from sarwmix_jax.geotiff.opening import open_geotiff
from sarwmix_jax.geotiff.patches import read_band
from sarwmix_jax.geotiff.scenes import find_scenes
from sarwmix_jax.geotiff.warp import grid_of

VALUES = np.arange(12, dtype=np.float32).reshape(3, 4) - 20
GRID = {"crs": "EPSG:32633", "transform": rasterio.Affine(10, 0, 600_000, 0, -10, 5_400_000)}


def write(path, values=VALUES, **more):
    profile = {"driver": "GTiff", "count": 1, "height": values.shape[0], "width": values.shape[1]} | GRID | more
    path.parent.mkdir(parents=True, exist_ok=True)
    with rasterio.open(path, "w", dtype=values.dtype, **profile) as file:
        file.write(values, 1)
    return path


def sparse(path, height, width, **more):
    """A file that claims this size and holds nothing."""
    profile = {"driver": "GTiff", "count": 1, "height": height, "width": width, "dtype": "float32"} | GRID | more
    with rasterio.open(path, "w", SPARSE_OK=True, BIGTIFF="YES", **profile):
        pass
    return path


@pytest.fixture
def asked():
    """An HTTP server, and what it was asked for."""
    paths = []

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            paths.append(self.path)
            self.send_error(404)

        do_HEAD = do_GET

        def log_message(self, *_):
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"127.0.0.1:{server.server_port}", paths
    server.shutdown()
    server.server_close()


VRT = """<VRTDataset rasterXSize="4" rasterYSize="3"><SRS>EPSG:32633</SRS>
<GeoTransform>600000, 10, 0, 5400000, 0, -10</GeoTransform><VRTRasterBand dataType="Float32" band="1"><SimpleSource>
<SourceFilename>{}</SourceFilename><SourceBand>1</SourceBand></SimpleSource></VRTRasterBand></VRTDataset>"""
WMS = """<GDAL_WMS><Service name="TMS"><ServerUrl>http://{}/${{z}}</ServerUrl></Service><DataWindow><UpperLeftX>0
</UpperLeftX><UpperLeftY>0</UpperLeftY><LowerRightX>4</LowerRightX><LowerRightY>4</LowerRightY><SizeX>4</SizeX><SizeY>4
</SizeY></DataWindow><BandsCount>1</BandsCount></GDAL_WMS>"""


@pytest.mark.parametrize("kind", ["file", "web", "wms"])
def test_files_that_point_elsewhere_are_not_followed_at_any_door(asked, tmp_path, kind):
    server, paths = asked
    other = write(tmp_path / "other" / "secret.tif")
    place = {"file": other, "web": f"/vsicurl/http://{server}/x.tif"}.get(kind)
    text = WMS.format(server) if kind == "wms" else VRT.format(place)
    bait = tmp_path / "in" / "sigma0_VH.tif"
    bait.parent.mkdir()
    bait.write_text(text)
    if kind == "file":
        with rasterio.open(bait) as file:  # the bait is one: GDAL left alone follows it
            np.testing.assert_array_equal(file.read(1), VALUES)
    doors = {
        "inputs": lambda: open_geotiff(bait),
        "patches": lambda: read_band(bait.parent, Path(bait.name), VALUES.shape),
        "zip or folder of SEN12-FLOOD": lambda: grid_of(bait.read_bytes(), bait.name),
    }
    for name, door in doors.items():
        with pytest.raises(RecordError, match=r"sigma0_VH\.tif .*damaged"):
            pytest.fail(f"{name}: {door()}")
    scenes, problems = find_scenes([bait.parent])
    assert not scenes and len(problems) == 1
    assert not paths


def test_names_that_gdal_takes_for_places_elsewhere_are_names_of_files(asked, monkeypatch, tmp_path):
    server, paths = asked
    monkeypatch.chdir(tmp_path)
    for name in (f"/vsicurl/http://{server}/x.tif", "GTIFF_DIR:1:a.tif", f"zip+http:/{server}/x.tif"):
        with pytest.raises(RecordError, match="is missing"):
            open_geotiff(Path(name))
    assert not paths
    write(tmp_path / "a.tif")
    write(tmp_path / "b.tif", VALUES + 100).rename("GTIFF_DIR:1:a.tif")
    with open_geotiff(Path("GTIFF_DIR:1:a.tif")) as file:
        np.testing.assert_array_equal(file.read(1), VALUES + 100)
    write(tmp_path / "in" / "c.tif").with_name("zip+http:").mkdir()
    (tmp_path / "in" / "c.tif").rename(tmp_path / "in" / "zip+http:" / "c.tif")
    monkeypatch.chdir(tmp_path / "in")
    with open_geotiff(Path("zip+http:/c.tif")) as file:
        np.testing.assert_array_equal(file.read(1), VALUES)


@pytest.mark.parametrize("suffix", [".msk", ".MSK"])
def test_masks_beside_the_file_are_tiffs(tmp_path, suffix):
    path = write(tmp_path / "a.tif")
    companion = tmp_path / f"a.tif{suffix}"
    companion.write_text(VRT.format(tmp_path / "a.tif"))
    with pytest.raises(RecordError, match=rf"a\.tif\{suffix} is not a mask of a\.tif: it is not a TIFF"):
        open_geotiff(path)
    companion.unlink()
    with rasterio.Env(GDAL_TIFF_INTERNAL_MASK=False), rasterio.open(path, "r+") as file:
        file.write_mask(np.full(VALUES.shape, 255, np.uint8))
    assert (tmp_path / "a.tif.msk").is_file()
    open_geotiff(path).close()
    os.mkfifo(tmp_path / "a.tif.aux.xml")
    with pytest.raises(RecordError, match=r"a\.tif\.aux\.xml is not a regular file"):
        open_geotiff(path)


def test_complex_scenes_are_opened_and_refused_as_not_calibrated(tmp_path):
    for band in ("VH", "VV"):
        sparse(tmp_path / f"a_{band}.tif", 3, 4, dtype="complex_int16")
    (scene,), problems = find_scenes([tmp_path])
    assert not problems
    with pytest.raises(RecordError, match="not calibrated backscatter"):
        scene.read()
    with pytest.raises(RecordError, match=r"holds complex_int16 \(3, 4\), expected float32"):
        read_band(tmp_path, Path("a_VH.tif"), (3, 4))


@pytest.mark.parametrize("kind", ["pipe", "device", "folder", "link to nothing"])
def test_what_is_no_regular_file_is_refused_without_waiting(tmp_path, kind):
    path = tmp_path / "sigma0_VH.tif"
    match kind:
        case "pipe":
            os.mkfifo(path)
        case "device":
            path.symlink_to("/dev/zero")
        case "folder":
            path.mkdir()
        case "link to nothing":
            path.symlink_to(tmp_path / "nothing.tif")
    with pytest.raises(RecordError, match="is missing" if "link" in kind else "is not a regular file"):
        open_geotiff(path)
    with pytest.raises(RecordError, match="is missing" if "link" in kind else "is not a regular file"):
        read_band(tmp_path, Path(path.name), VALUES.shape)


HEAD = b"II*\0\x08\0\0\0"
EMPTY = {
    "nothing": b"",
    "a head": HEAD,
    "no directory": HEAD + struct.pack("<H", 0) + b"\0\0\0\0",
    "a directory without image": HEAD + struct.pack("<HHHII", 1, 256, 4, 1, 10) + b"\0\0\0\0",
}


@pytest.mark.parametrize("kind", EMPTY)
def test_empty_tiffs_are_one_line(tmp_path, kind):
    path = tmp_path / "x.tif"
    path.write_bytes(EMPTY[kind])
    for door in (
        lambda: open_geotiff(path),
        lambda: read_band(tmp_path, Path("x.tif"), (1, 10)),
        lambda: grid_of(EMPTY[kind], "x.tif"),
    ):
        with pytest.raises(RecordError, match=r"^[^\n]*x\.tif [^\n]*$"):
            door()


def test_giants_are_refused_from_their_headers(tmp_path):
    tiled = {"tiled": True, "blockxsize": 4096, "blockysize": 4096}
    giants = {
        "all but empty": sparse(tmp_path / "a.tif", 100_000, 100_000, **tiled),
        "more than 17,179,869,184 pixels": sparse(tmp_path / "b.tif", 2**18, 2**17, **tiled),
        "blocks of 1.5 GiB": sparse(tmp_path / "c.tif", 20_000, 20_000, compress="deflate", blockysize=20_000),
    }
    with (tmp_path / "c.tif").open("ab") as file:  # large enough for what it claims: the block alone is too large
        file.truncate(2_000_000)
    tracemalloc.start()
    for reason, path in giants.items():
        with pytest.raises(RecordError, match=reason):
            open_geotiff(path)
        with pytest.raises(RecordError, match=reason):
            read_band(tmp_path, Path(path.name), (120, 120))
        with pytest.raises(RecordError, match=reason):
            grid_of(path.read_bytes(), path.name)
    assert tracemalloc.get_traced_memory()[1] < 50e6
    tracemalloc.stop()


def test_a_patch_is_judged_by_its_header_and_its_blocks(tmp_path):
    with pytest.raises(RecordError, match=r"holds float32 \(8000, 8000\), expected float32 \(3, 4\)"):
        read_band(tmp_path, Path(sparse(tmp_path / "a.tif", 8000, 8000).name), (3, 4))
    with pytest.raises(RecordError, match=r"b\.tif is sparse: values from row 0 on are not in the file"):
        read_band(tmp_path, Path(sparse(tmp_path / "b.tif", 3, 4).name), (3, 4))
    write(tmp_path / "c.tif")
    np.testing.assert_array_equal(read_band(tmp_path, Path("c.tif"), (3, 4)), VALUES)


def test_links_are_followed_once_and_the_rest_is_named(tmp_path):
    root, elsewhere = tmp_path / "in", tmp_path / "elsewhere"
    write(root / "a" / "x.tif")
    write(elsewhere / "b" / "y.TIFF")
    (root / "link").symlink_to(elsewhere)
    (elsewhere / "back").symlink_to(root)
    (root / "0again").symlink_to(root / "a")
    for name in ("gone", "gone.SAFE", "x.prj"):
        (root / name).symlink_to(tmp_path / "nothing")
    (root / "z.tif").symlink_to(root / "a" / "x.tif")
    found, left_out = find_files([root])
    assert found == [(root / "a" / "x.tif", "a/x"), (root / "link" / "b" / "y.TIFF", "link/b/y")]
    reasons = dict(left_out)
    assert reasons.keys() == {str(root / name) for name in ("0again", "gone", "gone.SAFE", "z.tif", "link/back")}
    assert f"is {root} again" in reasons[str(root / "link" / "back")]
    assert f"is {root / 'a'} again" in reasons[str(root / "0again")]
    assert f"is {root / 'a' / 'x.tif'} again" in reasons[str(root / "z.tif")]
    assert "leads nowhere" in reasons[str(root / "gone")]
    assert [path for path, _ in find_files([root / "a", root / "a" / "x.tif"])[0]] == [root / "a" / "x.tif"]
