"""The command `sarwmix checkpoints verify`.

    sarwmix checkpoints verify runs/base
    sarwmix checkpoints verify runs/base --step 12000

Reads every array and compares it with the checksum that was written with it. Exit code 1 if a checkpoint is damaged;
those of earlier versions have no checksums: they are read, and stated as unchecked.
"""

import argparse
import sys
from pathlib import Path

from sarwmix_jax.errors import FAILED


def define(parser: argparse.ArgumentParser) -> None:
    """Add the flags of the command."""
    parser.add_argument("place", type=Path, metavar="PLACE", help="run, folder of checkpoints, or converted folder")
    parser.add_argument("--step", type=int, help="only the checkpoint of this step; by default all of the folder")


def run(options: argparse.Namespace) -> int:
    """Verify checkpoints, one line each; returns the exit code.

    Raises:
        UserError: There is none.
    """
    from sarwmix_jax.checkpoints.loading import verify
    from sarwmix_jax.training.logs import quiet_libraries

    quiet_libraries()
    damaged = 0
    for found in verify(options.place, options.step):
        print(found.text, flush=True)
        damaged += found.damage is not None
    if damaged:
        print(f"error: {damaged} checkpoints of {options.place} are damaged", file=sys.stderr)
    return FAILED if damaged else 0
