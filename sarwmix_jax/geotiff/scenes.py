"""Sentinel-1 GeoTIFFs as scenes: which file and band holds which polarisation, and where it is located."""

import functools
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import rasterio
from jaxtyping import Float
from rasterio.windows import Window

from sarwmix_jax.data.records import RecordError
from sarwmix_jax.errors import UserError
from sarwmix_jax.facts.bands import BANDS
from sarwmix_jax.geotiff import statements
from sarwmix_jax.geotiff.files import find_files
from sarwmix_jax.geotiff.opening import reading
from sarwmix_jax.geotiff.sidecars import check_sidecars, list_folder, open_raster, sidecars_of
from sarwmix_jax.geotiff.statements import Statements
from sarwmix_jax.geotiff.values import BandPlace, Zeros, band_place, mask_bands, read_band
from sarwmix_jax.progress import track


@dataclass(frozen=True)
class Scene:
    """One acquisition.

    Attributes:
        name: Path of the file relative to the given folder, without polarisation and suffix.
        bands: File and band number of each polarisation, in the wanted order.
        height: Rows.
        width: Columns.
        crs: EPSG code or WKT.
        transform: Six numbers of the transform from pixels to coordinates.
        statements: What names, descriptions and tags of the files state.
    """

    name: str
    bands: tuple[BandPlace, ...]
    height: int
    width: int
    crs: str
    transform: tuple[float, ...]
    statements: Statements

    @property
    def polarisations(self) -> tuple[str, ...]:
        """Names of the bands."""
        return tuple(place.polarisation for place in self.bands)

    def read(self, window: Window | None = None, zeros: Zeros = "floor") -> Float[np.ndarray, "band height width"]:
        """Values of a window (or all), NaN where they are not valid.

        Args:
            window: Window to read; by default the whole scene.
            zeros: Meaning of stored zeros.

        Raises:
            RecordError: A file cannot be read in this window.
        """
        read = [read_band(place, window) for place in self.bands]
        values, zero = np.stack([values for values, _ in read]), np.stack([zero for _, zero in read])
        if zeros == "floor":
            return values
        return np.where(zero.all(axis=0) if zeros == "outside" else zero.any(axis=0), np.nan, values)


@dataclass(frozen=True)
class _File:
    """One file and its metadata; the polarisation of a single band may follow only from other files' names."""

    path: Path
    name: str
    single: bool
    places: tuple[BandPlace, ...]
    grid: tuple[Any, ...]
    statements: Statements


def find_scenes(
    inputs: Iterable[Path],
    order: Sequence[str] | None = None,
    nodata: float | None = None,
    bands: tuple[str, ...] = BANDS,
) -> tuple[list[Scene], list[tuple[str, str]]]:
    """The scenes in files and folders.

    Args:
        inputs: Files and folders; a scene is one file of several bands, or one file per polarisation, distinguished by
            `VH` and `VV` (or the other names in `bands`) in their names.
        order: Names of the bands of a file, for files that do not state them; names not in `bands` are ignored.
        nodata: Value of nodata as stored, besides those that the files state.
        bands: The polarisations of a scene, in the wanted order.

    Returns:
        Scenes by name, and (file, reason) of files that do not form a scene.

    Raises:
        UserError: No input is a GeoTIFF, or every file has one band and `order` differs from `bands`.
    """
    groups: dict[tuple[bool, str], list[_File]] = {}
    listing = functools.cache(list_folder)
    found, problems = find_files(inputs)
    for path, name in track(found, "opening GeoTIFFs", unit="files"):
        if statements.ancillary(path.stem) is not None:
            continue
        try:
            file = _inspect(path, name, listing, order, nodata, bands)
        except RecordError as error:
            problems.append((str(path), str(error)))
        else:
            key = statements.pattern(bands).sub("@", name) if file.single else name
            groups.setdefault((file.single, key), []).append(file)
    if order is not None and set(order) != set(bands) and groups and all(single for single, _ in groups):
        _refuse_order(order, bands)
    scenes, unusable = _assembled(groups, bands)
    return scenes, problems + unusable


def _assembled(
    groups: Mapping[tuple[bool, str], Sequence[_File]], bands: tuple[str, ...]
) -> tuple[list[Scene], list[tuple[str, str]]]:
    """Scenes from groups of files, and (file, reason) of files that do not form a scene."""
    problems = []
    scenes: dict[str, Scene] = {}
    for (single, name), files in sorted(groups.items()):
        try:
            scene = _scene(_scene_name(name) if single else name, _decided(files, bands) if single else files, bands)
            if scene.name in scenes:
                twin = scenes[scene.name].bands[0].path
                raise RecordError(f"{files[0].path} and {twin} both belong to scene {scene.name}; rename one")
        except RecordError as error:
            problems.append((str(files[0].path), str(error)))
        else:
            scenes[scene.name] = scene
    return list(scenes.values()), problems


def _refuse_order(order: Sequence[str], bands: tuple[str, ...]) -> None:
    raise UserError(
        f"--bands={','.join(order)} does not fit: every file has one band, named by {' or '.join(bands)} in its file "
        "name; leave it out"
    )


def count_ancillary(inputs: Iterable[Path]) -> str:
    """How many files of each kind are skipped, as text; empty where there are none."""
    kinds = (statements.ancillary(path.stem) for path, _ in find_files(inputs)[0])
    return statements.summarise(kind for kind in kinds if kind is not None)


