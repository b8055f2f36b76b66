"""Synthetic dual-polarisation scenes of known land-cover classes.

A scene is a pattern of fields (Voronoi cells, with coasts, rivers and settlements laid over them), each field of one
class with its own mean backscatter; speckle multiplies the power, and point targets are added. How fine the pattern is
depends on the landscape: `small_parcels`, or `large_parcels`, whose structures are mostly longer than the 32 pixels of
a mask cell, so that a hidden cell can be continued from those around it.
"""

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int

from sarwmix_jax.errors import UserError

SIDE = 120
LOOKS = 4.4
"""Equivalent number of looks of Sentinel-1 IW GRD at high resolution."""


@dataclass(frozen=True)
class Cover:
    """C-band backscatter of one class around 38 degrees incidence.

    Attributes:
        name: One of the 19 BigEarthNet classes.
        vv_db: Mean sigma0 in VV, dB.
        cross_db: VH below VV by this, dB.
        field_db: Standard deviation between fields (moisture, growth, season), dB.
        texture_db: Standard deviation inside a field beyond speckle, dB.
        share: How often fields are of this class, relative to the others.
        points: Bright point targets per hectare (100 pixels).
    """

    name: str
    vv_db: float
    cross_db: float
    field_db: float
    texture_db: float
    share: float
    points: float = 0.0


# Literature-typical values for Sentinel-1 (such as the class means over Europe in the BigEarthNet statistics, mean
# -12.6 dB VV and -19.2 dB VH over all classes, and C-band surveys of crops, forests and water: volume scattering of
# forests raises VH to 6 dB below VV, smooth water lies at -18 to -24 dB VV, near the noise floor of about -27 dB in
# VH; buildings return strongly in both). They give plausible contrasts, not a calibration.
COVERS = (
    Cover("Urban fabric", -7.0, 6.3, 1.2, 2.2, 0.9, points=1.2),
    Cover("Industrial or commercial units", -5.0, 7.0, 1.5, 2.8, 0.4, points=2.5),
    Cover("Arable land", -11.5, 7.2, 2.2, 0.3, 4.0, points=0.01),
    Cover("Permanent crops", -11.0, 6.4, 1.2, 0.8, 0.6),
    Cover("Pastures", -13.0, 7.2, 1.2, 0.4, 1.6, points=0.01),
    Cover("Broad-leaved forest", -9.8, 5.6, 0.7, 0.6, 1.6),
    Cover("Coniferous forest", -10.8, 6.0, 0.7, 0.7, 2.0),
    Cover("Natural grassland and sparsely vegetated areas", -14.5, 7.5, 1.3, 0.6, 0.5),
    Cover("Moors, heathland and sclerophyllous vegetation", -13.2, 6.6, 1.1, 0.7, 0.5),
    Cover("Beaches, dunes, sands", -16.5, 8.0, 1.5, 0.5, 0.1),
    Cover("Inland wetlands", -13.5, 7.5, 1.8, 0.8, 0.4),
)
INLAND_WATER = Cover("Inland waters", -20.5, 6.0, 1.8, 0.2, 0.0)
SEA = Cover("Marine waters", -17.0, 8.5, 2.0, 0.3, 0.0)
_ALL = (*COVERS, INLAND_WATER, SEA)
_NOISE_FLOOR = 10 ** (-27.0 / 10)
"""Thermal noise that stays in the product, linear; it lifts the VH of calm water."""


class Range(NamedTuple):
    """Ends of a uniform distribution."""

    low: float
    high: float


@dataclass(frozen=True)
class Landscape:
    """How fine the pattern of a scene is; lengths hold for a side of 120 pixels.

    Attributes:
        parcels: Fewest parcels, and one more than the most.
        stretch: Length of a parcel by its width.
        bends: Points a side, and most pixels, by which borders are bent.
        smooth: Whether noise between its points is smooth, not linear.
        water: Shares of scenes without water, with a sea, a lake, a river.
        shores: Points a side of the noise in shore lines, and its pixels.
        middle: Where shore lines pass, as a share of the side.
        river: Half the width of rivers, pixels.
        lake: Radius of lakes, as a share of the side.
        relief: Share of scenes with ridges and valleys.
    """

    parcels: tuple[int, int]
    stretch: Range
    bends: tuple[int, float]
    smooth: bool
    water: tuple[float, float, float, float]
    shores: tuple[tuple[int, float], ...]
    middle: Range
    river: Range
    lake: Range
    relief: float


