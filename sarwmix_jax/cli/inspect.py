"""The command `sarwmix inspect`.

    sarwmix inspect records/own --out own.png --workers 4

Exit code 1 if the records differ from their contract.
"""

import argparse
import sys
from pathlib import Path

from sarwmix_jax.errors import FAILED


def define(parser: argparse.ArgumentParser) -> None:
    """Add the flags of the command."""
    parser.add_argument("records", type=Path, metavar="RECORDS", help="folder of a record set")
    parser.add_argument("--out", metavar="FILE", help="PNG file of the contact sheet; by default NAME.png")
    parser.add_argument("--samples", default=12)
    parser.add_argument("--workers")


def run(options: argparse.Namespace) -> int:
    """Inspect one record set; returns the exit code.

    Raises:
        UserError: It cannot be read.
    """
    from sarwmix_jax.preparation.inspection import as_text, inspect, write_contact_sheet

    inspection = inspect(options.records, options.workers)
    print(as_text(inspection))
    out = options.out or Path(f"{inspection.contract.name}.png")
    write_contact_sheet(inspection, out, options.samples)
    print(f"contact sheet: {out}")
    if inspection.failures:
        print(f"error: {len(inspection.failures)} checks of {options.records} failed", file=sys.stderr)
        return FAILED
    return 0
