"""Patches with one file per band, such as those of BigEarthNet."""

from pathlib import Path

import numpy as np
from jaxtyping import Float

from sarwmix_jax.data.records import RecordError
from sarwmix_jax.geotiff.opening import check_filled, open_geotiff, reading


def read_band(folder: Path, path: Path, shape: tuple[int, int]) -> Float[np.ndarray, "height width"]:
    """One band of a patch, (rows, columns) float32 in dB, from `path` in `folder`.

    Raises:
        RecordError: The file is missing, damaged or sparse, or not a single band of finite float32 of that shape.
    """
    with open_geotiff(folder / path, path) as file, reading(path, "is damaged"):
        if file.count != 1:
            raise RecordError(f"{path} holds {file.count} bands, expected one")
        check_form(file.shape, file.dtypes[0], path, shape)
        check_filled(file, path)
        return check_finite(file.read(1), path)


def check_form(found: tuple[int, ...], dtype: str, path: Path, shape: tuple[int, int]) -> None:
    """Check a band by its header, before its values are read.

    Raises:
        RecordError: It is not float32 of the expected shape.
    """
    if tuple(found) != shape or dtype != "float32":
        raise RecordError(f"{path} holds {dtype} {tuple(found)}, expected float32 {shape}")


def check_finite(values: Float[np.ndarray, "height width"], path: Path) -> Float[np.ndarray, "height width"]:
    """The band itself, after a check of its values.

    Raises:
        RecordError: Values are not finite.
    """
    if not np.isfinite(values).all():
        raise RecordError(f"{path} holds {int((~np.isfinite(values)).sum())} values that are not finite")
    return values