LANDSCAPES = {
    "small_parcels": Landscape(
        parcels=(5, 45),
        stretch=Range(1.0, 2.5),
        bends=(6, 3.0),
        smooth=False,
        water=(0.55, 0.15, 0.15, 0.15),
        shores=((8, 6.0), (20, 1.5)),
        middle=Range(0.2, 0.8),
        river=Range(1.5, 6.0),
        lake=Range(0.08, 0.3),
        relief=0.0,
    ),
    "large_parcels": Landscape(
        parcels=(2, 6),
        stretch=Range(1.5, 3.0),
        bends=(3, 4.0),
        smooth=True,
        water=(0.1, 0.4, 0.15, 0.35),
        shores=((3, 7.0),),
        middle=Range(0.25, 0.75),
        river=Range(4.0, 9.0),
        lake=Range(0.18, 0.35),
        relief=0.8,
    ),
}


def find_landscape(name: str) -> Landscape:
    """The landscape of this name.

    Raises:
        UserError: There is none.
    """
    if name not in LANDSCAPES:
        raise UserError(f"no landscape {name!r}: give one of {', '.join(LANDSCAPES)}")
    return LANDSCAPES[name]


@dataclass(frozen=True)
class SyntheticScene:
    """One synthetic scene: backscatter in dB, class number (into `_ALL`) of every pixel, and dB without speckle."""

    image_db: Float[np.ndarray, "2 side side"]
    cover: Int[np.ndarray, "side side"]
    speckle_free_db: Float[np.ndarray, "2 side side"]

    @property
    def labels(self) -> tuple[str, ...]:
        """Classes that cover at least one percent of the scene."""
        counts = np.bincount(self.cover.ravel(), minlength=len(_ALL))
        return tuple(_ALL[number].name for number in np.flatnonzero(counts >= 0.01 * self.cover.size))


def make_scene(rng: np.random.Generator, side: int = SIDE, landscape: str = "small_parcels") -> SyntheticScene:
    """Draws one scene.

    Args:
        rng: Source of all randomness.
        side: Rows and columns in pixels of 10 m.
        landscape: One of `LANDSCAPES`.

    Returns:
        The scene, bands in the order VH, VV.

    Raises:
        UserError: There is no such landscape.
    """
    kind = find_landscape(landscape)
    fields, cover_of_field = _with_water(rng, kind, *_fields(rng, kind, side))
    vh_db, vv_db = _mean_db(rng, kind, fields, cover_of_field)
    cover = cover_of_field[fields]
    power = 10 ** (np.stack([vh_db, vv_db]).astype(np.float32) / 10) + np.float32(_NOISE_FLOOR)
    speckle = rng.standard_gamma(LOOKS, power.shape, np.float32) / np.float32(LOOKS)
    points = _point_targets(rng, cover)
    return SyntheticScene(_db(power * speckle + points), cover, _db(power + points))


def _db(power: np.ndarray) -> np.ndarray:
    return 10 * np.log10(np.maximum(power, np.float32(1e-6)))


def _fields(rng: np.random.Generator, kind: Landscape, side: int) -> tuple[np.ndarray, np.ndarray]:
    """Parcels: the nearest of random centres, in a sheared frame of its own so that fields lie in rows."""
    count = int(rng.integers(*kind.parcels))
    angle, stretch = rng.uniform(0, np.pi), rng.uniform(*kind.stretch)
    turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]]) * [[1.0], [stretch]]
    points, most = kind.bends
    shift = (_noise(rng, side, points, kind.smooth) * rng.uniform(0, most)).astype(np.float32)
    rows, columns = (np.arange(side, dtype=np.float32) + part for part in (shift.T, shift))
    across, along = (float(a) * rows.T + float(b) * columns for a, b in turn)
    nearest = np.full((side, side), np.inf, np.float32)
    fields = np.zeros((side, side), np.int64)
    for number, (row, column) in enumerate(rng.uniform(0, side, (count, 2)) @ turn.T):
        distance = np.square(across - np.float32(row)) + np.square(along - np.float32(column))
        fields[distance < nearest] = number
        np.minimum(nearest, distance, out=nearest)
    # A landscape is dominated by few classes.
    shares = np.array([cover.share for cover in COVERS]) * rng.gamma(0.6, 1.0, len(COVERS)) + 1e-9
    return fields, rng.choice(len(COVERS), count, p=shares / shares.sum())


