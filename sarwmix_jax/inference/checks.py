"""Whether what a user gives can be backscatter in dB."""

from typing import Any

import numpy as np
from jaxtyping import Float

from sarwmix_jax.errors import UserError
from sarwmix_jax.facts.bands import BANDS

_BRIGHTEST_MEDIAN_DB = -3.0
"""No land or sea has a median VH backscatter above this; linear power and standardised values do."""


def checked_db(images_db: Any, name: str, side: int | None = None) -> Float[np.ndarray, "batch band height width"]:
    """Images as float32, after checking shape and unit.

    Args:
        images_db: Anything that numpy takes: (batch, band, height, width), bands VH, VV, in dB.
        name: What to call it in an error.
        side: Height and width that are needed; None for any.

    Raises:
        UserError: The shape is wrong, values are missing, or they cannot be dB.
    """
    images = np.asarray(images_db)
    bands = len(BANDS)
    if images.dtype.kind not in "fiu" and images.dtype.name != "bfloat16":
        raise UserError(f"{name} holds {images.dtype}, not numbers; give backscatter in dB")
    if images.ndim != 4 or images.shape[1] != bands or 0 in images.shape:
        raise UserError(
            f"{name} has shape {images.shape}; give (batch, {bands}, height, width) with bands {', '.join(BANDS)}"
        )
    if side is not None and images.shape[2:] != (side, side):
        raise UserError(
            f"{name} has {images.shape[2]} x {images.shape[3]} pixels; this checkpoint takes {side} x {side}, "
            "resize the images or convert the checkpoint with another --image-size"
        )
    images = images.astype(np.float32)
    if not np.isfinite(images).all():
        count = int((~np.isfinite(images)).sum())
        raise UserError(f"{name} has {count} values that are not finite; fill or leave out pixels without data")
    median = float(np.median(images[:, 0]))
    if median > _BRIGHTEST_MEDIAN_DB:
        looks = "linear power; give 10*log10 of it" if images.min() >= 0 else "standardised; give the values in dB"
        raise UserError(f"{name}: the median of {BANDS[0]} is {median:.3g}, so this is no dB but looks like {looks}")
    return images
