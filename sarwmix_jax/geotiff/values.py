"""Values of a band with NaN where it is not valid: nodata, masks, alpha, scale and offset."""

import functools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import rasterio
from jaxtyping import Bool, Float
from rasterio.enums import ColorInterp
from rasterio.windows import Window

from sarwmix_jax.data.records import RecordError
from sarwmix_jax.geotiff.opening import reading
from sarwmix_jax.geotiff.sidecars import has_mask, open_raster

Zeros = Literal["outside", "nodata", "floor"]
"""Stored zeros are nodata where all bands are zero (`outside`), are always nodata, or are measured values (`floor`)."""
_FILL_TAGS = {"_fillvalue", "missing_value", "nodata", "nodata_value", "no_data", "no_data_value"}
_SCALE_TAGS = {"scale_factor", "scale"}
_OFFSET_TAGS = {"add_offset", "offset"}
_MASK_NAMES = {"datamask", "valid", "validmask", "validity", "validitymask", "validpixels", "validdatamask", "alpha"}
_USUAL_FILL = -9999


@dataclass(frozen=True)
class BandPlace:
    """One polarisation in a file.

    Attributes:
        polarisation: Its name; empty while it is not known.
        path: The file.
        number: The band's number, from 1.
        nodata: Stored values that mean nodata.
        masked: Whether GDAL has a mask of the dataset: internal, `.msk`, or of nodata in all bands.
        mask_bands: Numbers of bands that are zero where no band is valid: `dataMask`, and alpha, which GDAL uses as a
            mask only for some types and rescales.
        scale: Factor of the stored values.
        offset: Number added to the scaled values.
    """

    polarisation: str
    path: Path
    number: int
    nodata: tuple[float, ...] = ()
    masked: bool = False
    mask_bands: tuple[int, ...] = ()
    scale: float = 1.0
    offset: float = 0.0

    @property
    def scaled(self) -> bool:
        """Whether stored values differ from the real ones."""
        return (self.scale, self.offset) != (1, 0)


def read_band(
    place: BandPlace, window: Window | None = None
) -> tuple[Float[np.ndarray, "height width"], Bool[np.ndarray, "height width"]]:
    """Real values of a window (or all) of a band, NaN where not valid, and where zero is stored.

    Raises:
        RecordError: The window cannot be read, or the band does not hold calibrated backscatter.
    """
    with reading(place.path, "cannot be read"):
        status = place.path.stat()
        file = _opened(place.path, status.st_mtime_ns, status.st_size)
        stored: np.ndarray = file.read(place.number, window=window)
        masks = [file.read(number, window=window) for number in place.mask_bands]
        hidden = [file.read_masks(place.number, window=window) == 0] if place.masked else []
    if not np.issubdtype(stored.dtype, np.floating) and not (place.scaled and np.issubdtype(stored.dtype, np.integer)):
        raise RecordError(f"{place.path} holds {stored.dtype}: not calibrated backscatter; calibrate it first")
    for number, mask in zip(place.mask_bands, masks, strict=True):
        hidden.append(_hidden_by(place.path, number, mask, file.colorinterp[number - 1] == ColorInterp.alpha))
    hidden += [holds(stored, value) for value in place.nodata]
    values = stored
    if place.scaled:
        _check_usual_fills(place, stored, hidden, window)
        values = (stored * np.float64(place.scale) + place.offset).astype(np.float32)
    return np.where(np.logical_or.reduce(hidden), np.nan, values) if hidden else values, stored == 0


@functools.lru_cache(maxsize=8)
def _opened(path: Path, _mtime_ns: int, _size: int) -> rasterio.DatasetReader:
    """An open file, cached, so that GDAL keeps the blocks that neighbouring tiles share."""
    return open_raster(path)


def holds(stored: np.ndarray, value: float) -> Bool[np.ndarray, "..."]:
    """Where an array equals a value of nodata, rounded to the array's type."""
    if np.issubdtype(stored.dtype, np.integer):
        limits = np.iinfo(stored.dtype)
        exact = value == value and abs(value) != np.inf and limits.min <= value <= limits.max and value == int(value)
        return stored == int(value) if exact else np.zeros(stored.shape, bool)
    with np.errstate(over="ignore"):
        return stored == np.asarray(value, stored.dtype)


