"""The command `sarwmix inspect`: what a record set holds, and whether it keeps its promise."""

import sys
from collections.abc import Sequence
from pathlib import Path

from absl import flags

from sarwmix_jax.cli.main import FAILED
from sarwmix_jax.errors import UserError


def define(values: flags.FlagValues, _: Sequence[str]) -> None:
    """Flags of `sarwmix inspect`."""
    flags.DEFINE_string("out", None, "PNG file of the contact sheet; by default NAME.png", flag_values=values)
    flags.DEFINE_integer("samples", 12, "records to draw", lower_bound=1, flag_values=values)
    flags.DEFINE_integer("workers", 1, "processes that read", lower_bound=1, flag_values=values)


def run(values: flags.FlagValues, more: list[str]) -> int:
    """Inspect one record set; gives the exit code.

    Raises:
        UserError: Not one folder is given, or it cannot be read.
    """
    if len(more) != 1:
        raise UserError(f"sarwmix inspect takes one folder of records, {len(more)} are given")
    from sarwmix_jax.preparation.inspection import as_text, inspect, write_contact_sheet

    inspection = inspect(Path(more[0]), int(values["workers"].value or 1))
    print(as_text(inspection))
    out = Path(values["out"].value or f"{inspection.contract.name}.png")
    write_contact_sheet(inspection, out, int(values["samples"].value or 1))
    print(f"contact sheet: {out}")
    if inspection.failures:
        print(f"error: {len(inspection.failures)} checks of {more[0]} failed", file=sys.stderr)
        return FAILED
    return 0
