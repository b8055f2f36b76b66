"""Write anyone's Sentinel-1 GeoTIFFs (GRD or RTC, calibrated) as records.

    python data_prep/geotiff.py --inputs FOLDER --out DIR --tile 128 [--overlap 16] [--labels labels.csv] [--workers 8]

A scene is one file with VH and VV among its bands, or a file for each, told apart by their names. Bands, unit and
quantity are read from names, descriptions and tags where these say so (else: `--bands`, `--unit`, `--quantity`), and
what they say is checked against the values. Scenes are cut into tiles; the rest at the right and bottom is left out.
A stopped run goes on where it was.
"""

import argparse
import csv
import hashlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from rasterio.windows import Window

from sarwmix_jax.command_line import Parser
from sarwmix_jax.data.records import QUANTITIES, UNITS, Contract, ExcludedError, Record, RecordError
from sarwmix_jax.errors import UserError
from sarwmix_jax.facts.labels import CLASSES
from sarwmix_jax.geotiff.scenes import Scene, find_scenes
from sarwmix_jax.geotiff.units import find_quantity, find_unit
from sarwmix_jax.preparation.command import add_work_arguments, run_command, run_plan
from sarwmix_jax.preparation.plan import Plan, Row
from sarwmix_jax.preparation.to_db import record_from_db, record_from_power

ZEROS = ("outside", "nodata", "floor")
Labels = dict[str, tuple[str, ...]]


@dataclass(frozen=True)
class TileReader:
    """Reads a tile of a scene.

    Attributes:
        scenes: Scenes and their units, by name.
        tile: Rows and columns of a tile.
        zeros: Exact zeros are nodata where all bands are zero (`outside`), wherever they are (`nodata`), or measured.
        min_valid: Smallest share of valid pixels.
    """

    scenes: Mapping[str, tuple[Scene, str]]
    tile: int
    zeros: str
    min_valid: float

    def __call__(self, row: Row) -> Record:
        """The record of a row of the plan.

        Raises:
            RecordError: A file cannot be read.
            ExcludedError: Too few pixels of the tile are valid.
        """
        scene, unit = self.scenes[row["s1_name"]]
        values = self.without_zeros(scene.read(Window(row["column"], row["row"], self.tile, self.tile)))
        if np.isfinite(values).all(axis=0).mean() < max(self.min_valid, 1 / self.tile**2):
            raise ExcludedError(f"less than {self.min_valid:.0%} valid pixels")
        a, b, c, d, e, f = scene.transform
        x, y = a * row["column"] + b * row["row"] + c, d * row["column"] + e * row["row"] + f
        names: dict[str, Any] = {"s1_name": scene.name, "labels": tuple(row["labels"])}
        names |= {"crs": scene.crs, "transform": (a, b, x, d, e, y)}
        if unit == "dB":
            return record_from_db(values, row["patch_id"], **names)
        return record_from_power(values, row["patch_id"], **names)

    def without_zeros(self, values: np.ndarray) -> np.ndarray:
        """Values with those zeros that are nodata as NaN."""
        if self.zeros == "floor":
            return values
        zero = values == 0
        return np.where(zero.all(axis=0) if self.zeros == "outside" else zero.any(axis=0), np.nan, values)


def read_labels(path: Path | None) -> Labels:
    """Labels by scene or tile, from a CSV with the columns `name` and `labels` (separated by `;`).

    Raises:
        UserError: The file is missing or has other columns, or names something twice.
    """
    if path is None:
        return {}
    if not path.is_file():
        raise UserError(f"no file {path}")
    labels: Labels = {}
    with path.open(newline="") as file:
        reader = csv.DictReader(file)
        if not {"name", "labels"} <= set(reader.fieldnames or ()):
            raise UserError(f"{path} has the columns {reader.fieldnames}; it needs name and labels")
        for line in reader:
            if line["name"] in labels:
                raise UserError(f"{path} names {line['name']} twice")
            texts = (text.strip() for text in (line["labels"] or "").split(";"))
            labels[line["name"]] = tuple(text for text in texts if text)
    return labels


def class_names(labels: Labels) -> tuple[str, ...]:
    """The 19 classes of BigEarthNet if these are among them, else the names in alphabetical order."""
    found = {name for names in labels.values() for name in names}
    return CLASSES if found and found <= set(CLASSES) else tuple(sorted(found))


