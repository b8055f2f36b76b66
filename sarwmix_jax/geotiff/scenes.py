"""Anyone's Sentinel-1 GeoTIFFs as scenes: which file and band holds which polarisation, and where it lies."""

import functools
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import rasterio
from jaxtyping import Float
from rasterio.windows import Window

from sarwmix_jax.data.records import RecordError
from sarwmix_jax.errors import UserError
from sarwmix_jax.facts.bands import BANDS
from sarwmix_jax.geotiff.files import find_files
from sarwmix_jax.geotiff.opening import open_geotiff, reading

_QUANTITIES = (
    ("gamma0", re.compile(r"gamma[ _-]?(0|nought|naught)|(?<![A-Za-z])rtc(?![A-Za-z])", re.IGNORECASE)),
    ("sigma0", re.compile(r"sigma[ _-]?(0|nought|naught)", re.IGNORECASE)),
    ("beta0", re.compile(r"beta[ _-]?(0|nought|naught)", re.IGNORECASE)),
)
_DECIBEL = re.compile(r"(?<![A-Za-z])(db|decibels?)(?![A-Za-z])", re.IGNORECASE)


@dataclass(frozen=True)
class BandPlace:
    """One polarisation: band `number` (from 1) of `path`, with the file's nodata value."""

    polarisation: str
    path: Path
    number: int
    nodata: float | None


@dataclass(frozen=True)
class Scene:
    """One acquisition.

    Attributes:
        name: Path of the file below the given folder, without polarisation and suffix.
        bands: Where the polarisations lie, in the order wanted.
        height: Rows.
        width: Columns.
        crs: EPSG code or WKT.
        transform: Six numbers from pixel to coordinates.
        words: File names, descriptions, units and tags: what the files say of themselves.
    """

    name: str
    bands: tuple[BandPlace, ...]
    height: int
    width: int
    crs: str
    transform: tuple[float, ...]
    words: str

    @property
    def polarisations(self) -> tuple[str, ...]:
        """Names of the bands."""
        return tuple(place.polarisation for place in self.bands)

    @property
    def quantity(self) -> str | None:
        """What the files say they hold: `sigma0`, `gamma0`, `beta0`, or None."""
        found = [quantity for quantity, pattern in _QUANTITIES if pattern.search(self.words)]
        return found[0] if len(found) == 1 else None

    @property
    def says_decibel(self) -> bool:
        """Whether the files say that they are in dB."""
        return _DECIBEL.search(self.words) is not None

    def read(self, window: Window | None = None) -> Float[np.ndarray, "band height width"]:
        """Values of a window (or all), nodata of the file as NaN.

        Raises:
            RecordError: A file cannot be read there.
        """
        return np.stack([_read_band(place, window) for place in self.bands])


def _read_band(place: BandPlace, window: Window | None) -> np.ndarray:
    with reading(place.path, "cannot be read"):
        status = place.path.stat()
        file = _opened(place.path, status.st_mtime_ns, status.st_size)
        values: np.ndarray = file.read(place.number, window=window)
    if not np.issubdtype(values.dtype, np.floating):
        raise RecordError(f"{place.path} holds {values.dtype}: not calibrated backscatter; calibrate it first")
    if place.nodata is not None and not np.isnan(place.nodata):
        values = np.where(values == np.asarray(place.nodata, values.dtype), np.nan, values)
    return values


@functools.lru_cache(maxsize=8)
def _opened(path: Path, _mtime_ns: int, _size: int) -> rasterio.DatasetReader:
    """An open file; kept, so that GDAL keeps the blocks that neighbouring tiles share."""
    return open_geotiff(path)


@dataclass(frozen=True)
class _File:
    """What one file says of itself."""

    path: Path
    name: str
    polarisations: tuple[str | None, ...]
    grid: tuple[Any, ...]
    nodata: float | None
    words: str


