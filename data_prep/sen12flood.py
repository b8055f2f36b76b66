"""Write SEN12-FLOOD: pairs of Sentinel-1 scenes of one place, labelled by whether the second shows a flood.

    python data_prep/sen12flood.py --zip FILE --out DIR [--workers 8]
    python data_prep/sen12flood.py --raw-root DIR --out DIR --layout npy

Every scene is warped to the grid of its sequence in memory (nearest neighbour); the zip is read as it is. The layout
`records` stores each scene once, in dB, and the pairs as an index; `npy` writes the published files
`{train,test}/<folder>__<first>__<second>__<label>.npy`, (2 dates, VH and VV, 512, 512) float32 linear power.
Exit code 1: done, but scenes were left out because of missing or odd files, without `--on-error=skip`.
"""

import argparse
import json
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from sarwmix_jax.command_line import Parser
from sarwmix_jax.data.pairs import IndexedPair
from sarwmix_jax.data.records import Contract, ExcludedError, Record, RecordError
from sarwmix_jax.errors import UserError
from sarwmix_jax.geotiff.units import FLOOR_POWER
from sarwmix_jax.preparation.command import add_work_arguments, run_command, run_plan, work_arguments
from sarwmix_jax.preparation.file_sets import Unit, prepare_files, write_array
from sarwmix_jax.preparation.flood_index import INDEX, FloodSequence, count_pairs, pair_reason, read_index, write_pairs
from sarwmix_jax.preparation.flood_scenes import SIDE, SKIPPED, UNREADABLE, AlignedScene, aligned_scene
from sarwmix_jax.preparation.plan import Plan, Row
from sarwmix_jax.preparation.raw_files import RawFiles, open_folder, open_zip
from sarwmix_jax.preparation.shard_work import Outcome
from sarwmix_jax.preparation.shards import REPORT
from sarwmix_jax.preparation.writer import check_absent, free_gib

FLOODING = "flooding"
CONTRACT = Contract(
    name="sen12flood",
    version="1.0.0",
    source="SEN12-FLOOD, Sentinel-1 IW GRD corrected, on the 10 m grid of the Sentinel-2 chips",
    quantity="sigma0",
    height=SIDE,
    width=SIDE,
    classes=(FLOODING,),
    has_valid_pixels=True,
    georeferenced=True,
)
SCENES_PER_SHARD = 128
LeftOut = dict[tuple[str, str], str]


@dataclass(frozen=True)
class SceneReader:
    """Makes the record of a scene."""

    raw: RawFiles

    def __call__(self, row: Row) -> Record:
        """The record of a row of the plan, in dB; zeros (nodata) at -60 dB, as the published system takes them.

        Raises:
            RecordError: A file is damaged.
            ExcludedError: The scene is left out.
        """
        scene = aligned_scene(self.raw, row["group"], row["s1_name"])
        db = 10 * np.log10(np.where(scene.power == 0, np.float32(FLOOR_POWER), scene.power))
        return Record(
            db,
            row["patch_id"],
            row["s1_name"],
            labels=(FLOODING,) if row["flooding"] else (),
            valid_pixels=(scene.power != 0).all(axis=0),
            crs=scene.grid.crs,
            transform=tuple(scene.grid.transform)[:6],
            facts=repaired(scene),
        )


def repaired(scene: AlignedScene) -> dict[str, int]:
    """Counts of values that became zero, for the report."""
    counts = {"not finite": scene.not_finite, "negative": scene.negative}
    return {name: count for name, count in counts.items() if count}


