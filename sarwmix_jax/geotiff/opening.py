"""Opening GeoTIFFs: regular files, with GDAL's GeoTIFF driver alone, after a check of the sizes in their headers.

GDAL's other drivers read further files or send requests that a small text file (VRT, WMS) of any name asks for.
"""

import contextlib
import os
import stat
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import rasterio
from rasterio.errors import CRSError, NotGeoreferencedWarning, RasterioError
from rasterio.io import MemoryFile

from sarwmix_jax.data.records import RecordError

LARGEST_PIXELS = 2**34
"""Rows times columns of a scene: 1,300 km at 10 m in both directions."""
LARGEST_BLOCK_BYTES = 2**30
"""Largest strip or tile; GDAL reads these as a whole."""
LARGEST_EXPANSION = 2_000
"""Largest ratio of the size of the values to that of the file; deflate reaches at most 1,032."""
_SMALL_BYTES = 2**28
_DRIVER = "GTiff"
_ITEM_BYTES = {"complex_int16": 4}
"""Bytes per value of types that NumPy does not have; single-look complex scenes have this one."""
_TIFF_STARTS = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")


def open_geotiff(path: Path, shown: Path | None = None) -> rasterio.DatasetReader:
    """Open a GeoTIFF for reading.

    Args:
        path: Name of a file, also one that GDAL would interpret as something else.
        shown: Its name in messages, if another one.

    Raises:
        RecordError: It is missing, not a regular file or not a GeoTIFF, or its header states more than its size allows.
    """
    shown = shown or path
    size = _size_of(path, shown)
    absolute = str(path.absolute())
    place = f"/.{absolute}" if absolute.startswith("/vsi") else absolute
    _check_companions(path)
    with reading(shown, "cannot be opened: it is damaged or not a GeoTIFF"):
        file = _quietly_opened(rasterio.open, place)
        try:
            _check_claims(file, shown, size)
        except BaseException:
            file.close()
            raise
    return file


@contextlib.contextmanager
def opened_bytes(content: bytes, path: object) -> Iterator[rasterio.DatasetReader]:
    """`open_geotiff` for the content of a file, called `path` in messages, until the end of the context.

    Raises:
        RecordError: It is empty, damaged or not a GeoTIFF, or its header states more than its size allows.
    """
    if not content:
        raise RecordError(f"{path} is empty")
    with reading(path, "is damaged"), MemoryFile(content) as memory, _quietly_opened(memory.open) as file:
        _check_claims(file, path, len(content))
        yield file


@contextlib.contextmanager
def reading(path: object, fault: str) -> Iterator[None]:
    """Convert errors of GDAL and rasterio to one line that names the file and the fault.

    Raises:
        RecordError: Instead of an error of GDAL or rasterio.
    """
    try:
        yield
    except RecordError:
        raise
    except (RasterioError, CRSError, UnicodeError, OSError) as error:
        raise RecordError(f"{path} {fault} ({str(error).splitlines()[0]})") from None


def check_filled(file: rasterio.DatasetReader, path: object) -> None:
    """Refuse a file that lacks blocks: GDAL reads the missing blocks of a sparse file as zeros.

    Raises:
        RecordError: A block is missing.
    """
    for band, (rows, columns) in zip(file.indexes, file.block_shapes, strict=True):
        for row in range(-(-file.height // rows)):
            for column in range(-(-file.width // columns)):
                if file.get_tag_item(f"BLOCK_OFFSET_{column}_{row}", "TIFF", bidx=band) is None:
                    raise RecordError(f"{path} is sparse: values from row {row * rows} on are not in the file")


def _quietly_opened(opener: Any, *place: str) -> rasterio.DatasetReader:
    with warnings.catch_warnings():  # a missing georeference is refused where one is needed
        warnings.simplefilter("ignore", NotGeoreferencedWarning)
        return opener(*place, driver=_DRIVER)


def _size_of(path: Path, shown: Path) -> int:
    """Bytes of a regular file; reading a pipe would wait for ever, and a device has no end."""
    try:
        status = path.stat()
    except FileNotFoundError:
        raise RecordError(f"{shown} is missing") from None
    except (OSError, ValueError) as error:
        raise RecordError(f"{shown} cannot be opened ({error})") from None
    if not stat.S_ISREG(status.st_mode):
        raise RecordError(f"{shown} is not a regular file; give GeoTIFFs")
    return status.st_size


def _check_companions(path: Path) -> None:
    """Check the files beside: GDAL opens a mask with any of its drivers, and would wait for metadata from a pipe.

    Overviews beside the file are opened only where values are read at a coarser resolution, which is never done here.
    """
    for companion in (f"{path}.msk", f"{path}.MSK", f"{path}.aux.xml"):
        if os.path.lexists(companion):
            _size_of(Path(companion), Path(companion))
            with reading(companion, "cannot be opened"), Path(companion).open("rb") as file:
                if not companion.endswith(".xml") and file.read(4) not in _TIFF_STARTS:
                    raise RecordError(
                        f"{companion} is not a mask of {path.name}: it is not a TIFF; repair it or move it away"
                    )


def _check_claims(file: rasterio.DatasetReader, path: object, size: int) -> None:
    """Check width, height, bands and blocks in the header before memory of that size is requested."""
    item = max(_ITEM_BYTES.get(dtype) or np.dtype(dtype).itemsize for dtype in file.dtypes)
    values = file.width * file.height * file.count * item
    shape = f"{file.count}x{file.height}x{file.width} values"
    if file.width * file.height > LARGEST_PIXELS:
        raise RecordError(f"{path} claims {shape}, more than {LARGEST_PIXELS:,} pixels; cut it into several files")
    if values > _SMALL_BYTES and values > LARGEST_EXPANSION * size:
        raise RecordError(
            f"{path} claims {shape} ({values / 2**30:.1f} GiB) in a file of {size:,} bytes: it is all but empty; "
            "cut out the part that holds values"
        )
    block = (
        max(rows * columns for rows, columns in file.block_shapes) * item * (file.count if _interleaved(file) else 1)
    )
    if block > LARGEST_BLOCK_BYTES:
        raise RecordError(f"{path} is stored in blocks of {block / 2**30:.1f} GiB; write it in tiles (-co TILED=YES)")


def _interleaved(file: rasterio.DatasetReader) -> bool:
    return file.count > 1 and file.interleaving is not None and file.interleaving.name == "pixel"
