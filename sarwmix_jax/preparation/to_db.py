"""Records in dB from arrays and scenes of any product: power to dB, nodata to a mask and a finite fill, tiles."""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pyarrow as pa
from jaxtyping import Bool, Float

from sarwmix_jax.data.records import Contract, ExcludedError, Record, RecordError
from sarwmix_jax.data.tables import read_csv
from sarwmix_jax.errors import UserError
from sarwmix_jax.facts.labels import CLASSES
from sarwmix_jax.geotiff.places import grid_name, held_out_places, places_of
from sarwmix_jax.geotiff.scenes import Scene
from sarwmix_jax.geotiff.tiles import TileGrid
from sarwmix_jax.geotiff.units import check_range, find_unit
from sarwmix_jax.plausibility import FLOOR_POWER, first_outside, power_to_db
from sarwmix_jax.preparation.plan import Row
from sarwmix_jax.progress import track

Units = Mapping[str, tuple[Scene, str]]
"""Scenes and their units, by name."""
Labels = dict[str, tuple[str, ...]]
_TEXTS = {name: pa.string() for name in ("patch_id", "s1_name", "split", "group")}
_SCHEMA = pa.schema(_TEXTS | {"row": pa.int64(), "column": pa.int64(), "labels": pa.list_(pa.string())})


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
        patch_id: Name, unique in the record set.
        nodata: Further value that means nodata.
        zeros: Meaning of values of zero or below: too low to measure (like all below -60 dB they become -60 dB), or
            outside of the image.
        **names: Further fields of `Record`: `s1_name`, `country`, `labels`.

    Returns:
        The record with its validity mask; a pixel is valid when all bands are. Invalid pixels hold the mean of the
        valid ones.

    Raises:
        RecordError: No pixel is valid, most values are negative (so they are in dB already), or one is outside of the
            range of power.
    """
    observed = np.isfinite(power)
    if nodata is not None:
        observed &= power != nodata
    low = observed & (power <= 0)
    if np.count_nonzero(observed & (power < 0)) > 0.5 * np.count_nonzero(observed) > 0:
        raise RecordError("most values are negative: they are dB, not linear power")
    outside = first_outside(power if observed.all() else np.where(observed, power, np.nan), "linear")
    if outside is not None:
        raise RecordError(f"{power[outside]:.9g} at band, row, column {outside} is not linear power; give it as nodata")
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
        patch_id: Name, unique in the record set.
        valid: Pixels that were observed, if more are invalid than those that are NaN.
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


def read_tile(scenes: Units, tiling: TileGrid, min_valid: float, row: Row) -> Record:
    """The record of a row of the plan: a tile of a scene.

    Args:
        scenes: Scenes and their units, by name.
        tiling: How they are cut into tiles.
        min_valid: Smallest share of valid pixels.
        row: The row.

    Raises:
        RecordError: A file cannot be read, or holds values that are not backscatter in the unit.
        ExcludedError: Too few pixels of the tile are valid.
    """
    scene, unit = scenes[row["s1_name"]]
    place = row["row"], row["column"]
    values = tiling.read(scene, *place)
    if (~np.isnan(values).any(axis=0)).mean() < max(min_valid, 1 / tiling.side**2):
        raise ExcludedError(f"less than {min_valid:.0%} valid pixels")
    check_range(scene, values, unit, *place)
    names: dict[str, Any] = {"s1_name": scene.name, "labels": tuple(row["labels"])}
    names |= {"crs": scene.crs, "transform": tiling.transform(scene, *place)}
    return (record_from_db if unit == "dB" else record_from_power)(values, row["patch_id"], **names)


def find_units(scenes: Sequence[Scene], unit: str | None, side: int) -> tuple[Units, list[str]]:
    """Scenes with their units by name, and why others cannot be used: smaller than a tile, or of implausible values.

    Args:
        scenes: The scenes.
        unit: Their unit as given by the user, or None.
        side: Rows and columns of a tile.
    """
    units, reasons = {}, []
    for scene in track(scenes, "looking at the values of scenes", unit="scenes"):
        try:
            if min(scene.height, scene.width) < side:
                raise RecordError(
                    f"{scene.bands[0].path} has {scene.height}x{scene.width} pixels, less than a tile of {side}; "
                    "choose a smaller --tile"
                )
            units[scene.name] = (scene, find_unit(scene, unit))
        except RecordError as error:
            reasons.append(str(error))
    return units, reasons


def read_labels(path: Path | None) -> Labels:
    """Labels by scene or tile, from a CSV with the columns `name` and `labels` (separated by `;`).

    Raises:
        UserError: The file is missing or has other columns, has a name twice, or gives no labels.
    """
    if path is None:
        return {}
    table = read_csv(path)
    if not {"name", "labels"} <= set(table.column_names):
        raise UserError(f"{path} has the columns {table.column_names}; it needs name and labels")
    names = table["name"].to_pylist()
    twice = next((name for name in names if names.count(name) > 1), None) if len(set(names)) < len(names) else None
    if twice is not None:
        raise UserError(f"{path} names {twice} twice")
    split = (filter(None, map(str.strip, text.split(";"))) for text in table["labels"].to_pylist())
    labels = dict(zip(names, map(tuple, split), strict=True))
    if not any(labels.values()):
        raise UserError(f"{path} gives no label to any name; fill the column labels, or leave out --labels")
    return labels


def class_names(labels: Labels) -> tuple[str, ...]:
    """The 19 classes of BigEarthNet if these are among them, else the names in alphabetical order."""
    found = {name for names in labels.values() for name in names}
    return CLASSES if found and found <= set(CLASSES) else tuple(sorted(found))


def tile_rows(scenes: Units, tiling: TileGrid, labels: Labels, validation: float | None) -> pa.Table:
    """The rows of the plan: every tile of every scene; all scenes of a place are in the same split.

    Args:
        scenes: Scenes by name.
        tiling: How they are cut into tiles.
        labels: Labels of scenes and tiles by name.
        validation: Share of the places for the validation split; None: see `held_out_places`.

    Raises:
        UserError: This share is not possible.
    """
    found = [scene for scene, _ in scenes.values()]
    places, counts = places_of(found).tolist(), [sum(1 for _ in tiling.places(scene)) for scene in found]
    held_out = held_out_places(places, [grid_name(scene) for scene in found], counts, validation)
    splits = ("validation" if place in held_out else "train" for place in places)
    rows = [row for scene, split in zip(found, splits, strict=True) for row in _rows(scene, tiling, labels, split)]
    return pa.Table.from_pylist(rows, _SCHEMA)


def _rows(scene: Scene, tiling: TileGrid, labels: Labels, split: str) -> Iterator[Row]:
    for row, column in tiling.places(scene):
        name = f"{scene.name}_{row:06d}_{column:06d}"
        yield {
            "patch_id": name,
            "s1_name": scene.name,
            "split": split,
            "group": f"{scene.name}_{row:06d}",
            "row": row,
            "column": column,
            "labels": list(labels.get(name, labels.get(scene.name, ()))),
        }


def tile_contract(name: str, scenes: Units, quantity: str, side: int, labels: Labels) -> Contract:
    """Contract of the records of tiles."""
    return Contract(
        name=name,
        version="1.0.0",
        source=f"{len(scenes)} Sentinel-1 GeoTIFF scenes",
        quantity=quantity,
        height=side,
        width=side,
        bands=next(iter(scenes.values()))[0].polarisations,
        classes=class_names(labels),
        has_valid_pixels=True,
        georeferenced=True,
    )