@dataclass(frozen=True)
class SequenceWriter:
    """Writes the pairs of a sequence as .npy; in memory are its scenes alone."""

    raw: RawFiles
    sequence: FloodSequence
    on_error: str

    def __call__(self, folder: Path, advance: Callable[[], None]) -> dict[str, Any]:
        """Write the pairs to `folder`; gives what was left out and repaired by file name.

        Raises:
            RecordError: A file is damaged and `on_error` is `stop`.
        """
        power, left_out, facts = {}, {}, {}
        for scene in self.sequence.scenes_in_pairs():
            name = scene.filename
            try:
                aligned = aligned_scene(self.raw, self.sequence.folder, name)
            except ExcludedError as rule:
                left_out[name] = str(rule)
            except RecordError:
                if self.on_error == "stop":
                    raise
                left_out[name] = UNREADABLE
            else:
                power[name] = aligned.power
                if repaired(aligned):
                    facts[name] = repaired(aligned)
            advance()
        for pair in self.sequence.pairs():
            if pair.first.filename in power and pair.second.filename in power:
                values = np.stack([power[pair.first.filename], power[pair.second.filename]])
                write_array(folder / self.sequence.split / f"{self.sequence.pair_name(pair)}.npy", values)
        return {"left out": left_out, "repaired": facts}


@dataclass(frozen=True)
class PairIndex:
    """Adds the index of pairs to the finished scenes."""

    sequences: Sequence[FloodSequence]

    def __call__(self, folder: Path, plan: Plan, outcomes: Sequence[Outcome]) -> dict[str, Any]:
        """Write the index; gives the report."""
        left_out: LeftOut = {}
        numbers: dict[tuple[str, str], int] = {}
        written: dict[str, int] = {}
        facts: dict[str, Mapping[str, int]] = {}
        for shard, outcome in zip(plan.shards, outcomes, strict=True):
            facts |= outcome.facts
            reasons = {p.patch_id: p.reason for p in outcome.excluded} | dict.fromkeys(
                (p.patch_id for p in outcome.problems), UNREADABLE
            )
            for row in plan.rows_of(shard):
                scene = (row["group"], row["s1_name"])
                if row["patch_id"] in reasons:
                    left_out[scene] = reasons[row["patch_id"]]
                else:
                    numbers[scene] = written.get(shard.split, 0)
                    written[shard.split] = numbers[scene] + 1
        write_pairs(folder, self.lines(numbers, left_out))
        return report(self.sequences, left_out, facts)

    def lines(self, numbers: Mapping[tuple[str, str], int], left_out: LeftOut) -> list[IndexedPair]:
        """The index: pairs of which both scenes were written, in the order of the sequences."""
        return [
            IndexedPair(
                each.pair_name(pair),
                each.split,
                numbers[each.folder, pair.first.filename],
                numbers[each.folder, pair.second.filename],
                pair.label,
            )
            for each in self.sequences
            for pair in each.pairs()
            if pair_reason(each, pair, left_out) is None
        ]


def report(
    sequences: Sequence[FloodSequence], left_out: LeftOut, facts: Mapping[str, Mapping[str, int]]
) -> dict[str, Any]:
    """What was made of what, the same for both layouts."""
    return {
        "sequences": len(sequences),
        "scenes": sum(len(each.scenes) for each in sequences),
        "scenes in pairs": sum(len(each.scenes_in_pairs()) for each in sequences),
        "scenes left out": {f"{folder}__{name}": reason for (folder, name), reason in sorted(left_out.items())},
        "values taken as zero": {name: dict(counts) for name, counts in sorted(facts.items())},
        "pairs": count_pairs(sequences, left_out),
    }


def make_plan(sequences: Sequence[FloodSequence], records_per_shard: int) -> Plan:
    """The plan of the records layout: every scene that a pair needs."""
    rows = [
        {
            "patch_id": f"{each.folder}__{scene.filename}",
            "s1_name": scene.filename,
            "split": each.split,
            "group": each.folder,
            "flooding": scene.flooding,
        }
        for each in sequences
        for scene in each.scenes_in_pairs()
    ]
    if not rows:
        raise UserError(f"{INDEX} holds no pair: no sequence has a scene without flood and another one")
    return Plan(CONTRACT, pa.Table.from_pylist(rows), records_per_shard)


