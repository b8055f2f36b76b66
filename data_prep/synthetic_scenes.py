"""Write synthetic dual-polarisation scenes as records.

python data_prep/synthetic_scenes.py --out DIR --train 2000 --validation 200 --test 200
"""

import argparse
from pathlib import Path

from sarwmix_jax.data.command import run_command
from sarwmix_jax.data.synthetic import SIDE, write_synthetic_records


def main() -> None:
    """Parse the command line and write the records."""
    parser = argparse.ArgumentParser(description="Write synthetic dual-polarisation scenes as records.")
    parser.add_argument("--out", type=Path, required=True, help="folder to make")
    parser.add_argument("--train", type=int, default=2000, help="scenes of the training split")
    parser.add_argument("--validation", type=int, default=200, help="scenes of the validation split")
    parser.add_argument("--test", type=int, default=200, help="scenes of the test split")
    parser.add_argument("--seed", type=int, default=0, help="the same seed gives the same records")
    parser.add_argument("--side", type=int, default=SIDE, help="rows and columns of a scene")
    arguments = vars(parser.parse_args())
    contract = write_synthetic_records(arguments.pop("out"), **arguments)
    print(f"wrote {contract.records} records: {contract.statistics}")


if __name__ == "__main__":
    run_command(main)
