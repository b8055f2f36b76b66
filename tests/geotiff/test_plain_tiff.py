import numpy as np
import pytest
import rasterio

from sarwmix_jax.geotiff.plain_tiff import read_plain_tiff
from tests.data.samples import bigearthnet_pairs, needs_shared_data

VALUES = np.random.default_rng(0).normal(-15, 4, (50, 70)).astype(np.float32)


def write(path, values=VALUES, **options) -> bytes:
    values = values if values.ndim == 3 else values[None]
    profile = {"driver": "GTiff", "count": len(values), "height": values.shape[1], "width": values.shape[2]}
    grid = {"crs": "EPSG:32633", "transform": rasterio.Affine(10, 0, 600_000, 0, -10, 5_400_000)}
    with rasterio.open(path, "w", **profile, **grid, dtype=values.dtype, **options) as file:
        file.write(values)
    return path.read_bytes()


@needs_shared_data
def test_every_real_patch_is_plain_and_equals_rasterio():
    paths = [path.with_name(path.name.replace("VH", band)) for path in bigearthnet_pairs() for band in ("VH", "VV")]
    assert len(paths) == 26
    for path in paths:
        with rasterio.open(path) as file:
            np.testing.assert_array_equal(read_plain_tiff(path.read_bytes()), file.read(1), strict=True)


@pytest.mark.parametrize("options", [{}, {"blockysize": 1}, {"blockysize": 17}, {"nodata": -9999.0}])
def test_strips_of_any_height_are_read(tmp_path, options):
    np.testing.assert_array_equal(read_plain_tiff(write(tmp_path / "a.tif", **options)), VALUES, strict=True)


@pytest.mark.parametrize(
    "values, options",
    [
        (VALUES, {"compress": "deflate"}),
        (VALUES, {"compress": "lzw", "predictor": 3}),
        (VALUES, {"tiled": True, "blockxsize": 16, "blockysize": 16}),
        (VALUES, {"BIGTIFF": "YES"}),
        (VALUES, {"ENDIANNESS": "BIG"}),
        (VALUES, {"SPARSE_OK": "TRUE", "blockysize": 1}),
        (np.stack([VALUES, VALUES]), {}),
        (VALUES.astype(np.float64), {}),
        (VALUES.astype(np.int32), {}),
    ],
)
def test_other_kinds_are_left_to_gdal(tmp_path, values, options):
    values = values * 0 if "SPARSE_OK" in options else values
    assert read_plain_tiff(write(tmp_path / "a.tif", values, **options)) is None


def test_damaged_files_are_left_to_gdal(tmp_path):
    data = write(tmp_path / "a.tif")
    for length in (0, 3, 4, 7, 8, 100, 200, len(data) // 2, len(data) - 400):
        assert read_plain_tiff(data[:length]) is None
    rng = np.random.default_rng(0)
    for _ in range(300):  # never an exception, whatever the first bytes are
        broken = bytearray(data)
        for place in rng.integers(4, 400, 3):
            broken[place] = rng.integers(256)
        found = read_plain_tiff(bytes(broken))
        assert found is None or found.dtype == np.float32
