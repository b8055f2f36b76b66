"""The command `sarwmix prepare bigearthnet-v2`.

    sarwmix prepare bigearthnet-v2 --root DIR --metadata metadata.parquet --out records/bigearthnet_v2 --workers 8

`--root` is the folder that holds `BigEarthNet-S1/`. More metadata files (the one of patches with snow, cloud or
shadow; or `train=train.csv` files in the form of the published system) may follow the first. A stopped run continues
where it was. On several machines: `--shard 1/3`, `--shard 2/3`, `--shard 3/3` with the same `--out`, then `--merge`.
"""

import argparse
from functools import partial
from pathlib import Path

from sarwmix_jax.cli.prepare.frame import add_work_arguments, run_plan
from sarwmix_jax.preparation import bigearthnet, patch_lists
from sarwmix_jax.preparation.plan import Plan


def define(parser: argparse.ArgumentParser) -> None:
    """Add the flags of the command."""
    parser.add_argument("--root", type=Path, required=True, help="folder that holds BigEarthNet-S1/")
    parser.add_argument("--metadata", nargs="+", required=True, help="metadata.parquet, or train=train.csv ...")
    add_work_arguments(parser)


def run(options: argparse.Namespace) -> None:
    """Prepare the records.

    Raises:
        UserError: The metadata or the folder cannot be used, or as `prepare`.
    """
    folder = bigearthnet.find_folder(options.root, bigearthnet.FOLDER_V2)
    rows = patch_lists.read_metadata(options.metadata)
    plan = Plan(bigearthnet.CONTRACT_V2, rows, options.records_per_shard)
    run_plan(options, plan, partial(bigearthnet.read_v2, folder))
