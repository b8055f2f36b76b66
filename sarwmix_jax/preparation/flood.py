"""SEN12-FLOOD: sequences, the pairs of scenes they make, and both layouts of the finished set.

`records` stores each scene once, in dB, and the pairs as an index; `npy` writes the published files
`{train,test}/<folder>__<first>__<second>__<label>.npy`, (2 dates, VH and VV, 512, 512) float32 linear power.
"""

import dataclasses
import hashlib
import io
import json
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from sarwmix_jax.data import pairs
from sarwmix_jax.data.records import Contract, ExcludedError, Record, RecordError
from sarwmix_jax.errors import UserError
from sarwmix_jax.plausibility import FLOOR_POWER
from sarwmix_jax.preparation.flood_files import (
    SIDE,
    UNREADABLE,
    AlignedScene,
    FloodScene,
    FloodSequence,
    Pair,
    RawFiles,
    aligned_scene,
)
from sarwmix_jax.preparation.plan import Plan, Row
from sarwmix_jax.preparation.shards import OnError, Outcome
from sarwmix_jax.preparation.workers import Work
from sarwmix_jax.preparation.writer import write_file, writing_errors

INDEX = "S1list.json"
SPLITS = ("train", "test")
PUBLISHED_PAIRS = {"train": 11_078, "test": 2_662}
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
LeftOut = Mapping[tuple[str, str], str]
"""Why scenes are left out, by folder and file name."""


def read_index(raw: RawFiles, lists: Mapping[str, Path] | None = None) -> tuple[list[FloodSequence], int]:
    """The sequences of the index, by folder, and how many the lists leave out.

    Args:
        raw: The raw files.
        lists: Files with one folder name a line by split; by default four-digit folders train, one or two digits test.

    Raises:
        UserError: The index or a list is missing or cannot be understood.
    """
    try:
        index = json.loads(raw.read(INDEX))
        scenes = {folder: _scenes(entry) for folder, entry in index.items()}
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise UserError(f"{INDEX} of {raw.archive or raw.base} cannot be understood ({error!r})") from None
    for folder in scenes:
        if not re.fullmatch(r"[\w-]+", folder):
            raise UserError(f"{INDEX} of {raw.archive or raw.base} names the folder {folder!r}, which is no plain name")
    splits = {folder: split_by_id(folder) for folder in scenes} if lists is None else _read_lists(lists, scenes)
    found = [FloodSequence(folder, splits[folder], scenes[folder]) for folder in sorted(scenes) if folder in splits]
    return found, len(scenes) - len(found)


def _scenes(entry: Mapping[str, Any]) -> tuple[FloodScene, ...]:
    """Scenes of one entry by number; of the same product twice, the first."""
    scenes: dict[str, FloodScene] = {}
    for key in sorted(int(key) for key in entry if key.isdigit()):
        fields = entry[str(key)]
        if not isinstance(fields["FLOODING"], bool) or not re.fullmatch(r"[\w-]+", fields["filename"]):
            raise ValueError(f"scene {key} of {entry.get('folder')}: {fields}")
        scenes.setdefault(fields["filename"], FloodScene(key, fields["filename"], fields["FLOODING"]))
    return tuple(scenes.values())


def split_by_id(folder: str) -> str:
    """The published split of a sequence: four digits train, one or two test.

    Raises:
        UserError: It has another name.
    """
    if re.fullmatch(r"\d{4}", folder):
        return "train"
    if re.fullmatch(r"\d{1,2}", folder):
        return "test"
    raise UserError(f"sequence {folder!r} has neither four nor one or two digits; give --train-csv and --test-csv")


