"""A miniature of SEN12-FLOOD in its raw layout, with every irregularity of the real set."""

import json
import zipfile
from pathlib import Path

import numpy as np
import rasterio
from rasterio.warp import transform_bounds

CHIP = rasterio.Affine(10, 0, 600_000, 0, -10, 5_400_000)
UTM = "EPSG:32633"
MARGIN = 0.002

INDEX = {
    "0063": {1: False, 2: True, 3: True, 10: False},
    "0100": {1: False, 2: True},
    "0200": {1: True, 2: True},
    "7": {1: False, 2: True, 3: False, 4: True},
    "12": {1: False, 2: True},
}
"""Flooding by folder and scene number. 0063: a file of scene 3 is missing; 0100: no S2; 0200: no scene without flood;
7: 26 % zeros in scene 2, 24 % in scene 3, NaN and infinity in scene 4; 12: an S2 chip of 512x500 pixels."""

PAIRS = {
    "train": [("0063", 1, 2, 1), ("0063", 1, 10, 0), ("0063", 10, 2, 1)],
    "test": [("7", 1, 3, 0), ("7", 1, 4, 1), ("7", 3, 4, 1)],
}
"""All pairs that must come out: folder, first, second, label."""

ZEROS = {("7", 2): 0.26, ("7", 3): 0.24}
NOT_FINITE = ("7", 4)


def filename(folder: str, key: int) -> str:
    return f"S1B_IW_GRDH_1SDV_20190{key:03d}T163240_{folder}"


def pair_names(split: str) -> list[str]:
    return [f"{f}__{filename(f, a)}__{filename(f, b)}__{label}" for f, a, b, label in PAIRS[split]]


def write(path: Path, values: np.ndarray, crs: str, transform: rasterio.Affine) -> None:
    height, width = values.shape
    profile = {"driver": "GTiff", "count": 1, "height": height, "width": width, "dtype": values.dtype}
    with rasterio.open(path, "w", **profile, crs=crs, transform=transform) as file:
        file.write(values, 1)


def scene(folder: str, key: int, rng: np.random.Generator) -> tuple[np.ndarray, rasterio.Affine]:
    """(VH, VV) linear power in EPSG:4326 over the chip and a margin."""
    west, south, east, north = transform_bounds(UTM, "EPSG:4326", 600_000, 5_400_000 - 5120, 605_120, 5_400_000)
    step = 1e-4
    width, height = round((east - west + 2 * MARGIN) / step), round((north - south + 2 * MARGIN) / step)
    values = rng.gamma(4, 0.25, (2, height, width)) * np.array([0.012, 0.06])[:, None, None]
    share = ZEROS.get((folder, key))
    if share:  # the rows at the bottom of the chip, in one band
        first = round((MARGIN + (north - south) * (1 - share)) / step)
        values[0, first:] = 0
    if (folder, key) == NOT_FINITE:
        values[0, 100:120, 100:120] = np.nan
        values[1, 100:120, 100:110] = np.inf
    return values.astype(np.float32), rasterio.Affine(step, 0, west - MARGIN, 0, -step, north + MARGIN)


def write_miniature(root: Path) -> Path:
    """Make the raw folder; returns it."""
    rng = np.random.default_rng(0)
    root.mkdir(parents=True)
    index = {}
    for folder, scenes in INDEX.items():
        place = root / folder
        place.mkdir()
        keys = list(reversed(scenes))  # the index of the data set is not in order either
        fields = {str(k): {"date": "2019-01-28", "FLOODING": scenes[k], "filename": filename(folder, k)} for k in keys}
        index[folder] = {"count": len(scenes)} | fields | {"folder": folder, "geo": {}, "urls": []}
        for key in scenes:
            values, transform = scene(folder, key, rng)
            for band, power in zip(("VH", "VV"), values, strict=True):
                write(place / f"{filename(folder, key)}_corrected_{band}.tif", power, "EPSG:4326", transform)
        if folder != "0100":
            side = 500 if folder == "12" else 512
            write(place / "S2_2019-02-01_B04.tif", np.ones((512, side), np.uint16), UTM, CHIP)
    shifted = CHIP @ rasterio.Affine.translation(30, 30)
    write(root / "0063" / "S2_2019-03-01_B04.tif", np.ones((512, 512), np.uint16), UTM, shifted)
    write(root / "0063" / "S2_2019-01-01_B03.tif", np.ones((512, 512), np.uint16), UTM, shifted)
    (root / "0063" / f"{filename('0063', 3)}_corrected_VV.tif").unlink()
    (root / "S1list.json").write_text(json.dumps(index))
    return root


def zip_of(root: Path, path: Path) -> Path:
    """The folder `root` as a zip, below one folder."""
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as file:
        for each in sorted(root.rglob("*")):
            file.write(each, Path("SEN12FLOOD") / each.relative_to(root))
    return path
