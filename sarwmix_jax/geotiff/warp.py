"""Warping of rasters in memory to the grid of another one."""

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import rasterio
from affine import Affine
from jaxtyping import Float
from rasterio.crs import CRS
from rasterio.warp import Resampling, reproject

from sarwmix_jax.data.records import RecordError
from sarwmix_jax.geotiff.opening import opened_bytes

LARGEST_BYTES = 2**29
"""Largest size of a band to be warped, which is read as a whole, counted in the widest type."""
_WIDEST_BYTES = 16


@dataclass(frozen=True)
class Grid:
    """Grid of a raster's pixels."""

    crs: str
    transform: Affine
    height: int
    width: int


@contextlib.contextmanager
def _opened(content: bytes, path: str) -> Iterator[rasterio.DatasetReader]:
    with opened_bytes(content, path) as file:
        if file.crs is None:
            raise RecordError(f"{path} has no coordinate reference system")
        yield file


def grid_of(content: bytes, path: str) -> Grid:
    """The grid of a GeoTIFF.

    Raises:
        RecordError: The file is damaged or has no georeference.
    """
    with _opened(content, path) as file:
        return Grid(file.crs.to_string(), file.transform, file.height, file.width)


def warp(content: bytes, grid: Grid, path: str) -> Float[np.ndarray, "height width"]:
    """Warp the first band of a GeoTIFF to a grid by nearest neighbour, float32; zero outside of its coverage.

    Raises:
        RecordError: The file is damaged, too large or complex, or has no georeference.
    """
    target = np.zeros((grid.height, grid.width), np.float32)
    with _opened(content, path) as file:
        if file.height * file.width * _WIDEST_BYTES > LARGEST_BYTES:
            raise RecordError(f"{path} has {file.height}x{file.width} pixels, more than any scene of such a set")
        if "complex" in file.dtypes[0]:
            raise RecordError(f"{path} holds {file.dtypes[0]}: not calibrated backscatter; calibrate it first")
        reproject(
            source=file.read(1).astype(np.float32),
            destination=target,
            src_transform=file.transform,
            src_crs=file.crs,
            src_nodata=file.nodata,
            dst_transform=grid.transform,
            dst_crs=CRS.from_string(grid.crs),
            # The target is zero already; a nodata value of 0 would make GDAL change real zeros.
            init_dest_nodata=False,
            resampling=Resampling.nearest,
        )
    return target
