"""The command `sarwmix prepare synthetic`.

    sarwmix prepare synthetic --out records/synthetic --train 2000 --validation 200 --test 200 --workers 4

The same seed gives the same bytes for any number of workers. A stopped run continues where it was.
"""

import argparse

from sarwmix_jax.cli.prepare.frame import add_work_arguments, run_plan
from sarwmix_jax.preparation.landscapes import LANDSCAPES, SIDE
from sarwmix_jax.preparation.plan import SPLITS
from sarwmix_jax.preparation.synthetic import synthetic_plan


def define(parser: argparse.ArgumentParser) -> None:
    """Add the flags of the command."""
    parser.add_argument("--train", type=int, default=2000, help="scenes of the training split")
    parser.add_argument("--validation", type=int, default=200, help="scenes of the validation split")
    parser.add_argument("--test", type=int, default=200, help="scenes of the test split")
    parser.add_argument("--seed")
    parser.add_argument("--side", type=int, default=SIDE, help="rows and columns of a scene")
    parser.add_argument(
        "--landscape",
        choices=tuple(LANDSCAPES),
        default="small_parcels",
        help="large_parcels: few parcels, ridges and water, most of them longer than a mask cell, as in the demo",
    )
    add_work_arguments(parser, reads_files=False)


def run(options: argparse.Namespace) -> None:
    """Prepare the records.

    Raises:
        UserError: As `prepare`.
    """
    plan, draw = synthetic_plan(
        {split: getattr(options, split) for split in SPLITS},
        seed=options.seed,
        side=options.side,
        landscape=options.landscape,
        records_per_shard=options.records_per_shard,
    )
    run_plan(options, plan, draw)
