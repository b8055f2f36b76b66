r"""The command `sarwmix prepare bigearthnet-v1`.

    sarwmix prepare bigearthnet-v1 --root DIR --out records/bigearthnet_v1 --names s1_s2_name_country_season.csv \
        --splits train=train.csv validation=val.csv test=test.csv --workers 8

`--root` is the folder that holds `BigEarthNet-S1-v1.0/`; instead, `--zarr` is the Zarr store of the published system
(`sentinel1/<s1_name>/{VH,VV}`, labels as attribute). Split lists are the official ones (one S2 name per line, mapped by
`--names`) or CSVs with the S1 name in a column. Lists may be compressed. Patches with none of the 19 classes are left
out and counted, those with snow or cloud if lists of them are given: `--exclude snow=FILE cloud=FILE`, or the metadata
of BigEarthNet v2 (parquet), whose flags mark them. A stopped run continues where it was.
"""

import argparse
from functools import partial
from pathlib import Path

from sarwmix_jax.cli.prepare.frame import add_work_arguments, run_plan
from sarwmix_jax.errors import UserError
from sarwmix_jax.preparation import bigearthnet, patch_lists
from sarwmix_jax.preparation.plan import Plan


def define(parser: argparse.ArgumentParser) -> None:
    """Add the flags of the command."""
    source = parser.add_mutually_exclusive_group(required=True)
    source.add_argument("--root", type=Path, help=f"folder that holds {bigearthnet.FOLDER_V1}/")
    source.add_argument("--zarr", type=Path, help="Zarr store that holds the group sentinel1")
    parser.add_argument("--splits", nargs="+", required=True, help="train=FILE validation=FILE test=FILE")
    parser.add_argument("--names", type=Path, help="table of S1 and S2 names (s1_s2_name_country_season.csv)")
    parser.add_argument("--s1-column", type=int, help="column of the S1 name in the lists, from 0")
    parser.add_argument("--exclude", nargs="+", default=[], help="snow=FILE cloud=FILE, or metadata of v2 (parquet)")
    parser.add_argument(
        "--without-class", choices=("exclude", "keep"), default="exclude", help="patches with none of the 19 classes"
    )
    add_work_arguments(parser)


def run(options: argparse.Namespace) -> None:
    """Prepare the records.

    Raises:
        UserError: The lists, the folder or the store cannot be used, or as `prepare`.
    """
    if options.zarr is None:
        folder = bigearthnet.find_folder(options.root, bigearthnet.FOLDER_V1)
    else:
        folder = options.zarr / bigearthnet.ZARR_GROUP
        if not folder.is_dir():
            raise UserError(f"no group sentinel1 in {options.zarr}; give the Zarr store that holds it as --zarr")
    rows = patch_lists.read_lists(options.splits, options.names, options.s1_column)
    rows, counts = patch_lists.exclude(rows, patch_lists.read_exclusions(options.exclude, rows))
    notes = {"patches without class": options.without_class, "excluded by lists": counts}
    plan = Plan(bigearthnet.CONTRACT_V1, rows, options.records_per_shard, notes)
    run_plan(options, plan, partial(bigearthnet.read_v1, folder, options.zarr is not None, options.without_class))
