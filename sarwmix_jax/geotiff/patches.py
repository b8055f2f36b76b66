"""Patches of one band a file, such as those of BigEarthNet."""

from pathlib import Path

import numpy as np
import rasterio
from jaxtyping import Float
from rasterio.errors import RasterioError

from sarwmix_jax.data.records import RecordError


def read_band(folder: Path, path: Path, shape: tuple[int, int]) -> Float[np.ndarray, "height width"]:
    """One band of a patch, (rows, columns) float32 in dB, from `path` in `folder`.

    Raises:
        RecordError: The file is missing, damaged, or no single band of finite float32 of that shape.
    """
    if not (folder / path).is_file():
        raise RecordError(f"{path} is missing")
    try:
        with rasterio.open(folder / path) as file:
            values = file.read()
    except RasterioError as error:
        raise RecordError(f"{path} is damaged ({str(error).splitlines()[0]})") from None
    if len(values) != 1:
        raise RecordError(f"{path} holds {len(values)} bands, expected one")
    return check_band(values[0], path, shape)


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