def _hidden_by(path: Path, number: int, mask: np.ndarray, alpha: bool) -> Bool[np.ndarray, "..."]:
    if not alpha and not np.isin(mask[np.isfinite(mask)], (0, 1, 255)).all():
        raise RecordError(f"{path}: band {number} is called a mask, but holds other values than 0 and 1; leave it out")
    return ~(mask > 0)


def _check_usual_fills(place: BandPlace, stored: np.ndarray, hidden: list[np.ndarray], window: Window | None) -> None:
    """Refuse usual fill values: -9999, for instance, may be plausible once it is scaled."""
    fills = {_USUAL_FILL}
    if np.issubdtype(stored.dtype, np.integer) and stored.itemsize > 1:  # bytes saturate
        fills |= {np.iinfo(stored.dtype).min, np.iinfo(stored.dtype).max} - {0}
    found = np.logical_or.reduce([holds(stored, fill) for fill in fills])
    for mask in hidden:
        found &= ~mask
    if found.any():
        row, column = map(int, np.argwhere(found)[0])
        corner = (0, 0) if window is None else (int(window.row_off), int(window.col_off))
        value = stored[row, column]
        raise RecordError(refusal(place, row + corner[0], column + corner[1], value, "stored values are usually fill"))


def refusal(place: BandPlace, row: int, column: int, value: float, why: str) -> str:
    """Message for a refused value: why, where it is, and what to do."""
    return (
        f"{place.path}: {value:.9g} at row {row}, column {column} ({place.polarisation}): such {why}; "
        f"give --nodata={value:.9g} if it is not a measurement"
    )


def mask_bands(path: Path, file: rasterio.DatasetReader, order: Sequence[str] | None) -> tuple[int, ...]:
    """Numbers of the bands that show where others are valid: alpha, or bands with names such as `dataMask`.

    Args:
        path: The file.
        file: The same, opened.
        order: What the user calls its bands.

    Raises:
        RecordError: A band has another name for a mask, so that its zeros may mean valid or not.
    """
    found = []
    named = order if order is not None and len(order) == file.count else [""] * file.count
    for number, name in enumerate(named, start=1):
        texts = [file.descriptions[number - 1] or "", name]
        words = {"".join(filter(str.isalpha, text.lower())) for text in texts}
        if file.colorinterp[number - 1] == ColorInterp.alpha or words & _MASK_NAMES:
            found.append(number)
        elif any(word in text for text in words for word in ("mask", "nodata")):
            raise RecordError(
                f"{path}: band {number} is called {texts[0] or name}, which may mean either; call it dataMask if 0 is "
                "no data, else leave it out"
            )
    return tuple(found)


def band_place(
    path: Path, file: rasterio.DatasetReader, number: int, masks: tuple[int, ...], nodata: float | None
) -> BandPlace:
    """How a band of an open file is read; `nodata` is used besides what the file states.

    Raises:
        RecordError: Its scale cannot be applied.
    """
    scale, offset = file.scales[number - 1], file.offsets[number - 1]
    if not np.isfinite([scale, offset]).all() or scale == 0:
        raise RecordError(f"{path}: scale {scale} and offset {offset} of band {number} cannot be applied; correct them")
    stated = [value for value in (file.nodatavals[number - 1], nodata) if value is not None]
    stated += _from_tags(path, file.tags() | file.tags(number), scale, offset)
    values = tuple(dict.fromkeys(value for value in stated if not np.isnan(value)))
    return BandPlace("", path, number, values, has_mask(file, number), masks, scale, offset)


def _from_tags(path: Path, tags: Mapping[str, str], scale: float, offset: float) -> list[float]:
    """Nodata in tags as netCDF has them; a scale in tags must be that of the band."""
    nodata = []
    for key, text in tags.items():
        name = key.rsplit("#")[-1].lower()
        if name not in _FILL_TAGS | _SCALE_TAGS | _OFFSET_TAGS:
            continue
        try:
            value = float(text)
        except ValueError:
            if name in ("scale", "offset"):  # a word, such as decibel
                continue
            raise RecordError(f"{path}: tag {key}={text} is not a number; correct it") from None
        if name in _FILL_TAGS:
            nodata.append(value)
        elif value != (scale if name in _SCALE_TAGS else offset):
            raise RecordError(f"{path}: tag {key}={text} is not applied; declare it as scale and offset of the bands")
    return nodata
