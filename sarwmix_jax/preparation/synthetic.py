"""Synthetic dual-polarisation scenes of known land-cover classes, as records.

A scene is a pattern of fields (Voronoi cells, overlaid with coasts, rivers and settlements). Each field has one class
and its own mean backscatter; the power is multiplied by speckle, and point targets are added.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import pyarrow as pa
from jaxtyping import Float, Int

from sarwmix_jax.data.records import Contract, Record, read_contract
from sarwmix_jax.errors import UserError
from sarwmix_jax.facts.labels import CLASSES
from sarwmix_jax.preparation.plan import Plan, Row
from sarwmix_jax.preparation.shards import Read, prepare
from sarwmix_jax.preparation.writer import RECORDS_PER_SHARD

SIDE = 120
LOOKS = 4.4
"""Equivalent number of looks of Sentinel-1 IW GRD at high resolution."""


@dataclass(frozen=True)
class Cover:
    """C-band backscatter of one class around 38 degrees incidence.

    Attributes:
        name: One of the 19 BigEarthNet classes.
        vv_db: Mean sigma0 in VV, dB.
        cross_db: Difference VV minus VH, dB.
        field_db: Standard deviation between fields (moisture, growth, season), dB.
        texture_db: Standard deviation inside a field beyond speckle, dB.
        share: Frequency of fields of this class, relative to the others.
        points: Bright point targets per hectare (100 pixels).
    """

    name: str
    vv_db: float
    cross_db: float
    field_db: float
    texture_db: float
    share: float
    points: float = 0.0


# Typical values from the literature on Sentinel-1 (as the class means over Europe in BigEarthNet's statistics, mean
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
"""Thermal noise that remains in the product, linear; it raises the VH of calm water."""


@dataclass(frozen=True)
class SyntheticScene:
    """One synthetic scene: backscatter in dB and the class number (index of `_ALL`) of every pixel."""

    image_db: Float[np.ndarray, "2 side side"]
    cover: Int[np.ndarray, "side side"]

    @property
    def labels(self) -> tuple[str, ...]:
        """Classes that cover at least one percent of the scene."""
        counts = np.bincount(self.cover.ravel(), minlength=len(_ALL))
        return tuple(_ALL[number].name for number in np.flatnonzero(counts >= 0.01 * self.cover.size))


def make_scene(rng: np.random.Generator, side: int = SIDE) -> SyntheticScene:
    """Draw one scene.

    Args:
        rng: Generator of all random numbers.
        side: Rows and columns in pixels of 10 m.

    Returns:
        The scene, bands in the order VH, VV.
    """
    fields, cover_of_field = _fields(rng, side)
    fields, cover_of_field = _with_water(rng, fields, cover_of_field)
    vh_db, vv_db = _mean_db(rng, fields, cover_of_field)
    cover = cover_of_field[fields]
    power = 10 ** (np.stack([vh_db, vv_db]).astype(np.float32) / 10) + np.float32(_NOISE_FLOOR)
    power *= rng.standard_gamma(LOOKS, power.shape, np.float32) / np.float32(LOOKS)
    power += _point_targets(rng, cover)
    return SyntheticScene(10 * np.log10(np.maximum(power, np.float32(1e-6))), cover)


def _fields(rng: np.random.Generator, side: int) -> tuple[np.ndarray, np.ndarray]:
    """Parcels: the nearest of random centres, in a sheared frame so that fields are in rows."""
    count = int(rng.integers(5, 45))
    angle, stretch = rng.uniform(0, np.pi), rng.uniform(1.0, 2.5)
    turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]]) * [[1.0], [stretch]]
    shift = (_smooth_noise(rng, side, 6) * rng.uniform(0, 3)).astype(np.float32)
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
    rng: np.random.Generator, fields: np.ndarray, cover_of_field: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Add a sea behind a coast, a lake, or a river to some of the scenes."""
    side = len(fields)
    kind = rng.choice(("none", "coast", "lake", "river"), p=(0.55, 0.15, 0.15, 0.15))
    if kind == "none":
        return fields, cover_of_field
    rows, columns = np.meshgrid(np.arange(side), np.arange(side), indexing="ij")
    angle = rng.uniform(0, 2 * np.pi)
    along = (rows - rng.uniform(0.2, 0.8) * side) * np.cos(angle) + (columns - side / 2) * np.sin(angle)
    edge = _smooth_noise(rng, side, 8) * 6 + _smooth_noise(rng, side, 20) * 1.5
    if kind == "coast":
        water = along + edge > 0
    elif kind == "river":
        water = np.abs(along + 2 * edge) < rng.uniform(1.5, 6)
    else:
        middle = rng.uniform(0.2, 0.8, 2) * side
        water = np.hypot(rows - middle[0], columns - middle[1]) + edge < rng.uniform(0.08, 0.3) * side
    number = _ALL.index(SEA if kind == "coast" else INLAND_WATER)
    return np.where(water, len(cover_of_field), fields), np.append(cover_of_field, number)


