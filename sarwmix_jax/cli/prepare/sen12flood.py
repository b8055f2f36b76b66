"""The command `sarwmix prepare sen12flood`.

    sarwmix prepare sen12flood --zip FILE --out records/sen12flood --workers 8
    sarwmix prepare sen12flood --raw-root DIR --out flood_npy --layout npy

Pairs of Sentinel-1 scenes of one place, labelled by whether the second shows a flood. Every scene is warped to the grid
of its sequence in memory (nearest neighbour); the zip is read as it is. The layout `records` stores each scene once, in
dB, and the pairs as an index; `npy` writes the published files
`{train,test}/<folder>__<first>__<second>__<label>.npy`, (2 dates, VH and VV, 512, 512) float32 linear power.
Exit code 1: done, but scenes were left out because of missing or unusable files, without `--on-error=skip`.
"""

import argparse
import json
import math
import sys
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

from sarwmix_jax.cli.prepare.frame import add_work_arguments, print_dry_run, run_plan, work_arguments
from sarwmix_jax.data.verification import REPORT_FILE
from sarwmix_jax.errors import FAILED, UserError
from sarwmix_jax.preparation import flood, workers
from sarwmix_jax.preparation.flood_files import SKIPPED, FloodSequence, RawFiles, open_folder, open_zip

SCENES_PER_SHARD = 128


def write_npy(
    arguments: argparse.Namespace, raw: RawFiles, sequences: Sequence[FloodSequence]
) -> dict[str, Any] | None:
    """Write (or, with --dry-run, plan) the published files; returns the report of a complete set."""
    options = work_arguments(arguments)
    work = flood.pair_work(raw, sequences, options.pop("on_error"))
    if not arguments.dry_run:
        return workers.run(work, arguments.out, **options)
    count = sum(1 for each in sequences for _ in each.pairs())
    size = count * 2 * math.prod(flood.CONTRACT.shape) * 4
    print_dry_run(
        arguments.out, f"up to {count} pairs of {len(work.units)} sequences to {arguments.out}: {size / 2**30:.1f} GiB"
    )
    return None


def write_records(
    arguments: argparse.Namespace, raw: RawFiles, sequences: Sequence[FloodSequence]
) -> dict[str, Any] | None:
    """Write (or, with --dry-run, plan) the records; returns the report of a complete set."""
    plan = flood.scene_plan(sequences, arguments.records_per_shard)
    run_plan(arguments, plan, partial(flood.read_scene, raw), partial(flood.index_pairs, sequences))
    path = arguments.out / REPORT_FILE
    return json.loads(path.read_text()) if path.is_file() and not arguments.dry_run else None


def define(parser: argparse.ArgumentParser) -> None:
    """Add the flags of the command."""
    source = parser.add_mutually_exclusive_group(required=True)
    source.add_argument("--zip", type=Path, help="the zip as downloaded; it is not unpacked")
    source.add_argument("--raw-root", type=Path, help=f"unpacked folder that holds {flood.INDEX}")
    parser.add_argument("--layout", choices=("records", "npy"), default="records", help="what to write")
    parser.add_argument("--train-csv", type=Path, help="folders of the train split, one per line")
    parser.add_argument("--test-csv", type=Path, help="folders of the test split, one per line")
    add_work_arguments(parser)
    parser.set_defaults(records_per_shard=SCENES_PER_SHARD)


def run(arguments: argparse.Namespace) -> int:
    """Prepare and report; returns the exit code.

    Raises:
        UserError: Flags do not fit together, the files cannot be used, or as `prepare`.
    """
    if (arguments.train_csv is None) != (arguments.test_csv is None):
        raise UserError("--train-csv and --test-csv belong together: give both or none")
    if arguments.layout == "npy" and arguments.records_per_shard != SCENES_PER_SHARD:
        number = arguments.records_per_shard
        raise UserError(f"--records-per-shard={number} is for the layout records; leave it out with --layout=npy")
    raw = open_zip(arguments.zip, flood.INDEX) if arguments.zip else open_folder(arguments.raw_root, flood.INDEX)
    lists = None if arguments.train_csv is None else {"train": arguments.train_csv, "test": arguments.test_csv}
    sequences, left_out_sequences = flood.read_index(raw, lists)
    found = (write_npy if arguments.layout == "npy" else write_records)(arguments, raw, sequences)
    if found is None:
        return 0
    print("\n".join(flood.report_lines(found, left_out_sequences)))
    if arguments.on_error == "stop" and not SKIPPED.isdisjoint(found["scenes left out"].values()):
        print("scenes were left out because of their files; --on-error=skip accepts that", file=sys.stderr)
        return FAILED
    return 0
