"""One band of float32 from a GeoTIFF, the plainest of them without GDAL.

All patches of BigEarthNet are plain: not compressed, in strips. Opening one with GDAL takes ten times as long as
reading it. Whatever is not certain to be plain is left to GDAL.
"""

import struct
from pathlib import Path

import numpy as np
import rasterio
from jaxtyping import Float
from rasterio.errors import RasterioError

from sarwmix_jax.data.records import RecordError

_WIDTH, _HEIGHT, _OFFSETS, _BYTES, _TILE_WIDTH = 256, 257, 273, 279, 322
_BITS, _COMPRESSION, _SAMPLES, _SAMPLE_FORMAT, _PREDICTOR, _FILL_ORDER = 258, 259, 277, 339, 317, 266
_DEFAULTS = {_COMPRESSION: [1], _SAMPLES: [1], _PREDICTOR: [1], _FILL_ORDER: [1]}
_WANTED = _DEFAULTS | {_BITS: [32], _SAMPLE_FORMAT: [3]}
_TYPES: dict[int, np.dtype] = {3: np.dtype("<u2"), 4: np.dtype("<u4")}
_INLINE_BYTES = 4


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


def read_plain_tiff(data: bytes) -> Float[np.ndarray, "height width"] | None:
    """The band of a plain TIFF, float32; None when the file is of another kind or damaged."""
    if data[:4] != b"II*\0":
        return None
    try:
        tags = _DEFAULTS | _read_tags(data)
        (width,), (height,) = tags[_WIDTH], tags[_HEIGHT]
        offsets, sizes = tags[_OFFSETS], tags[_BYTES]
    except (struct.error, KeyError, ValueError):
        return None
    if _TILE_WIDTH in tags or any(tags.get(tag) != wanted for tag, wanted in _WANTED.items()):
        return None
    strips = [data[start : start + size] for start, size in zip(offsets, sizes, strict=False)]
    if [len(strip) for strip in strips] != sizes or sum(sizes) != 4 * width * height:
        return None
    return np.frombuffer(b"".join(strips), "<f4").reshape(height, width)


def _read_tags(data: bytes) -> dict[int, list[int]]:
    """Tags of whole numbers in the first directory.

    Raises:
        struct.error, ValueError: The file ends before they do.
    """
    (start,) = struct.unpack_from("<I", data, 4)
    (count,) = struct.unpack_from("<H", data, start)
    tags = {}
    for place in range(start + 2, start + 2 + 12 * count, 12):
        tag, kind, length, where = struct.unpack_from("<HHII", data, place)
        if kind in _TYPES:
            inline = length * _TYPES[kind].itemsize <= _INLINE_BYTES
            tags[tag] = np.frombuffer(data, _TYPES[kind], length, place + 8 if inline else where).tolist()
    return tags