def _scene_name(key: str) -> str:
    return re.sub(r"/{2,}", "/", re.sub(r"[_.+-]{2,}", "_", key.replace("@", ""))).strip("_.-/ ") or key


def _inspect(
    path: Path,
    name: str,
    listing: Callable[[Path], Mapping[str, Path]],
    order: Sequence[str] | None,
    nodata: float | None,
    bands: tuple[str, ...],
) -> _File:
    sidecars = sidecars_of(path, listing)
    with open_raster(path) as file, reading(path, "cannot be opened"):
        check_sidecars(path, file, sidecars)
        _check_reference(file, path)
        masks = mask_bands(path, file, order)
        numbers = [number for number in file.indexes if number not in masks]
        for number in masks:
            if _stated_polarisation(file, number, bands) is not None:
                raise RecordError(f"{path}: band {number} is an alpha band, but called a polarisation; correct one")
        if len(numbers) == 1:
            names = {numbers[0]: _stated_polarisation(file, numbers[0], bands) or ""}
        else:
            names = _polarisations(path, file, numbers, order, bands)
        places = [replace(band_place(path, file, n, masks, nodata), polarisation=band) for n, band in names.items()]
        stated = _statements(path, name, file, list(names))
        grid = (
            file.height,
            file.width,
            file.crs.to_string(),
            tuple(file.transform)[:6],
        )
    return _File(path, name, len(numbers) == 1, tuple(places), grid, stated)


def _check_reference(file: rasterio.DatasetReader, path: Path) -> None:
    """Refuse a file without georeference: every record keeps its coordinate reference system and transform."""
    if file.crs is None or file.transform.is_identity:
        points = ", only ground control points" if file.gcps[0] else ""
        lacking = "coordinate reference system" if file.crs is None else "transform from pixels to coordinates"
        raise RecordError(
            f"{path} has no {lacking}{points}; warp it to a map projection first, as with gdalwarp -t_srs EPSG:326xx"
        )


def _polarisations(
    path: Path,
    file: rasterio.DatasetReader,
    numbers: Sequence[int],
    order: Sequence[str] | None,
    bands: tuple[str, ...],
) -> dict[int, str]:
    """The bands of a file that hold a polarisation, by number."""
    stated = {number: _stated_polarisation(file, number, bands) for number in numbers}
    if order is not None:
        if len(order) not in (len(numbers), file.count):
            raise RecordError(f"{path} has {len(numbers)} bands, --bands names {len(order)}")
        named = dict(zip(numbers if len(order) == len(numbers) else file.indexes, order, strict=True))
        for number in numbers:
            if named[number] in bands and stated[number] not in (None, named[number]):
                texts = f"{path} states {stated[number]} for band {number}, --bands states {named[number]}"
                raise RecordError(f"{texts}; correct one")
        stated = {number: named[number] if named[number] in bands else None for number in numbers}
    return {number: band for number, band in stated.items() if band is not None}


def _stated_polarisation(file: rasterio.DatasetReader, number: int, bands: tuple[str, ...]) -> str | None:
    # Tags of a file may describe one of several bands, so they are used for files of one band only.
    tags = file.tags(number) | (file.tags() if file.count == 1 else {})
    return statements.stated_polarisation([file.descriptions[number - 1] or ""], tags, bands)


def _statements(path: Path, name: str, file: rasterio.DatasetReader, numbers: Sequence[int]) -> Statements:
    """What a file states about the bands that are read."""
    own = [("its name", path.stem), *statements.stating_tags(file.tags())]
    for number in numbers:
        texts = (("description", file.descriptions[number - 1]), ("unit", file.units[number - 1]))
        own += [(f"{what} of band {number}", text) for what, text in texts if text]
        own += statements.stating_tags(file.tags(number))
    folders = [(f"folder {folder}", folder) for folder in reversed(Path(name).parts[:-1])]
    return statements.read_statements(own, folders)


def _decided(files: Sequence[_File], bands: tuple[str, ...]) -> list[_File]:
    """Files of one band with their polarisation, decided by comparing names that differ in polarisations alone."""
    decided = []
    tokens = [statements.tokens(file.name, bands) for file in files]
    for file, named in zip(files, statements.deciding_tokens(tokens), strict=True):
        stated = file.places[0].polarisation
        if named and stated and named != stated:
            raise RecordError(f"{file.path} is named {named}, but its band states {stated}; correct one")
        decided.append(replace(file, places=(replace(file.places[0], polarisation=named or stated),)))
    return decided


def _scene(name: str, files: Sequence[_File], bands: tuple[str, ...]) -> Scene:
    places: dict[str, BandPlace] = {}
    for file in files:
        for place in file.places:
            if place.polarisation in places:
                other = places[place.polarisation].path
                raise RecordError(f"{file.path} holds {place.polarisation} of scene {name}, which {other} holds too")
            if place.polarisation:
                places[place.polarisation] = place
    missing = [band for band in bands if band not in places]
    if missing:
        raise RecordError(
            f"{files[0].path} belongs to scene {name}, for which no {missing[0]} is found; put {' and '.join(bands)} "
            "in the file names or band descriptions, or name the bands of the files with --bands"
        )
    apart = next((file for file in files if file.grid != files[0].grid), None)
    if apart is not None:
        raise RecordError(f"{apart.path} is on another grid than {files[0].path}; resample them to one grid")
    height, width, crs, transform = files[0].grid
    stated = functools.reduce(Statements.__or__, (file.statements for file in files))
    return Scene(name, tuple(places[band] for band in bands), height, width, crs, transform, stated)
