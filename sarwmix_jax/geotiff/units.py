"""Unit and quantity of scenes: what their files say of themselves, checked against samples of their values."""

from collections.abc import Iterable

import numpy as np
from jaxtyping import Bool, Float
from rasterio.windows import Window

from sarwmix_jax import plausibility
from sarwmix_jax.data.records import RecordError
from sarwmix_jax.errors import UserError
from sarwmix_jax.geotiff.scenes import Scene

_WINDOWS, _SIDE = 4, 64
_MOSTLY = 0.5
_REMEDIES = {
    plausibility.LINEAR: "use --unit=linear",
    plausibility.DECIBEL: "use --unit=dB",
    plausibility.NO_POWER: "calibrate it, or square the amplitude",
    plausibility.SCALED: "give calibrated backscatter",
    plausibility.FILL: "give --nodata",
    plausibility.SWAPPED: "name them rightly",
}


def sample(scene: Scene) -> tuple[Float[np.ndarray, "window band row column"], Bool[np.ndarray, "window row column"]]:
    """Values of up to sixteen windows spread over a scene, and where they are: not nodata, not zero in all bands.

    Raises:
        RecordError: A file cannot be read.
    """
    sides = (min(_SIDE, scene.height), min(_SIDE, scene.width))
    rows = np.unique(np.linspace(0, scene.height - sides[0], _WINDOWS).astype(int))
    columns = np.unique(np.linspace(0, scene.width - sides[1], _WINDOWS).astype(int))
    windows = (Window(column, row, sides[1], sides[0]) for row in rows for column in columns)
    values = np.stack([scene.read(window) for window in windows])
    seen = np.isfinite(values).all(axis=1) & (values != 0).any(axis=1)
    return np.where(seen[:, None], values, 0), seen


def find_unit(scene: Scene, unit: str | None) -> str:
    """The unit of a scene, `dB` or `linear`: as named, else as the files say, else as the values tell.

    Args:
        scene: The scene.
        unit: What the user calls it, or None.

    Raises:
        RecordError: The values contradict the name or the files, or cannot be backscatter of these bands.
    """
    values, seen = sample(scene)
    if not seen.any():
        return unit or "linear"
    negative = (values < 0).sum() / (seen.sum() * len(scene.bands))
    found = unit or ("dB" if scene.says_decibel or negative > _MOSTLY else "linear")
    judge = plausibility.judge_db if found == "dB" else plausibility.judge_power
    problem = judge(values, scene.polarisations, seen)
    if problem is not None:
        raise RecordError(f"{scene.bands[0].path}: called {found}, but {problem.reason}; {_REMEDIES[problem.kind]}")
    return found


def find_quantity(scenes: Iterable[Scene], named: str | None) -> str:
    """The quantity of all scenes.

    Raises:
        UserError: Scenes say another one than is named, or nothing, or not the same.
    """
    known = named
    for scene in scenes:
        said = scene.quantity
        if said is None and named is None:
            raise UserError(f"{scene.bands[0].path} does not say whether it is sigma0 or gamma0; give --quantity")
        if said is not None and known is not None and said != known:
            raise UserError(f"{scene.bands[0].path} says it is {said}, expected {known}; prepare them apart")
        known = known or said
    assert known is not None
    return known