def checked_scenes(arguments: argparse.Namespace) -> tuple[dict[str, tuple[Scene, str]], str, list[str]]:
    """Scenes with their units by name, their quantity, and why some are skipped.

    Raises:
        UserError: A scene is not what it is called and `--on-error` is `stop`, or the quantity is not known.
    """
    order = None if arguments.bands is None else arguments.bands.upper().split(",")
    found, problems = find_scenes(arguments.inputs, order, arguments.nodata)
    reasons = [reason for _, reason in problems]
    scenes = {}
    for scene in found:
        try:
            if min(scene.height, scene.width) < arguments.tile:
                raise RecordError(
                    f"{scene.bands[0].path} has {scene.height}x{scene.width} pixels, less than a tile of "
                    f"{arguments.tile}; choose a smaller --tile"
                )
            scenes[scene.name] = (scene, find_unit(scene, arguments.unit))
        except RecordError as error:
            reasons.append(str(error))
    if reasons and arguments.on_error == "stop":
        raise UserError(f"{reasons[0]} ({len(reasons)} such; leave them out with --on-error=skip)")
    if not scenes:
        raise UserError(reasons[0])
    return scenes, find_quantity((scene for scene, _ in scenes.values()), arguments.quantity), reasons


def tile_rows(scene: Scene, arguments: argparse.Namespace, labels: Labels) -> Iterator[Row]:
    """The rows of the plan of one scene."""
    step = arguments.tile - arguments.overlap
    split = split_of(scene, arguments.validation)
    for row in range(0, scene.height - arguments.tile + 1, step):
        for column in range(0, scene.width - arguments.tile + 1, step):
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


def split_of(scene: Scene, validation: float) -> str:
    """`train` or `validation`, the same for all scenes of the same place."""
    place = f"{scene.crs} {scene.transform} {scene.height} {scene.width}"
    number = int.from_bytes(hashlib.blake2b(place.encode(), digest_size=8).digest()) / 2**64
    return "validation" if number < validation else "train"


def make_plan(arguments: argparse.Namespace) -> tuple[Plan, TileReader]:
    """The plan of the command line and its reader.

    Raises:
        UserError: The settings or the scenes cannot be used.
    """
    if arguments.tile < 1 or not 0 <= arguments.overlap < arguments.tile:
        raise UserError(f"--overlap={arguments.overlap}: give 0 to {arguments.tile - 1}, less than --tile")
    scenes, quantity, reasons = checked_scenes(arguments)
    labels = read_labels(arguments.labels)
    rows = [row for scene, _ in scenes.values() for row in tile_rows(scene, arguments, labels)]
    unknown = labels.keys() - scenes.keys() - {row["patch_id"] for row in rows}
    if unknown:
        raise UserError(f"{arguments.labels} names {min(unknown)}, which is no scene and no tile of one")
    contract = Contract(
        name=arguments.name,
        version="1.0.0",
        source=f"{len(scenes)} Sentinel-1 GeoTIFF scenes",
        quantity=quantity,
        height=arguments.tile,
        width=arguments.tile,
        classes=class_names(labels),
        has_valid_pixels=True,
        georeferenced=True,
    )
    settings = ("overlap", "unit", "nodata", "zeros", "min_valid")
    notes = {"scenes": len(scenes), "skipped scenes": reasons}
    notes |= {"settings": {name: getattr(arguments, name) for name in settings}}
    table = pa.Table.from_pylist(rows).cast(_schema())
    return Plan(contract, table, arguments.records_per_shard, notes), TileReader(
        scenes, arguments.tile, arguments.zeros, arguments.min_valid
    )


def _schema() -> pa.Schema:
    texts = {name: pa.string() for name in ("patch_id", "s1_name", "split", "group")}
    return pa.schema(texts | {"row": pa.int64(), "column": pa.int64(), "labels": pa.list_(pa.string())})


def main() -> None:
    """Parse the command line and prepare the records."""
    parser = Parser(description="Write anyone's Sentinel-1 GeoTIFFs as records.")
    parser.add_argument("--inputs", type=Path, nargs="+", required=True, help="GeoTIFFs, or folders that hold them")
    parser.add_argument("--tile", type=int, default=128, help="rows and columns of a tile")
    parser.add_argument("--overlap", type=int, default=0, help="pixels that neighbouring tiles share")
    parser.add_argument("--bands", help="what the bands of a file are, such as VV,VH or VV,VH,angle")
    parser.add_argument("--unit", choices=UNITS, help="unit of the values; by default as names, tags and values say")
    parser.add_argument("--quantity", choices=QUANTITIES, help="by default as names and tags say")
    parser.add_argument("--nodata", type=float, help="value of nodata, for files that do not say")
    parser.add_argument(
        "--zeros", choices=ZEROS, default="outside", help="exact zeros: nodata where all bands are, nodata, or measured"
    )
    parser.add_argument("--min-valid", type=float, default=0.5, help="smallest share of valid pixels in a tile")
    parser.add_argument("--validation", type=float, default=0.0, help="share of the places for the validation split")
    parser.add_argument("--labels", type=Path, help="CSV: name (of scene or tile), labels (separated by ;)")
    parser.add_argument("--name", default="own", help="name of the record set")
    add_work_arguments(parser)
    arguments = parser.parse_args()
    plan, reader = make_plan(arguments)
    run_plan(arguments, plan, reader)


if __name__ == "__main__":
    run_command(main)
