"""Write synthetic dual-polarisation scenes as records.

    python data_prep/synthetic_scenes.py --out DIR --train 2000 --validation 200 --test 200 [--workers 4]

The same seed gives the same bytes for any number of workers. A stopped run goes on where it was.
"""

import sys

from sarwmix_jax.cli.main import guarded
from sarwmix_jax.command_line import Parser
from sarwmix_jax.preparation.command import add_work_arguments, run_plan
from sarwmix_jax.preparation.landscapes import SIDE
from sarwmix_jax.preparation.plan import SPLITS
from sarwmix_jax.preparation.synthetic import synthetic_plan


def main() -> None:
    """Parse the command line and write the records."""
    parser = Parser(description="Write synthetic dual-polarisation scenes as records.")
    parser.add_argument("--train", type=int, default=2000, help="scenes of the training split")
    parser.add_argument("--validation", type=int, default=200, help="scenes of the validation split")
    parser.add_argument("--test", type=int, default=200, help="scenes of the test split")
    parser.add_argument("--seed", type=int, default=0, help="the same seed gives the same records")
    parser.add_argument("--side", type=int, default=SIDE, help="rows and columns of a scene")
    add_work_arguments(parser, reads_files=False)
    arguments = parser.parse_args()
    plan, draw = synthetic_plan(
        {split: getattr(arguments, split) for split in SPLITS},
        seed=arguments.seed,
        side=arguments.side,
        records_per_shard=arguments.records_per_shard,
    )
    run_plan(arguments, plan, draw)


if __name__ == "__main__":
    sys.exit(guarded(main))
