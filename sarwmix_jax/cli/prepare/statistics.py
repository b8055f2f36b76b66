"""The command `sarwmix prepare statistics`.

    sarwmix prepare statistics records/own --split train --workers 4 --out statistics.json

One pass; exact over the stored values, and the same digits for any number of workers.
"""

import argparse
import json
from pathlib import Path
from typing import Any

from sarwmix_jax.data.sources import RecordSource, open_records
from sarwmix_jax.preparation.statistics import Summary, statistics_head, summarise, table
from sarwmix_jax.preparation.writer import write_file

PERCENTILES = (1, 5, 25, 50, 75, 95, 99)


def described(source: RecordSource, summary: Summary) -> dict[str, Any]:
    """The statistics as a JSON object."""
    bands = {}
    for number, name in enumerate(source.contract.bands):
        band = summary.band(number)
        percentiles = dict(zip(map(str, PERCENTILES), band.percentiles(PERCENTILES), strict=True))
        bands[name] = {"mean": band.mean, "std": band.std, "percentiles": percentiles}
        bands[name] |= {"nodata_share": band.nodata_share, "not_finite": band.not_finite}
    fields = {"name": source.contract.name, "split": source.split, "unit": source.contract.unit}
    return fields | {"records": summary.records, "bands": bands}


def as_text(source: RecordSource, summary: Summary) -> str:
    """The statistics as a small table."""
    rows = [[name, *summary.band(n).cells(PERCENTILES)] for n, name in enumerate(source.contract.bands)]
    head = f"{source.contract.name}, split {source.split}: {summary.records} records, {source.contract.unit}"
    return "\n".join([head, *table([["band", *statistics_head(PERCENTILES)], *rows], 10)])


def define(parser: argparse.ArgumentParser) -> None:
    """Add the flags of the command."""
    parser.add_argument("records", type=Path, metavar="RECORDS", help="folder of a record set")
    parser.add_argument("--split", default="train")
    parser.add_argument("--workers")
    parser.add_argument("--out", metavar="FILE", help="JSON file to write, too")
    parser.add_argument("--dry-run")


def run(options: argparse.Namespace) -> None:
    """Print the statistics.

    Raises:
        UserError: The records cannot be read.
    """
    source = open_records(options.records, options.split)
    if options.dry_run:
        print(f"would read {len(source)} records of {options.records}, split {options.split}")
        return
    summary = summarise(source, options.workers)
    print(as_text(source, summary))
    if options.out is not None:
        write_file(options.out, json.dumps(described(source, summary), indent=2) + "\n")