def _read_lists(lists: Mapping[str, Path], known: Mapping[str, Any]) -> dict[str, str]:
    splits: dict[str, str] = {}
    for split, path in lists.items():
        try:
            lines = [line.strip().strip(",").strip('"') for line in path.read_text().splitlines()]
        except (OSError, UnicodeDecodeError) as error:
            raise UserError(f"{path} cannot be read ({error})") from None
        for folder in filter(None, lines):
            if folder not in known:
                raise UserError(f"{path} names the sequence {folder}, which {INDEX} does not hold")
            if splits.setdefault(folder, split) != split:
                raise UserError(f"{path} names the sequence {folder}, which is in another split too")
    if not splits:
        raise UserError(f"{', '.join(map(str, lists.values()))} name no sequence")
    return splits


def report(
    sequences: Sequence[FloodSequence], left_out: LeftOut, facts: Mapping[str, Mapping[str, int]]
) -> dict[str, Any]:
    """What was made of what, the same for both layouts."""
    return {
        "sequences": len(sequences),
        "scenes": sum(len(each.scenes) for each in sequences),
        "scenes in pairs": sum(each.count for each in sequences),
        "scenes left out": {f"{folder}__{name}": reason for (folder, name), reason in sorted(left_out.items())},
        "values taken as zero": {name: dict(counts) for name, counts in sorted(facts.items())},
        "pairs": {split: _count_pairs(sequences, split, left_out) for split in SPLITS},
    }


def _count_pairs(sequences: Sequence[FloodSequence], split: str, left_out: LeftOut) -> dict[str, Any]:
    """Pairs made and dropped of a split."""
    chosen = [each for each in sequences if each.split == split]
    reasons = [(pair.label, _reason(each, pair, left_out)) for each in chosen for pair in each.pairs()]
    made = Counter(label for label, reason in reasons if reason is None)
    dropped = Counter(reason for _, reason in reasons if reason is not None)
    total = made.total()
    share = {"flood share": round(made[1] / total, 4)} if total else {}
    counts = {"made": total, "no flood": made[0], "flood": made[1], **share, "dropped": dict(sorted(dropped.items()))}
    return counts | {"published": PUBLISHED_PAIRS[split]}


def _reason(sequence: FloodSequence, pair: Pair, left_out: LeftOut) -> str | None:
    """Why a pair is dropped, None if it is not."""
    reasons = (left_out.get((sequence.folder, scene.filename)) for scene in (pair.first, pair.second))
    return next(filter(None, reasons), None)


def report_lines(found: Mapping[str, Any], unlisted: int) -> list[str]:
    """The report as text; `unlisted` is how many sequences are in no list."""
    reasons = Counter(found["scenes left out"].values())
    lines = [f"{found['sequences']} sequences, {found['scenes']} scenes, {found['scenes in pairs']} of them in pairs"]
    if unlisted:
        lines.append(f"  {unlisted} sequences are in no list")
    lines += [f"  left out {count} scenes: {reason}" for reason, count in sorted(reasons.items())]
    for name, counts in found["values taken as zero"].items():
        zeros = ", ".join(f"{count} values {kind}, taken as zero" for kind, count in counts.items())
        lines.append(f"  {name}: {zeros}")
    for split, counts in found["pairs"].items():
        made = f"{counts['made']} pairs ({counts['flood']} flood, {counts['no flood']} no flood)"
        lines.append(f"  {split}: {made}; published {counts['published']}")
        lines += [f"    dropped {count}: {reason}" for reason, count in counts["dropped"].items()]
    return lines


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
        scene = aligned_scene(self.raw, row["group"], row["s1_name"], CONTRACT.bands)
        return Record(
            10 * np.log10(np.where(scene.power == 0, np.float32(FLOOR_POWER), scene.power)),
            row["patch_id"],
            row["s1_name"],
            labels=(FLOODING,) if row["flooding"] else (),
            valid_pixels=(scene.power != 0).all(axis=0),
            crs=scene.grid.crs,
            transform=tuple(scene.grid.transform)[:6],
            facts=scene.repaired,
        )


def scene_plan(sequences: Sequence[FloodSequence], records_per_shard: int) -> Plan:
    """The plan of the layout `records`: every scene that a pair needs."""
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


