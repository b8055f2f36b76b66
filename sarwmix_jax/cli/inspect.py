"""The command `sarwmix inspect`.

    sarwmix inspect records/own --out own.png --workers 4
    sarwmix inspect records/own --verify

Exit code 1 if the records differ from their contract, or a file from its SHA-256.
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from sarwmix_jax.errors import FAILED


def define(parser: argparse.ArgumentParser) -> None:
    """Add the flags of the command."""
    parser.add_argument("records", type=Path, metavar="RECORDS", help="folder of a record set")
    parser.add_argument("--out", metavar="FILE", help="PNG file of the contact sheet; by default NAME.png")
    parser.add_argument("--samples", default=12)
    parser.add_argument("--workers")
    parser.add_argument("--verify", action="store_true", help="only compare all files with their SHA-256")


def run(options: argparse.Namespace) -> int:
    """Inspect one record set; returns the exit code.

    Raises:
        UserError: It cannot be read.
    """
    from sarwmix_jax.preparation.inspection import UNCHECKED, as_text, inspect, verify, write_contact_sheet

    if options.verify:
        unchecked, failures = verify(options.records)
        passed = UNCHECKED if unchecked else "all files agree with their SHA-256"
        print("\n".join([f"FAILED {failure}" for failure in failures] or [passed]))
        return _code(options.records, failures)
    inspection = inspect(options.records, options.workers)
    print(as_text(inspection))
    out = options.out or Path(f"{inspection.contract.name}.png")
    write_contact_sheet(inspection, out, options.samples)
    print(f"contact sheet: {out}")
    return _code(options.records, inspection.failures)


def _code(records: Path, failures: Sequence[str]) -> int:
    if failures:
        print(f"error: {len(failures)} checks of {records} failed", file=sys.stderr)
    return FAILED if failures else 0