def _mean_db(rng: np.random.Generator, fields: np.ndarray, cover_of_field: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Mean VH and VV in dB of every pixel: class, field, and texture."""
    covers = [_ALL[number] for number in cover_of_field]
    offset = rng.standard_normal(len(covers)) * [cover.field_db for cover in covers]
    cross = np.array([cover.cross_db for cover in covers]) + 0.6 * rng.standard_normal(len(covers))
    vv_of_field = np.array([cover.vv_db for cover in covers]) + offset
    texture = _smooth_noise(rng, len(fields), 40) * np.array([cover.texture_db for cover in covers])[fields]
    vv_db = vv_of_field[fields] + texture
    return vv_db - cross[fields], vv_db


def _point_targets(rng: np.random.Generator, cover: np.ndarray) -> np.ndarray:
    """Power of bright points (corners of buildings, pylons, ships), each spread over neighbouring pixels."""
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


def _smooth_noise(rng: np.random.Generator, side: int, knots: int) -> np.ndarray:
    """Noise of unit variance at `knots` points per side, with linear interpolation in between."""
    values = rng.standard_normal((knots + 1, knots + 1))
    places = np.linspace(0, knots, side, endpoint=False)
    low = places.astype(int)
    part = places - low
    rows = values[low] * (1 - part)[:, None] + values[low + 1] * part[:, None]
    return rows[:, low] * (1 - part) + rows[:, low + 1] * part


def draw_record(seed: int, side: int, row: Row) -> Record:
    """The record of a row of the plan, from a separate random stream: the same in every process and order."""
    scene = make_scene(np.random.default_rng([seed, *row["split"].encode(), row["number"]]), side)
    return Record(scene.image_db, row["patch_id"], labels=scene.labels)


def synthetic_plan(
    counts: Mapping[str, int], *, seed: int = 0, side: int = SIDE, records_per_shard: int = RECORDS_PER_SHARD
) -> tuple[Plan, Read]:
    """The plan of a set of scenes, and the function that draws a scene.

    Args:
        counts: Scenes by split.
        seed: The same seed gives the same records.
        side: Rows and columns of a scene.
        records_per_shard: Largest number of records in a file.

    Raises:
        UserError: A count or the seed is negative, all counts are 0, or the side is below 1.
    """
    for name, value in {**counts, "seed": seed}.items():
        if value < 0:
            raise UserError(f"{name} {value}: give 0 or more")
    if side < 1:
        raise UserError(f"side {side}: give 1 or more")
    if not any(counts.values()):
        raise UserError(f"no scenes: {', '.join(counts)} are all 0; give one of them above 0")
    contract = Contract(
        name="synthetic_scenes",
        version="1.0.0",
        source=f"synthetic land-cover scenes, seed {seed}, {LOOKS} looks",
        quantity="sigma0",
        height=side,
        width=side,
        classes=CLASSES,
    )
    rows = [
        {"patch_id": f"synthetic_{split}_{number:06d}", "split": split, "number": number}
        for split, count in counts.items()
        for number in range(count)
    ]
    plan = Plan(contract, pa.Table.from_pylist(rows), records_per_shard, keep_order=True)
    return plan, partial(draw_record, seed, side)


def write_synthetic_records(
    out: str | Path,
    *,
    train: int,
    validation: int = 0,
    test: int = 0,
    seed: int = 0,
    side: int = SIDE,
    workers: int = 1,
) -> Contract:
    """Write synthetic scenes as a record set; the same bytes for any number of workers.

    Args:
        out: Folder to create; if the same call has created it before, it stays as it is.
        train: Scenes of the training split.
        validation: Scenes of the validation split.
        test: Scenes of the test split.
        seed: The same seed gives the same records.
        side: Rows and columns of a scene.
        workers: Number of processes that draw and write.

    Returns:
        The contract of the records.

    Raises:
        UserError: The folder holds something else or cannot be written, or a number is invalid.
    """
    plan, draw = synthetic_plan({"train": train, "validation": validation, "test": test}, seed=seed, side=side)
    prepare(plan, draw, Path(out), workers=workers)
    return read_contract(Path(out))