@dataclass(frozen=True)
class PairIndex:
    """Adds the index of pairs to the finished scenes."""

    sequences: Sequence[FloodSequence]

    def __call__(self, folder: Path, plan: Plan, outcomes: Sequence[Outcome]) -> dict[str, Any]:
        """Write the index, pairs in the order of the sequences; gives the report."""
        left_out: dict[tuple[str, str], str] = {}
        numbers: dict[tuple[str, str], int] = {}
        written: Counter[str] = Counter()
        for shard, outcome in zip(plan.shards, outcomes, strict=True):
            reasons = outcome.excluded | dict.fromkeys(outcome.problems, UNREADABLE)
            for row in plan.rows_of(shard):
                scene = (row["group"], row["s1_name"])
                if row["patch_id"] in reasons:
                    left_out[scene] = reasons[row["patch_id"]]
                else:
                    numbers[scene] = written[shard.split]
                    written[shard.split] += 1
        lines = [",".join(field.name for field in dataclasses.fields(pairs.IndexedPair))]
        for each in self.sequences:
            for pair in (pair for pair in each.pairs() if _reason(each, pair, left_out) is None):
                first, second = (numbers[each.folder, scene.filename] for scene in (pair.first, pair.second))
                lines.append(f"{each.pair_name(pair)},{each.split},{first},{second},{pair.label}")
        write_file(folder / pairs.FILE_NAME, "\n".join(lines) + "\n")
        facts = {name: counts for outcome in outcomes for name, counts in outcome.facts.items()}
        return report(self.sequences, left_out, facts)


@dataclass(frozen=True)
class SequenceWriter:
    """Writes the pairs of a sequence as .npy; in memory are its scenes alone."""

    raw: RawFiles
    sequence: FloodSequence
    on_error: OnError

    def __call__(self, folder: Path) -> dict[str, Any]:
        """Write the pairs to `folder`; gives what was left out and repaired by file name.

        Raises:
            RecordError: A file is damaged and `on_error` is `stop`.
        """
        scenes: dict[str, AlignedScene] = {}
        left_out = {}
        for name in (scene.filename for scene in self.sequence.scenes_in_pairs()):
            try:
                scenes[name] = aligned_scene(self.raw, self.sequence.folder, name, CONTRACT.bands)
            except ExcludedError as rule:
                left_out[name] = str(rule)
            except RecordError:
                if self.on_error == "stop":
                    raise
                left_out[name] = UNREADABLE
        target = folder / self.sequence.split
        for pair in self.sequence.pairs():
            if pair.first.filename in scenes and pair.second.filename in scenes:
                with writing_errors(target):
                    target.mkdir(exist_ok=True)
                content = io.BytesIO()
                np.save(content, np.stack([scenes[scene.filename].power for scene in (pair.first, pair.second)]))
                write_file(target / f"{self.sequence.pair_name(pair)}.npy", content.getbuffer())
        return {"left out": left_out, "repaired": {n: scene.repaired for n, scene in scenes.items() if scene.repaired}}


def pair_work(raw: RawFiles, sequences: Sequence[FloodSequence], on_error: OnError) -> Work:
    """The work of the layout `npy`."""
    used = [each for each in sequences if each.count]

    def finish(_: Path, outcomes: dict[str, Any]) -> dict[str, Any]:
        left_out = {(f, name): reason for f, each in outcomes.items() for name, reason in each["left out"].items()}
        facts = {f"{f}__{name}": counts for f, each in outcomes.items() for name, counts in each["repaired"].items()}
        return report(sequences, left_out, facts)

    names = [each.pair_name(pair) for each in used for pair in each.pairs()]
    text = "\n".join([*names, *(f"{each.name} {each.count}" for each in used)])
    fingerprint = hashlib.sha256(text.encode()).hexdigest()
    return Work(fingerprint, used, lambda sequence: SequenceWriter(raw, sequence, on_error), finish)
