"""Side-car files, which change validity, scale, nodata or position of a raster: applied by GDAL, or refused."""

import os
import stat
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import rasterio
from affine import Affine
from rasterio.crs import CRS
from rasterio.enums import MaskFlags
from rasterio.errors import CRSError

from sarwmix_jax.data.records import RecordError
from sarwmix_jax.geotiff.opening import open_geotiff

METADATA, MASK = ".aux.xml", ".msk"
_WORLD = (".tfw", ".tifw", ".tiffw", ".wld")
_CRS = ".prj"
_UNREAD = (METADATA, MASK, ".tab", ".aux")
"""Suffixes in place of `.tif` that GDAL may or may not read."""
_NUMBERS = ("NoDataValue", "Scale", "Offset")
_SLACK = 1e-3
"""World files are rounded; positions that differ by a thousandth of a pixel are the same."""
_WITH_SIDECARS = {"GDAL_DISABLE_READDIR_ON_OPEN": "FALSE", "GDAL_PAM_ENABLED": "YES"}
_WITHOUT_SIDECARS = {"GDAL_DISABLE_READDIR_ON_OPEN": "EMPTY_DIR", "GDAL_PAM_ENABLED": "NO"}
"""Settings of GDAL, independent of the environment."""


def list_folder(folder: Path) -> dict[str, Path]:
    """Content of a folder, by name in lower case: GDAL finds both `.TFW` and `.tfw`.

    Raises:
        RecordError: It cannot be listed.
    """
    try:
        return {path.name.lower(): path for path in folder.iterdir()}
    except OSError as error:
        raise RecordError(f"{folder} cannot be listed ({error.strerror}), so that masks may be missed") from None


def sidecars_of(path: Path, listing: Callable[[Path], Mapping[str, Path]]) -> dict[str, Path]:
    """The side-car files of a raster that change it, by their suffix.

    Args:
        path: The raster.
        listing: `list_folder`, or a cache of it.

    Raises:
        RecordError: One is a link, cannot be read, or is of a kind that is not supported.
    """
    if path.is_symlink():
        target = path.resolve()
        for sidecar in _plain_sidecars(target, listing(target.parent)).values():
            if sidecar.name.lower() not in listing(path.parent):
                raise RecordError(f"{sidecar} belongs to {target}, but is not beside its link {path}; give the file")
    return _plain_sidecars(path, listing(path.parent))


def _plain_sidecars(path: Path, beside: Mapping[str, Path]) -> dict[str, Path]:
    full, stem = path.name.lower(), path.stem.lower()
    for name in (full + ".aux", full + METADATA, *(stem + end for end in _UNREAD)):
        # GDAL reads metadata of exactly this name only, the others also in upper case.
        if name in beside and beside[name].name != path.name + METADATA:
            raise RecordError(
                f"{beside[name]} lies beside {path.name} and is not read; put what it states into the raster "
                "(gdal_translate), or move it away"
            )
    found = {end: full + end for end in (METADATA, MASK)} | {end: stem + end for end in (*_WORLD, _CRS)}
    sidecars = {end: beside[name] for end, name in found.items() if name in beside}
    for sidecar in sidecars.values():
        try:
            plain = stat.S_ISREG(sidecar.lstat().st_mode) and os.access(sidecar, os.R_OK)
        except OSError:
            plain = False
        if not plain:
            raise RecordError(f"{sidecar} is a link, or not a file that can be read; put the file itself there")
    return sidecars


def open_raster(path: Path, *, alone: bool = False) -> rasterio.DatasetReader:
    """Open a raster with or without its side-cars, independent of the environment; valid while it is open.

    Raises:
        RecordError: It cannot be opened.
    """
    with rasterio.Env(**(_WITHOUT_SIDECARS if alone else _WITH_SIDECARS)):
        return open_geotiff(path)


def has_mask(file: rasterio.DatasetReader, number: int) -> bool:
    """Whether GDAL has a mask of a band that is neither its nodata value nor an alpha band."""
    flags = file.mask_flag_enums[number - 1]
    nodata = MaskFlags.nodata in flags and MaskFlags.per_dataset not in flags
    return not nodata and MaskFlags.all_valid not in flags and MaskFlags.alpha not in flags


