"""Arrays of other products to records: power to dB, nodata to a mask and a finite fill."""

from typing import Any, Literal

import numpy as np
from jaxtyping import Bool, Float

from sarwmix_jax.data.records import Record, RecordError
from sarwmix_jax.plausibility import FLOOR_POWER, power_to_db


def record_from_power(
    power: Float[np.ndarray, "band height width"],
    patch_id: str,
    *,
    nodata: float | None = None,
    zeros: Literal["floor", "nodata"] = "floor",
    **names: Any,
) -> Record:
    """A record in dB from linear backscatter power.

    Args:
        power: Linear sigma0 or gamma0, bands in the contract's order; NaN and infinity count as nodata.
        patch_id: Name that is unique in the record set.
        nodata: Value that stands for nodata besides.
        zeros: What values of zero or below are: too low to measure (like all below -60 dB they become that), or
            outside of the image.
        **names: Further fields of `Record`: `s1_name`, `country`, `labels`.

    Returns:
        The record with its validity mask; a pixel is valid when all bands are. Invalid pixels hold the mean of the
        valid ones.

    Raises:
        RecordError: No pixel is valid, or most values are negative (then they are in dB already).
    """
    observed = np.isfinite(power)
    if nodata is not None:
        observed &= power != nodata
    low = observed & (power <= 0)
    if np.count_nonzero(observed & (power < 0)) > 0.5 * np.count_nonzero(observed) > 0:
        raise RecordError("most values are negative: they are dB, not linear power")
    if zeros == "nodata":
        observed &= ~low
    image_db = power_to_db(np.where(observed, power, FLOOR_POWER))
    return record_from_db(image_db, patch_id, valid=observed.all(axis=0), **names)


def record_from_db(
    image_db: Float[np.ndarray, "band height width"],
    patch_id: str,
    *,
    valid: Bool[np.ndarray, "height width"] | None = None,
    **names: Any,
) -> Record:
    """A record from backscatter in dB.

    Args:
        image_db: Backscatter, bands in the contract's order; NaN and infinity count as nodata.
        patch_id: Name that is unique in the record set.
        valid: Pixels that were observed, if more is known than what NaN says.
        **names: Further fields of `Record`.

    Returns:
        The record with its validity mask; invalid pixels hold the mean of the valid ones.

    Raises:
        RecordError: No pixel is valid.
    """
    finite = np.isfinite(image_db).all(axis=0)
    valid = finite if valid is None else finite & valid
    if not valid.any():
        raise RecordError("no valid pixel")
    mean = image_db[:, valid].mean(axis=1, dtype=np.float64)
    filled = np.where(valid, image_db, mean[:, None, None]).astype(np.float32)
    return Record(filled, patch_id, valid_pixels=valid, **names)
