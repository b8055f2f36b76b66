"""Reading one band of a BigEarthNet patch from its GeoTIFF."""

from pathlib import Path

import numpy as np
import rasterio
from jaxtyping import Float
from rasterio.errors import RasterioError

from sarwmix_jax.data.records import RecordError
from sarwmix_jax.geotiff.plain_tiff import read_plain_tiff


def read_band(folder: Path, path: Path, shape: tuple[int, int]) -> Float[np.ndarray, "height width"]:
    """One band of a patch, (rows, columns) float32 in dB, from `path` in `folder`.

    Raises:
        RecordError: The file is missing, damaged, or no single band of floats of that shape.
    """
    try:
        values = read_plain_tiff((folder / path).read_bytes())
    except (FileNotFoundError, NotADirectoryError):
        raise RecordError(f"{path} is missing") from None
    return check_band(_read_any_tiff(folder, path) if values is None else values, path, shape)


def _read_any_tiff(folder: Path, path: Path) -> np.ndarray:
    try:
        with rasterio.open(folder / path) as file:
            values = file.read()
    except RasterioError as error:
        raise RecordError(f"{path} is damaged ({str(error).splitlines()[0]})") from None
    if len(values) != 1:
        raise RecordError(f"{path} holds {len(values)} bands, expected one")
    band: np.ndarray = values[0]
    return band


def check_band(values: np.ndarray, path: Path, shape: tuple[int, int]) -> Float[np.ndarray, "height width"]:
    """The band itself, if it is finite float32 of the shape.

    Raises:
        RecordError: It is not.
    """
    if values.shape != shape or values.dtype != np.float32:
        raise RecordError(f"{path} holds {values.dtype} {values.shape}, expected float32 {shape}")
    if not np.isfinite(values).all():
        raise RecordError(f"{path} holds {int((~np.isfinite(values)).sum())} values that are not finite")
    return values