def check_sidecars(path: Path, file: rasterio.DatasetReader, sidecars: Mapping[str, Path]) -> None:
    """Refuse side-cars that GDAL has not applied.

    Args:
        path: The raster.
        file: The same, from `open_raster`.
        sidecars: Its side-cars, from `sidecars_of`.

    Raises:
        RecordError: One is damaged, or contradicts the raster.
    """
    if METADATA in sidecars:
        _check_xml(sidecars[METADATA])
    if MASK in sidecars and not all(has_mask(file, number) for number in file.indexes):
        raise RecordError(
            f"{sidecars[MASK]} is not a mask of {path.name} that GDAL can read; repair it or move it away"
        )
    if METADATA in sidecars or MASK in sidecars:
        with open_raster(path, alone=True) as alone:
            _check_contradiction(alone, file, sidecars)
    for end in _WORLD:
        if end in sidecars:
            _check_world_file(sidecars[end], file.transform)
    if _CRS in sidecars and not _same_crs(sidecars[_CRS], file.crs):
        raise RecordError(f"{sidecars[_CRS]} has another reference system than {path.name}; move the wrong one away")


def _check_xml(sidecar: Path) -> None:
    try:
        root = ElementTree.parse(sidecar).getroot()
        for each in (each for name in _NUMBERS for each in root.iter(name)):
            float(each.text or "")
    except (ElementTree.ParseError, OSError, ValueError) as error:
        raise RecordError(f"{sidecar} cannot be read ({error}); repair it or move it away") from None
    if root.tag != "PAMDataset":
        raise RecordError(f"{sidecar} is not metadata of GDAL ({root.tag}); move it away")


def _check_contradiction(
    alone: rasterio.DatasetReader, file: rasterio.DatasetReader, sidecars: Mapping[str, Path]
) -> None:
    """Refuse values that raster and side-car state differently: GDAL would use one of the two."""
    if MASK in sidecars and any(has_mask(alone, number) for number in alone.indexes):
        raise RecordError(f"{sidecars[MASK]} is a second mask of {Path(alone.name).name}; move the wrong one away")
    nothing = {"nodatavals": None, "scales": 1.0, "offsets": 0.0, "units": None, "descriptions": None}
    pairs: list[tuple[str, Any, Any, Any]] = [
        (name, own, both, empty)
        for name, empty in nothing.items()
        for own, both in zip(getattr(alone, name), getattr(file, name), strict=True)
    ]
    pairs += [("crs", alone.crs, file.crs, None), ("transform", alone.transform, file.transform, Affine.identity())]
    for name, own, both, empty in pairs:
        same = own == both or (own != own and both != both)
        if own not in (empty, "") and not same:
            raise RecordError(
                f"{sidecars.get(METADATA, sidecars.get(MASK))}: {name} {both} contradicts {own} of "
                f"{Path(alone.name).name}; move the wrong one away"
            )


def _check_world_file(sidecar: Path, transform: Affine) -> None:
    try:
        a, d, b, e, x, y = map(float, sidecar.read_text().split())
    except (ValueError, OSError):
        raise RecordError(f"{sidecar} is not a world file of six numbers; repair it or move it away") from None
    # A world file gives the centre of the first pixel.
    stated = Affine(a, b, x, d, e, y) @ Affine.translation(-0.5, -0.5)
    pixel = max(map(abs, (a, b, d, e)))
    scales = (1, 1, 0, 1, 1, 0)
    if any(
        abs(one - other) > _SLACK * pixel * (1e-3 if part else 1)
        for one, other, part in zip(tuple(stated)[:6], tuple(transform)[:6], scales, strict=True)
    ):
        raise RecordError(f"{sidecar} places the raster elsewhere than its own georeference; move the wrong one away")


def _same_crs(sidecar: Path, crs: CRS | None) -> bool:
    try:
        stated = CRS.from_wkt(sidecar.read_text(), morph_from_esri_dialect=True)
    except (CRSError, OSError, ValueError):
        return False
    return crs is not None and (stated == crs or stated.to_dict() == crs.to_dict())
