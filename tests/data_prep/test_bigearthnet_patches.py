"""One patch of BigEarthNet v1 from folders and from a Zarr store: what is missing or something else is refused."""

import os
from functools import partial

import numpy as np
import pytest
import zarr

from sarwmix_jax.data.records import RecordError
from sarwmix_jax.preparation.bigearthnet import read_v1

from .conftest import write_geotiff

NAME = "S1A_IW_GRDH_1SDV_20170613T165043_33UUP_0_40"
ROW = {"patch_id": NAME, "s1_name": NAME, "country": "Austria", "split": "train"}
VALUES = np.random.default_rng(0).normal(-15, 3, (2, 120, 120)).astype(np.float32)


def write_folder(root):
    (root / NAME).mkdir(parents=True)
    for band, values in zip(("VH", "VV"), VALUES, strict=True):
        write_geotiff(root / NAME / f"{NAME}_{band}.tif", values)
    (root / NAME / f"{NAME}_labels_metadata.json").write_text('{"labels": ["Pastures"]}')
    return partial(read_v1, root, False, "exclude", ROW)


def write_store(root, zarr_format, shape=(120, 120)):
    group = zarr.open_group(root, mode="w", zarr_format=zarr_format)
    patch = group.create_group(NAME)
    patch.attrs["labels"] = ["Pastures"]
    for band, values in zip(("VH", "VV"), VALUES, strict=True):
        array = patch.create_array(band, shape=shape, chunks=(60, 120), dtype=values.dtype)
        if shape == values.shape:
            array[:] = values
    return partial(read_v1, root, True, "exclude", ROW)


@pytest.mark.parametrize("zarr_format", [2, 3])
def test_a_missing_chunk_is_not_read_as_zeros_and_a_giant_not_at_all(tmp_path, zarr_format):
    read = write_store(tmp_path / "a", zarr_format)
    np.testing.assert_array_equal(read().image, VALUES)
    (tmp_path / "a" / NAME / "VV" / ("1.0" if zarr_format == 2 else "c/1/0")).unlink()
    with pytest.raises(RecordError, match=rf"{NAME}/VV is damaged \(.*is missing"):
        read()
    giant = write_store(tmp_path / "b", zarr_format, (1_000_000, 1_000_000))
    with pytest.raises(RecordError, match=r"/VH holds float32 \(1000000, 1000000\), expected float32 \(120, 120\)"):
        giant()


@pytest.mark.parametrize(
    "content, reason",
    [
        (b"", "holds no labels"),
        (b"[" * 100_000, "holds no labels"),
        (b'{"labels": ["Pastures"]}' + b" " * 2**20, "is larger than any list of labels"),
        ('{"labels": ["Straße"]}'.encode("latin-1"), "holds no labels"),
        (b'{"labels": null}', "holds labels None, expected a list of names"),
        (b'{"labels": "Pastures"}', "holds labels 'Pastures', expected a list of names"),
        (b'{"labels": [["Pastures"]]}', "expected a list of names"),
        (b'{"labels": ["Moon\\u0000"]}', "is not one of the 43 original names"),
        (None, "is not a regular file"),
    ],
)
def test_odd_labels_are_one_line(tmp_path, content, reason):
    read = write_folder(tmp_path)
    assert read().labels == ("Pastures",)
    path = tmp_path / NAME / f"{NAME}_labels_metadata.json"
    path.write_bytes(b'\xef\xbb\xbf{"labels": ["Pastures"]}')
    assert read().labels == ("Pastures",)
    path.unlink()
    if content is None:
        os.mkfifo(path)
    else:
        path.write_bytes(content)
    with pytest.raises(RecordError, match=reason) as refused:
        read()
    assert "\n" not in str(refused.value)
