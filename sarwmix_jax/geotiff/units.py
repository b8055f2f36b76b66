"""Unit and quantity of scenes: what their files state, checked against samples of their values."""

from collections.abc import Iterable, Iterator, Mapping

import numpy as np
from jaxtyping import Bool, Float
from rasterio.windows import Window

from sarwmix_jax import plausibility
from sarwmix_jax.data.records import RecordError
from sarwmix_jax.errors import UserError
from sarwmix_jax.geotiff.scenes import Scene
from sarwmix_jax.geotiff.statements import AMPLITUDE
from sarwmix_jax.geotiff.values import refusal

_WINDOWS, _SIDE, _BLOCK = 4, 64, 1024
_MOSTLY = 0.5
_NO_BACKSCATTER = {
    "dB": "values are not backscatter in dB",
    "linear": "values are not linear power",
    None: "values are neither linear power nor backscatter in dB",
}
_REMEDIES = {
    plausibility.LINEAR: "use --unit=linear",
    plausibility.DECIBEL: "use --unit=dB",
    plausibility.NO_POWER: "calibrate it, or square the amplitude",
    plausibility.SCALED: "give calibrated backscatter",
    plausibility.FILL: "give --nodata",
    plausibility.SWAPPED: "correct their names",
}


def sample(scene: Scene) -> tuple[Float[np.ndarray, "window band row column"], Bool[np.ndarray, "window row column"]]:
    """Values of up to sixteen windows spread over a scene, and where they are neither nodata nor zero in all bands.

    If none of these windows has a valid pixel, the first block of the scene with one is used.

    Raises:
        RecordError: A file cannot be read, or values cannot be backscatter in any unit.
    """
    sides = (min(_SIDE, scene.height), min(_SIDE, scene.width))
    rows = np.unique(np.linspace(0, scene.height - sides[0], _WINDOWS).astype(int)).tolist()
    columns = np.unique(np.linspace(0, scene.width - sides[1], _WINDOWS).astype(int)).tolist()
    windows = [Window(column, row, sides[1], sides[0]) for row in rows for column in columns]
    values = np.stack([_read(scene, window) for window in windows])
    if np.isnan(values).any(axis=1).all():
        seen = (block for block in _blocks(scene) if not np.isnan(block).any(axis=0).all())
        values = next(seen, values[0])[None]
    valid = ~np.isnan(values).any(axis=1)
    return np.where(valid[:, None], values, 0), valid


def _blocks(scene: Scene) -> Iterator[Float[np.ndarray, "band row column"]]:
    for row in range(0, scene.height, _BLOCK):
        for column in range(0, scene.width, _BLOCK):
            sides = min(_BLOCK, scene.width - column), min(_BLOCK, scene.height - row)
            yield _read(scene, Window(column, row, *sides))


def _read(scene: Scene, window: Window) -> Float[np.ndarray, "band row column"]:
    values = scene.read(window, "outside")
    check_range(scene, values, None, int(window.row_off), int(window.col_off))
    return values


def check_range(
    scene: Scene, values: Float[np.ndarray, "band height width"], unit: str | None, row: int, column: int
) -> None:
    """Refuse values that are not backscatter in a unit, at pixels that are valid in all bands.

    Args:
        scene: The scene.
        values: Some of its values, NaN where not valid.
        unit: Their unit, or None where it is not known yet.
        row: Row of the first value in the scene.
        column: Column of the first value in the scene.

    Raises:
        RecordError: A value cannot be backscatter; the message gives file, value and position.
    """
    found = plausibility.first_outside(values, unit)
    if found is not None:
        band, down, right = found
        raise RecordError(refusal(scene.bands[band], row + down, column + right, values[found], _NO_BACKSCATTER[unit]))


def find_unit(scene: Scene, unit: str | None) -> str:
    """The unit of a scene, `dB` or `linear`: as given, else as the files state, else as the values show.

    Args:
        scene: The scene.
        unit: Unit given by the user, or None.

    Raises:
        RecordError: The values contradict the given or stated unit, or cannot be backscatter of these bands.
    """
    path, stated = scene.bands[0].path, scene.statements.units
    if AMPLITUDE in stated:
        raise RecordError(f"{path} is declared as amplitude ({stated[AMPLITUDE]}); square it to power and rename it")
    unit = _agreed(scene, stated, unit, "unit")
    values, seen = sample(scene)
    if not seen.any():
        return unit or "linear"
    negative = (values < 0).sum() / (seen.sum() * len(scene.bands))
    found = unit or ("dB" if negative > _MOSTLY else "linear")
    judge = plausibility.judge_db if found == "dB" else plausibility.judge_power
    problem = judge(values, scene.polarisations, seen)
    if problem is not None:
        remedy = _REMEDIES[problem.kind]
        if stated and problem.kind in (plausibility.LINEAR, plausibility.DECIBEL):
            remedy = f"correct {next(iter(stated.values()))}"
        raise RecordError(f"{path}: taken as {found}, but {problem.reason}; {remedy}")
    return found


def _agreed(scene: Scene, stated: Mapping[str, str], named: str | None, what: str) -> str | None:
    """Unit or quantity as given by the user and stated by the files; the user decides between several statements.

    Raises:
        RecordError: They disagree.
    """
    path = scene.bands[0].path
    statements = " and ".join(f"{value} ({where})" for value, where in stated.items())
    if named is not None and stated and named not in stated:
        raise RecordError(f"{path} is declared as {statements}, expected {named}; correct one")
    if named is None and len(stated) > 1:
        raise RecordError(f"{path} is declared as {statements}; correct one, or give --{what}")
    return named or next(iter(stated), None)


def find_quantity(scenes: Iterable[Scene], named: str | None) -> str:
    """The quantity of all scenes.

    Raises:
        UserError: Scenes state another quantity than given, none, or different ones.
    """
    known = named
    for scene in scenes:
        try:
            stated = _agreed(scene, scene.statements.quantities, named, "quantity")
        except RecordError as error:
            raise UserError(str(error)) from None
        if stated is None:
            raise UserError(f"{scene.bands[0].path} does not state whether it is sigma0 or gamma0; give --quantity")
        if known is not None and stated != known:
            raise UserError(f"{scene.bands[0].path} is {stated}, but others are {known}; prepare them separately")
        known = stated
    assert known is not None
    return known
