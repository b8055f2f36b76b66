"""Write the Sentinel-1 part of BigEarthNet v2 as records.

    python data_prep/bigearthnet_v2.py --root DIR --metadata metadata.parquet --out DIR [--workers 8]

`--root` is the folder that holds `BigEarthNet-S1/`. More metadata files (the one of patches with snow, cloud or
shadow; or `train=train.csv` files in the form of the published system) may follow the first. A stopped run goes on
where it was. On several machines: `--shard 1/3`, `--shard 2/3`, `--shard 3/3` with the same `--out`, then `--merge`.
"""

import sys
from functools import partial
from pathlib import Path

from sarwmix_jax.cli.main import guarded
from sarwmix_jax.command_line import Parser
from sarwmix_jax.preparation import bigearthnet, patch_lists
from sarwmix_jax.cli.prepare.frame import add_work_arguments, run_plan
from sarwmix_jax.preparation.plan import Plan


def main() -> None:
    """Parse the command line and prepare the records."""
    parser = Parser(description="Write the Sentinel-1 part of BigEarthNet v2 as records.")
    parser.add_argument("--root", type=Path, required=True, help="folder that holds BigEarthNet-S1/")
    parser.add_argument("--metadata", nargs="+", required=True, help="metadata.parquet, or train=train.csv ...")
    add_work_arguments(parser)
    arguments = parser.parse_args()
    folder = bigearthnet.find_folder(arguments.root, bigearthnet.FOLDER_V2)
    rows = patch_lists.read_metadata(arguments.metadata)
    plan = Plan(bigearthnet.CONTRACT_V2, rows, arguments.records_per_shard)
    run_plan(arguments, plan, partial(bigearthnet.read_v2, folder))


if __name__ == "__main__":
    sys.exit(guarded(main))
