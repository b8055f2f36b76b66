"""Are the values of a scene what it is called? Told from samples, before a large preparation begins."""

import numpy as np
from jaxtyping import Float
from rasterio.windows import Window

from sarwmix_jax.data.checks import HIGHEST_DB, LOWEST_DB, SWAPPED_DB
from sarwmix_jax.data.records import RecordError
from sarwmix_jax.geotiff.scenes import Scene

FLOOR_POWER = 1e-6
"""Lower power (what noise removal left of nothing) becomes this, -60 dB, as zeros in the published flood data do."""
_WINDOWS, _SIDE = 4, 64
# Linear power of land and sea lies near 0.01 to 0.3; a median above this is an amplitude or a digital number.
_HIGHEST_POWER = 10.0
_MOSTLY = 0.5


def sample(scene: Scene) -> Float[np.ndarray, "band pixel"]:
    """Values of up to sixteen windows spread over a scene, NaN where there are none.

    Raises:
        RecordError: A file cannot be read.
    """
    sides = (min(_SIDE, scene.height), min(_SIDE, scene.width))
    rows = np.unique(np.linspace(0, scene.height - sides[0], _WINDOWS).astype(int))
    columns = np.unique(np.linspace(0, scene.width - sides[1], _WINDOWS).astype(int))
    windows = (Window(column, row, sides[1], sides[0]) for row in rows for column in columns)
    return np.concatenate([scene.read(window).reshape(len(scene.bands), -1) for window in windows], axis=1)


def find_unit(scene: Scene, unit: str | None) -> str:
    """The unit of a scene, `dB` or `linear`: as named, else as the files say, else as the values tell.

    Args:
        scene: The scene.
        unit: What the user calls it, or None.

    Raises:
        RecordError: The values contradict the name or the files, the bands are swapped, or nothing is certain.
    """
    values = sample(scene)
    with np.errstate(invalid="ignore"):
        seen = np.isfinite(values).all(axis=0) & (values != 0).any(axis=0)
    values = values[:, seen]
    where = f"{scene.bands[0].path}"
    if not values.size:
        return unit or "linear"
    negative = float((values < 0).mean())
    found = unit or ("dB" if scene.says_decibel or negative > _MOSTLY else "linear")
    low, high, median = float(values.min()), float(values.max()), float(np.median(values))
    if found == "dB" and negative < _MOSTLY:
        raise RecordError(
            f"{where}: called dB, but {negative:.0%} of the values are negative (median {median:.3g}): linear power; "
            "use --unit=linear"
        )
    if found == "dB" and (low < LOWEST_DB or high > HIGHEST_DB):
        raise RecordError(f"{where}: values from {low:.4g} to {high:.4g} are no backscatter in dB; give --nodata")
    if found == "linear" and negative > _MOSTLY:
        raise RecordError(f"{where}: called linear, but {negative:.0%} of the values are negative: dB; use --unit=dB")
    if found == "linear" and median > _HIGHEST_POWER:
        raise RecordError(f"{where}: median {median:.3g} is no linear power; calibrate it, or square the amplitude")
    _check_order(scene, values if found == "dB" else 10 * np.log10(np.maximum(values, FLOOR_POWER)))
    return found


def _check_order(scene: Scene, values_db: Float[np.ndarray, "band pixel"]) -> None:
    vh_db, vv_db = np.median(values_db, axis=1)
    if vv_db - vh_db < SWAPPED_DB:
        raise RecordError(
            f"{scene.bands[0].path}: VH lies {vh_db - vv_db:.1f} dB above VV, but is always below: the bands are "
            "swapped; name them rightly"
        )