def write_npy(arguments: argparse.Namespace, raw: RawFiles, sequences: Sequence[FloodSequence]) -> dict | None:
    """Write (or, with --dry-run, plan) the published files; gives the report of a complete set."""
    used = [each for each in sequences if each.scenes_in_pairs()]
    work = work_arguments(arguments)
    on_error = work.pop("on_error")
    if arguments.dry_run:
        check_absent(arguments.out)
        count = sum(len(list(each.pairs())) for each in used)
        size = count * 2 * len(CONTRACT.bands) * SIDE**2 * 4 / 2**30
        print(f"would write up to {count} pairs of {len(used)} sequences to {arguments.out}: {size:.1f} GiB")
        print(f"  on the disk: {free_gib(arguments.out)}")
        return None
    units = [Unit(e.folder, len(e.scenes_in_pairs()), SequenceWriter(raw, e, on_error)) for e in used]

    def describe(results: dict[str, Any]) -> dict[str, Any]:
        left_out = {(f, name): reason for f, result in results.items() for name, reason in result["left out"].items()}
        facts = {f"{f}__{name}": counts for f, result in results.items() for name, counts in result["repaired"].items()}
        return report(sequences, left_out, facts)

    pairs = "\n".join(each.pair_name(pair) for each in used for pair in each.pairs())
    return prepare_files(units, pairs, arguments.out, describe=describe, **work)


def write_all(arguments: argparse.Namespace, raw: RawFiles, sequences: Sequence[FloodSequence]) -> dict | None:
    """Write the layout that was asked for; gives the report of a complete set."""
    if arguments.layout == "npy":
        return write_npy(arguments, raw, sequences)
    plan = make_plan(sequences, arguments.records_per_shard)
    run_plan(arguments, plan, SceneReader(raw), PairIndex(sequences))
    path = arguments.out / REPORT
    return json.loads(path.read_text()) if path.is_file() and not arguments.dry_run else None


def tell(found: Mapping[str, Any], left_out_sequences: int) -> int:
    """Print the report; gives how many scenes were left out because of their files."""
    reasons = list(found["scenes left out"].values())
    print(f"{found['sequences']} sequences, {found['scenes']} scenes, {found['scenes in pairs']} of them in pairs")
    if left_out_sequences:
        print(f"  {left_out_sequences} sequences are in no list")
    for reason in sorted(set(reasons)):
        print(f"  left out {reasons.count(reason)} scenes: {reason}")
    for name, counts in found["values taken as zero"].items():
        print(f"  {name}: {', '.join(f'{count} values {kind}, taken as zero' for kind, count in counts.items())}")
    for split, counts in found["pairs"].items():
        made = f"{counts['made']} pairs ({counts['flood']} flood, {counts['no flood']} no flood)"
        print(f"  {split}: {made}; published {counts['published']}")
        for reason, count in counts["dropped"].items():
            print(f"    dropped {count}: {reason}")
    return sum(reason in SKIPPED for reason in reasons)


def parse() -> argparse.Namespace:
    """The command line."""
    parser = Parser(description="Write SEN12-FLOOD as records with an index of pairs, or as .npy.")
    source = parser.add_mutually_exclusive_group(required=True)
    source.add_argument("--zip", type=Path, help="the zip as downloaded; it is not unpacked")
    source.add_argument("--raw-root", type=Path, help=f"unpacked folder that holds {INDEX}")
    parser.add_argument("--layout", choices=("records", "npy"), default="records", help="what to write")
    parser.add_argument("--train-csv", type=Path, help="folders of the train split, one a line")
    parser.add_argument("--test-csv", type=Path, help="folders of the test split, one a line")
    add_work_arguments(parser)
    parser.set_defaults(records_per_shard=SCENES_PER_SHARD)
    return parser.parse_args()


def main() -> None:
    """Parse the command line, prepare, report."""
    arguments = parse()
    if (arguments.train_csv is None) != (arguments.test_csv is None):
        raise UserError("--train-csv and --test-csv belong together: give both or none")
    raw = open_zip(arguments.zip, INDEX) if arguments.zip else open_folder(arguments.raw_root, INDEX)
    lists = None if arguments.train_csv is None else {"train": arguments.train_csv, "test": arguments.test_csv}
    sequences, left_out_sequences = read_index(raw, lists)
    found = write_all(arguments, raw, sequences)
    if found is not None and tell(found, left_out_sequences) and arguments.on_error == "stop":
        print("scenes were left out because of their files; --on-error=skip accepts that", file=sys.stderr)
        sys.exit(1)


if __name__ == "__main__":
    run_command(main)
