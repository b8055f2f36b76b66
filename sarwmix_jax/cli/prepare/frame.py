"""Common part of the preparation commands: flags of the work, dry run, outcome."""

import argparse
import itertools
import json
import math
import os
import re
from pathlib import Path
from typing import Any

import numpy as np

from sarwmix_jax.cluster.rules import part_of
from sarwmix_jax.data.records import STORED_DTYPE, ExcludedError, RecordError, read_contract
from sarwmix_jax.data.verification import REPORT_FILE
from sarwmix_jax.errors import UserError, one_line
from sarwmix_jax.preparation.plan import Plan, Row
from sarwmix_jax.preparation.shards import Finish, Read, Reasons, prepare
from sarwmix_jax.preparation.writer import RECORDS_PER_SHARD, check_absent, free_gib

_SHOWN_PROBLEMS = 10


def add_work_arguments(parser: argparse.ArgumentParser, *, reads_files: bool = True) -> None:
    """Add the flags that every large preparation has; `--on-error` only where files can be missing."""
    parser.add_argument(
        "--out", required=True, metavar="FOLDER", help="folder of the record set, created when all is done"
    )
    parser.add_argument("--workers")
    parser.add_argument("--dry-run")
    parser.add_argument(
        "--shard",
        metavar="I/N",
        help="do only the i-th of n parts; auto: as SLURM, PBS or mpirun numbers them; --merge puts them together",
    )
    parser.add_argument("--merge", action="store_true", help="put finished parts together")
    parser.set_defaults(on_error="stop")
    if reads_files:
        parser.add_argument("--on-error", choices=("stop", "skip"), help="at a file that is missing or damaged")
    parser.add_argument(
        "--records-per-shard", type=int, default=RECORDS_PER_SHARD, help="largest number of records per file"
    )


def work_arguments(arguments: argparse.Namespace) -> dict[str, Any]:
    """Keyword arguments of `preparation.prepare` from the command line.

    Raises:
        UserError: `--shard` is not like 1/3, or given together with `--merge`; or either with `--dry-run`.
    """
    part = None
    if arguments.dry_run and (arguments.shard is not None or arguments.merge):
        raise UserError("--dry-run shows the plan of all parts: leave out --shard and --merge")
    if arguments.shard is not None:
        match = re.fullmatch(r"(\d+)/(\d+)|auto", arguments.shard)
        if arguments.merge:
            raise UserError("--merge puts all parts together: leave out --shard")
        if match is None or (match[1] and not 1 <= int(match[1]) <= int(match[2])):
            raise UserError(f"--shard={arguments.shard}: write it as 1/3, 2/3 or 3/3, or auto")
        part = (int(match[1]), int(match[2])) if match[1] else part_of(os.environ)
    names = ("workers", "merge", "on_error")
    return {name: getattr(arguments, name) for name in names} | {"part": part}


def run_plan(arguments: argparse.Namespace, plan: Plan, read: Read, finish: Finish | None = None) -> None:
    """Prepare the records of a plan or, in a dry run, print what would be written.

    Raises:
        UserError: In a dry run, the first record of a split cannot be read or `--out` exists; else as `prepare`.
    """
    work = work_arguments(arguments)
    if arguments.dry_run:
        _print_plan(plan, read, arguments.out)
    else:
        print_outcome(arguments.out, prepare(plan, read, arguments.out, finish=finish, **work))


def _print_plan(plan: Plan, read: Read, out: Path) -> None:
    check_absent(out)
    contract = plan.contract
    counts: dict[str, int] = {}
    for shard in plan.shards:
        if shard.split not in counts:
            _try_first(read, plan.rows_of(shard)[0])
        counts[shard.split] = counts.get(shard.split, 0) + shard.count
    size = plan.rows.num_rows * math.prod(contract.shape) * np.dtype(STORED_DTYPE).itemsize / 2**30
    splits = ", ".join(f"{split} {count}" for split, count in counts.items())
    shape = "x".join(map(str, contract.shape))
    print_dry_run(
        out,
        f"{plan.rows.num_rows} records in {len(plan.shards)} files to {out}: {splits}",
        f"{shape} {contract.unit}, about {size:.2f} GiB",
    )
    for name, value in plan.notes.items():
        print(f"  {name}: {value}")


def print_dry_run(out: Path, what: str, *details: str) -> None:
    """Print what would be written, and the free space on the disk.

    Raises:
        UserError: `out` exists.
    """
    check_absent(out)
    print(f"would write {what}")
    for line in (*details, f"on the disk: {free_gib(out)}"):
        print(f"  {line}")


def _try_first(read: Read, row: Row) -> None:
    try:
        read(row)
    except ExcludedError:
        pass
    except (RecordError, OSError) as error:
        raise UserError(f"{row['patch_id']}: {error}; is this the right folder?") from None


def print_outcome(out: Path, skipped: Reasons | None) -> None:
    """Print what was written, and what was left out."""
    if skipped is None:
        print("this part is done; run with --merge when all parts are")
        return
    contract = read_contract(out)
    records = ", ".join(f"{name} {count}" for name, count in contract.records.items())
    print(f"wrote {out}: {records}")
    if contract.statistics is not None:
        for band, mean, std in zip(
            contract.bands, contract.statistics.mean_db, contract.statistics.std_db, strict=True
        ):
            print(f"  {band} of {contract.statistics_split}: mean {mean:.4f} dB, standard deviation {std:.4f} dB")
    report = json.loads((out / REPORT_FILE).read_text())
    for reason, count in report["excluded"].items():
        print(f"excluded {count} records: {reason}")
    for reason, count in report.get("excluded by lists", {}).items():
        print(f"excluded {count} records: {one_line(reason)} (list)")
    if left_out := report.get("skipped scenes"):
        print(f"skipped {len(left_out)} scenes, files or folders (all in {out / REPORT_FILE}):")
        print("\n".join(f"  {one_line(reason)}" for reason in left_out[:_SHOWN_PROBLEMS]))
    if skipped:
        print(f"skipped {len(skipped)} records (all in {out / REPORT_FILE}):")
        for name, reason in itertools.islice(skipped.items(), _SHOWN_PROBLEMS):
            print(f"  {one_line(name)}: {one_line(reason)}")
