"""Statistics of a record set: mean, deviation, percentiles and nodata share of every band.

    python data_prep/band_stats.py RECORDS [--split train] [--workers 4] [--out statistics.json]

One pass; exact over the stored values, and the same digits for any number of workers.
"""

import json
import sys
from pathlib import Path
from typing import Any

from sarwmix_jax.cli.main import guarded
from sarwmix_jax.command_line import Parser
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


def main() -> None:
    """Parse the command line and print the statistics."""
    parser = Parser(description="Mean, deviation, percentiles and nodata share of a record set.")
    parser.add_argument("records", type=Path, help="folder of the record set")
    parser.add_argument("--split", default="train", help="split, such as train or train+validation")
    parser.add_argument("--workers", type=int, default=1, help="processes that read")
    parser.add_argument("--out", type=Path, help="JSON file to write as well")
    parser.add_argument("--dry-run", action="store_true", help="say what would be read, and read nothing")
    arguments = parser.parse_args()
    source = open_records(arguments.records, arguments.split)
    if arguments.dry_run:
        print(f"would read {len(source)} records of {arguments.records}, split {arguments.split}")
        return
    summary = summarise(source, arguments.workers)
    print(as_text(source, summary))
    if arguments.out is not None:
        write_file(arguments.out, json.dumps(described(source, summary), indent=2) + "\n")


if __name__ == "__main__":
    sys.exit(guarded(main))