def find_scenes(
    inputs: Iterable[Path],
    order: Sequence[str] | None = None,
    nodata: float | None = None,
    bands: tuple[str, ...] = BANDS,
) -> tuple[list[Scene], list[tuple[str, str]]]:
    """The scenes in files and folders.

    Args:
        inputs: Files and folders; a scene is one file of several bands, or one file per polarisation, told apart by
            `VH` and `VV` (or what else `bands` names) in their names.
        order: What the bands of a file are, for files that do not say; names that are not in `bands` are passed over.
        nodata: Value of nodata, for files that do not say.
        bands: The polarisations of a scene, in the order wanted.

    Returns:
        Scenes by name, and (file, reason) of files that make none.

    Raises:
        UserError: No input is a GeoTIFF, or `order` names bands where every file has one.
    """
    groups: dict[str, list[_File]] = {}
    found, problems = find_files(inputs)
    for path, name in found:
        try:
            file = _inspect(path, name, order, nodata, bands)
        except RecordError as error:
            problems.append((str(path), str(error)))
        else:
            groups.setdefault(file.name, []).append(file)
    counts = {len(file.polarisations) for files in groups.values() for file in files}
    if order is not None and counts == {1}:
        raise UserError(
            f"--bands={','.join(order)} names the bands of files of several bands, and there is none; leave it out: "
            f"files of one band are told apart by {' and '.join(bands)} in their names"
        )
    scenes = []
    for name, files in sorted(groups.items()):
        try:
            scenes.append(_scene(name, files, bands))
        except RecordError as error:
            problems.append((str(files[0].path), str(error)))
    return scenes, problems


def _inspect(path: Path, name: str, order: Sequence[str] | None, nodata: float | None, bands: tuple[str, ...]) -> _File:
    with open_geotiff(path) as file, reading(path, "cannot be opened"):
        _check_reference(file, path)
        texts = [" ".join(map(str, file.tags(n).values())) for n in file.indexes]
        said = [f"{d or ''} {u or ''} {t}" for d, u, t in zip(file.descriptions, file.units, texts, strict=True)]
        tags = " ".join(map(str, file.tags().values()))
        grid = (file.height, file.width, file.crs.to_string(), tuple(file.transform)[:6])
        value = file.nodata if file.nodata is not None else nodata
    if order is not None and len(said) > 1:
        if len(order) != len(said):
            raise RecordError(f"{path} has {len(said)} bands, --bands names {len(order)}")
        names: list[str | None] = [band if band in bands else None for band in order]
    elif len(said) > 1:
        names = [_polarisation(text, bands) for text in said]
    else:
        names = [next(filter(None, (_polarisation(text, bands) for text in (name, said[0], tags))), None)]
        name = re.sub(r"[_.-]{2,}", "_", _pattern(bands).sub("", name)).strip("_.- ") or name
    return _File(path, name, tuple(names), grid, value, " ".join([path.name, *said, tags]))


def _check_reference(file: rasterio.DatasetReader, path: Path) -> None:
    """Refuse a file that does not say where its pixels lie: every record keeps its reference system and transform."""
    if file.crs is None or file.transform.is_identity:
        points = ", only ground control points" if file.gcps[0] else ""
        lacking = "coordinate reference system" if file.crs is None else "transform from pixels to coordinates"
        raise RecordError(
            f"{path} has no {lacking}{points}; warp it to a map projection first, as with gdalwarp -t_srs EPSG:326xx"
        )


def _polarisation(text: str, bands: tuple[str, ...]) -> str | None:
    found = {match.upper() for match in _pattern(bands).findall(text)}
    return found.pop() if len(found) == 1 else None


@functools.cache
def _pattern(bands: tuple[str, ...]) -> re.Pattern[str]:
    return re.compile(rf"(?<![A-Za-z0-9])({'|'.join(bands)})(?![A-Za-z0-9])", re.IGNORECASE)


def _scene(name: str, files: Sequence[_File], bands: tuple[str, ...]) -> Scene:
    places: dict[str, BandPlace] = {}
    for file in files:
        for number, band in enumerate(file.polarisations, start=1):
            if band in places:
                raise RecordError(f"{file.path} holds {band} of scene {name}, which {places[band].path} holds too")
            if band is not None:
                places[band] = BandPlace(band, file.path, number, file.nodata)
    missing = [band for band in bands if band not in places]
    if missing:
        raise RecordError(
            f"{files[0].path} is of scene {name}, for which no {missing[0]} is found; have {' and '.join(bands)} in "
            "the file names or band descriptions, or name the bands of the files with --bands"
        )
    other = next((file for file in files if file.grid != files[0].grid), None)
    if other is not None:
        raise RecordError(f"{other.path} lies on another grid than {files[0].path}; resample them to one")
    height, width, crs, transform = files[0].grid
    words = " ".join(file.words for file in files)
    return Scene(name, tuple(places[band] for band in bands), height, width, crs, transform, words)
