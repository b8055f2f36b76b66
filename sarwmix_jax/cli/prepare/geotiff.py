"""The command `sarwmix prepare geotiff`.

    sarwmix prepare geotiff --inputs FOLDER --out records/own --tile 128 --workers 8
    sarwmix prepare geotiff --inputs A_VH.tif A_VV.tif --out records/own --overlap 16 --labels labels.csv

A scene is one file with VH and VV among its bands, or a file for each, distinguished by their names. Bands, unit and
quantity are read from names, descriptions and tags where these state them (else: `--bands`, `--unit`, `--quantity`) and
checked against the values. Scenes are cut into tiles; the rest at the right and bottom is left out.
A stopped run continues where it was.
"""

import argparse
import math
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import get_args

from sarwmix_jax.cli.prepare.frame import add_work_arguments, run_plan
from sarwmix_jax.data.records import QUANTITIES, UNITS
from sarwmix_jax.errors import UserError
from sarwmix_jax.geotiff.scenes import Scene, count_ancillary, find_scenes
from sarwmix_jax.geotiff.tiles import TileGrid
from sarwmix_jax.geotiff.units import find_quantity
from sarwmix_jax.geotiff.values import Zeros
from sarwmix_jax.preparation.plan import Plan
from sarwmix_jax.preparation.shards import Read
from sarwmix_jax.preparation.to_db import find_units, read_labels, read_tile, tile_contract, tile_rows


def check_effects(arguments: argparse.Namespace, tiling: TileGrid, scenes: Sequence[Scene]) -> None:
    """Refuse options that would have no effect: the user expects one.

    Raises:
        UserError: A share is outside of 0 to 1, or an option has no effect on these scenes.
    """
    if not 0 <= arguments.min_valid <= 1:
        raise UserError(f"--min-valid={arguments.min_valid}: a share is 0 to 1")
    if arguments.nodata is not None and math.isnan(arguments.nodata):
        raise UserError("--nodata=nan: NaN is always nodata; leave it out")
    step = tiling.side - tiling.overlap
    if tiling.overlap and all(max(scene.height, scene.width) < tiling.side + step for scene in scenes):
        raise UserError(
            f"--overlap={tiling.overlap}: no scene has room for a second tile of {tiling.side}; leave it out"
        )


def make_plan(arguments: argparse.Namespace) -> tuple[Plan, Read]:
    """The plan of the command line and its reader.

    Raises:
        UserError: The settings or the scenes cannot be used.
    """
    tiling = TileGrid(arguments.tile, arguments.overlap, arguments.zeros)
    order = None if arguments.bands is None else arguments.bands.upper().split(",")
    found, problems = find_scenes(arguments.inputs, order, arguments.nodata)
    if passed_over := count_ancillary(arguments.inputs):
        print(f"skipped files without backscatter: {passed_over}")
    scenes, unusable = find_units(found, arguments.unit, tiling.side)
    reasons = [reason for _, reason in problems] + unusable
    if reasons and arguments.on_error == "stop":
        raise UserError(f"{reasons[0]} ({len(reasons)} such; leave them out with --on-error=skip)")
    if not scenes:
        raise UserError(reasons[0] if reasons else "no file with backscatter in the inputs")
    check_effects(arguments, tiling, [scene for scene, _ in scenes.values()])
    quantity = find_quantity((scene for scene, _ in scenes.values()), arguments.quantity)
    labels = read_labels(arguments.labels)
    settings = {name: getattr(arguments, name) for name in ("overlap", "unit", "nodata", "zeros", "min_valid")}
    notes = {"scenes": len(scenes), "skipped scenes": reasons, "settings": settings}
    contract = tile_contract(arguments.name, scenes, quantity, tiling.side, labels)
    rows = tile_rows(scenes, tiling, labels, arguments.validation)
    if arguments.validation is None and "validation" not in set(rows["split"].to_pylist()):
        print("no validation split: all scenes lie in one place, and neighbouring tiles are too alike to validate on")
    unknown = labels.keys() - scenes.keys() - set(rows["patch_id"].to_pylist())
    if unknown:
        raise UserError(f"{arguments.labels} names {min(unknown)}, which is neither a scene nor a tile")
    return Plan(contract, rows, arguments.records_per_shard, notes), partial(
        read_tile, scenes, tiling, arguments.min_valid
    )


def define(parser: argparse.ArgumentParser) -> None:
    """Add the flags of the command."""
    parser.add_argument("--inputs", type=Path, nargs="+", required=True, help="GeoTIFFs, or folders that hold them")
    parser.add_argument("--tile", type=int, default=128, help="rows and columns of a tile")
    parser.add_argument("--overlap", type=int, default=0, help="pixels that neighbouring tiles share")
    parser.add_argument("--bands", help="what the bands of a file are, such as VV,VH or VV,VH,angle")
    parser.add_argument("--unit", choices=UNITS, help="unit of the values; by default as names, tags and values state")
    parser.add_argument("--quantity", choices=QUANTITIES, help="by default as names and tags state")
    parser.add_argument("--nodata", type=float, help="value of nodata as stored, besides what the files state")
    zeros = "exact zeros: nodata where all bands are, nodata, or measured"
    parser.add_argument("--zeros", choices=get_args(Zeros), default="outside", help=zeros)
    parser.add_argument("--min-valid", type=float, default=0.5, help="smallest share of valid pixels in a tile")
    share = "share of the places for the validation split; by default a tenth, or none where all scenes are one place"
    parser.add_argument("--validation", type=float, help=share)
    parser.add_argument("--labels", type=Path, help="CSV: name (of scene or tile), labels (separated by ;)")
    parser.add_argument("--name", default="own", help="name of the record set")
    add_work_arguments(parser)


def run(options: argparse.Namespace) -> None:
    """Prepare the records.

    Raises:
        UserError: The scenes cannot be used, or as `prepare`.
    """
    run_plan(options, *make_plan(options))