def _with_water(
    rng: np.random.Generator, kind: Landscape, fields: np.ndarray, cover_of_field: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Lay a sea behind a coast, a lake, or a river over some of the scenes."""
    side = len(fields)
    what = rng.choice(("none", "coast", "lake", "river"), p=kind.water)
    if what == "none":
        return fields, cover_of_field
    rows, columns = np.meshgrid(np.arange(side), np.arange(side), indexing="ij")
    angle = rng.uniform(0, 2 * np.pi)
    along = (rows - rng.uniform(*kind.middle) * side) * np.cos(angle) + (columns - side / 2) * np.sin(angle)
    edge = sum(_noise(rng, side, points, kind.smooth) * pixels for points, pixels in kind.shores)
    if what == "coast":
        water = along + edge > 0
    elif what == "river":
        water = np.abs(along + 2 * edge) < rng.uniform(*kind.river)
    else:
        middle = rng.uniform(*kind.middle, 2) * side
        water = np.hypot(rows - middle[0], columns - middle[1]) + edge < rng.uniform(*kind.lake) * side
    number = _ALL.index(SEA if what == "coast" else INLAND_WATER)
    return np.where(water, len(cover_of_field), fields), np.append(cover_of_field, number)


def _mean_db(
    rng: np.random.Generator, kind: Landscape, fields: np.ndarray, cover_of_field: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Mean VH and VV in dB of every pixel: class, field, texture and relief."""
    covers = [_ALL[number] for number in cover_of_field]
    offset = rng.standard_normal(len(covers)) * [cover.field_db for cover in covers]
    cross = np.array([cover.cross_db for cover in covers]) + 0.6 * rng.standard_normal(len(covers))
    vv_of_field = np.array([cover.vv_db for cover in covers]) + offset
    texture = _noise(rng, len(fields), 40, kind.smooth) * np.array([cover.texture_db for cover in covers])[fields]
    vv_db = vv_of_field[fields] + texture
    if kind.relief and rng.random() < kind.relief:
        vv_db += _relief(rng, len(fields)) * np.array([cover not in (INLAND_WATER, SEA) for cover in covers])[fields]
    return vv_db - cross[fields], vv_db


def _relief(rng: np.random.Generator, side: int) -> np.ndarray:
    """Parallel ridges, dB: slopes that face the radar are bright, those behind dark."""
    rows, columns = np.meshgrid(np.arange(side), np.arange(side), indexing="ij")
    angle, length = rng.uniform(0, np.pi), rng.uniform(60, 130)
    bent = _noise(rng, side, 3, smooth=True) * rng.uniform(0, 0.12) * length
    phase = 2 * np.pi * ((np.cos(angle) * rows + np.sin(angle) * columns + bent) / length + rng.uniform())
    slopes: np.ndarray = rng.uniform(1.5, 3.0) * np.sin(phase)
    return slopes


def _point_targets(rng: np.random.Generator, cover: np.ndarray) -> np.ndarray:
    """Power of bright points (corners of buildings, pylons, ships), each spread over its neighbours."""
    side = len(cover)
    density = np.array([c.points / 100 for c in COVERS] + [0.0, 0.0002])
    rows, columns = np.nonzero(rng.random(cover.shape) < density[cover])
    power = np.zeros((2, side + 4, side + 4), np.float32)
    spread = np.array([0.01, 0.25, 1.0, 0.25, 0.01], np.float32)
    strength = 10 ** (rng.normal(5.0, 4.0, len(rows)) / 10)
    cross = 10 ** (-rng.uniform(4.0, 12.0, len(rows)) / 10)
    for row, column, vv, ratio in zip(rows, columns, strength, cross, strict=True):
        stamp = vv * np.outer(spread, spread)
        power[0, row : row + 5, column : column + 5] += ratio * stamp
        power[1, row : row + 5, column : column + 5] += stamp
    return power[:, 2:-2, 2:-2]


def _noise(rng: np.random.Generator, side: int, points: int, smooth: bool) -> np.ndarray:
    """Noise of unit variance at `points` points a side, in between linear or smooth."""
    values = rng.standard_normal((points + 1, points + 1))
    places = np.linspace(0, points, side, endpoint=False)
    low = places.astype(int)
    part = places - low
    part = part * part * (3 - 2 * part) if smooth else part
    rows = values[low] * (1 - part)[:, None] + values[low + 1] * part[:, None]
    return rows[:, low] * (1 - part) + rows[:, low + 1] * part
