"""Statistics of a record set: mean, deviation, percentiles and nodata share of every band.

    python data_prep/band_stats.py RECORDS [--split train] [--workers 4] [--out statistics.json]

One pass; exact over the stored values, and the same digits for any number of workers.
"""

import json
from pathlib import Path
from typing import Any

from sarwmix_jax.command_line import Parser
from sarwmix_jax.data.sources import RecordSource, open_records
from sarwmix_jax.preparation.command import run_command
from sarwmix_jax.preparation.statistics import Summary, summarise
from sarwmix_jax.preparation.writer import write_file

PERCENTILES = (1, 5, 25, 50, 75, 95, 99)


def described(source: RecordSource, summary: Summary) -> dict[str, Any]:
    """The statistics as a JSON object."""
    bands = {}
    for number, name in enumerate(source.contract.bands):
        band = summary.band(number)
        bands[name] = {
            "mean": band.mean,
            "std": band.std,
            "percentiles": dict(zip(map(str, PERCENTILES), band.percentiles(PERCENTILES), strict=True)),
            "nodata_share": band.nodata_share,
            "not_finite": band.not_finite,
        }
    fields = {"name": source.contract.name, "split": source.split, "unit": source.contract.unit}
    return fields | {"records": summary.records, "bands": bands}


def as_text(statistics: dict[str, Any]) -> str:
    """The statistics as a small table."""
    lines = ["{name}, split {split}: {records} records, {unit}".format(**statistics)]
    head = ["band", "mean", "std", *(f"{share}%" for share in PERCENTILES), "nodata"]
    lines.append("".join(f"{text:>10}" for text in head))
    for name, band in statistics["bands"].items():
        numbers = [band["mean"], band["std"], *band["percentiles"].values()]
        lines.append(f"{name:>10}" + "".join(f"{value:10.4f}" for value in numbers) + f"{band['nodata_share']:10.3%}")
    return "\n".join(lines)


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
    statistics = described(source, summarise(source, arguments.workers))
    print(as_text(statistics))
    if arguments.out is not None:
        write_file(arguments.out, json.dumps(statistics, indent=2) + "\n")


if __name__ == "__main__":
    run_command(main)
