"""Checks of a user's arrays: can they be backscatter in dB?"""

from typing import Any

import numpy as np
from jaxtyping import Float

from sarwmix_jax import plausibility
from sarwmix_jax.errors import UserError
from sarwmix_jax.facts.bands import BANDS


def checked_db(
    images_db: Any, name: str, side: int | None = None, bands: tuple[str, ...] = BANDS, *, check: bool = True
) -> Float[np.ndarray, "batch band height width"]:
    """Images as float32, after the same checks of shape and values as for a record set.

    Args:
        images_db: Anything that NumPy accepts: (batch, band, height, width) in dB.
        name: Name of the argument in messages.
        side: Required height and width; None for any.
        bands: Polarisations in the order of the images.
        check: Whether unit and order of the bands are checked; missing values are always refused.

    Raises:
        UserError: The shape is wrong, values are missing, or they cannot be dB of these bands in this order.
    """
    images = np.asarray(images_db)
    if images.dtype.kind not in "fiu" and images.dtype.name != "bfloat16":
        raise UserError(f"{name} holds {images.dtype}, not numbers; give backscatter in dB")
    if images.ndim != 4 or images.shape[1] != len(bands) or 0 in images.shape:
        raise UserError(
            f"{name} has shape {images.shape}; give (batch, {len(bands)}, height, width) with bands {', '.join(bands)}"
        )
    if side is not None and images.shape[2:] != (side, side):
        raise UserError(
            f"{name} has {images.shape[2]} x {images.shape[3]} pixels; this checkpoint takes {side} x {side}, "
            "give resize=True to resize as training did, or convert the checkpoint with another --image-size"
        )
    images = images.astype(np.float32)
    found = plausibility.judge_db(images, bands) if check else plausibility.judge_finite(images, bands)
    if found is not None:
        place = name if found.image is None else f"{name}, image {found.image}"
        anyway = "" if found.kind == plausibility.NOT_FINITE else ", or give check=False if you know better"
        raise UserError(f"{place}: {found.reason}; {found.remedy}{anyway}")
    return images
