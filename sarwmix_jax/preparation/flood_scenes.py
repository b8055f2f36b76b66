"""Scenes of SEN12-FLOOD on the grid of their sequence: warped in memory, nodata counted, judged."""

import functools
from dataclasses import dataclass

import numpy as np
import rasterio
from affine import Affine
from jaxtyping import Float
from rasterio.crs import CRS
from rasterio.errors import RasterioError
from rasterio.io import MemoryFile
from rasterio.warp import Resampling, reproject

from sarwmix_jax.data.records import ExcludedError, RecordError
from sarwmix_jax.facts.bands import BANDS
from sarwmix_jax.preparation.raw_files import RawFiles

SIDE = 512
MAX_ZEROS = 0.25
MISSING, NO_GRID, NOT_SQUARE, ZEROS, UNREADABLE = (
    "a file is missing",
    "its sequence has no S2 image (B04)",
    f"not {SIDE}x{SIDE} after alignment",
    f"{MAX_ZEROS:.0%} or more zeros in a band",
    "cannot be read",
)
SKIPPED = (MISSING, NO_GRID, NOT_SQUARE, UNREADABLE)
"""Reasons that lie in the files, not in the curation."""


@dataclass(frozen=True)
class Grid:
    """Where the pixels of a sequence lie."""

    crs: str
    transform: Affine
    height: int
    width: int


@dataclass(frozen=True)
class AlignedScene:
    """A scene on its grid.

    Attributes:
        power: Linear power, zero where there is no value.
        grid: The grid.
        not_finite: Values that were NaN or infinite, zero now.
        negative: Values that were negative, zero now.
    """

    power: Float[np.ndarray, "band height width"]
    grid: Grid
    not_finite: int
    negative: int


@functools.lru_cache(maxsize=8)
def sequence_grid(raw: RawFiles, folder: str) -> Grid | None:
    """Grid of the first S2 B04 image of a sequence, None without any.

    Raises:
        RecordError: The image cannot be read.
    """
    name = next((name for name in raw.names(folder) if name.startswith("S2_") and name.endswith("_B04.tif")), None)
    if name is None:
        return None
    path = f"{folder}/{name}"
    try:
        with MemoryFile(raw.read(path)) as memory, memory.open() as file:
            if file.crs is None:
                raise RecordError(f"{path} has no coordinate reference system")
            return Grid(file.crs.to_string(), file.transform, file.height, file.width)
    except RasterioError as error:
        raise RecordError(f"{path} is damaged ({str(error).splitlines()[0]})") from None


def aligned_scene(raw: RawFiles, folder: str, filename: str) -> AlignedScene:
    """Both bands of a scene on the grid of its sequence.

    Raises:
        RecordError: A file is damaged.
        ExcludedError: The scene is left out, for one of the reasons of this module.
    """
    grid = sequence_grid(raw, folder)
    if grid is None:
        raise ExcludedError(NO_GRID)
    try:
        contents = [raw.read(f"{folder}/{filename}_corrected_{band}.tif") for band in BANDS]
    except FileNotFoundError:
        raise ExcludedError(MISSING) from None
    if (grid.height, grid.width) != (SIDE, SIDE):
        raise ExcludedError(NOT_SQUARE)
    paths = (f"{folder}/{filename}_corrected_{band}.tif" for band in BANDS)
    power = np.stack([warp(data, grid, path) for data, path in zip(contents, paths, strict=True)])
    broken, negative = ~np.isfinite(power), power < 0
    if negative.mean() > 0.5:
        raise RecordError(f"{folder}/{filename}: most values are negative: they are dB, not linear power")
    power = np.where(broken | negative, np.float32(0), power)
    if ((power == 0).mean(axis=(1, 2)) >= MAX_ZEROS).any():
        raise ExcludedError(ZEROS)
    return AlignedScene(power, grid, int(broken.sum()), int(negative.sum()))


def warp(content: bytes, grid: Grid, path: str) -> Float[np.ndarray, "height width"]:
    """The first band of a GeoTIFF on a grid by nearest neighbour, float32; zero outside of its coverage.

    Raises:
        RecordError: The file is damaged or has no georeference.
    """
    target = np.zeros((grid.height, grid.width), np.float32)
    try:
        with MemoryFile(content) as memory, memory.open() as file:
            if file.crs is None:
                raise RecordError(f"{path} has no coordinate reference system")
            reproject(
                source=file.read(1).astype(np.float32),
                destination=target,
                src_transform=file.transform,
                src_crs=file.crs,
                src_nodata=file.nodata,
                dst_transform=grid.transform,
                dst_crs=CRS.from_string(grid.crs),
                # The target is zero already; a nodata value of 0 would make GDAL move real zeros off zero.
                init_dest_nodata=False,
                resampling=Resampling.nearest,
            )
    except (RasterioError, rasterio.errors.CRSError) as error:
        raise RecordError(f"{path} is damaged ({str(error).splitlines()[0]})") from None
    return target
