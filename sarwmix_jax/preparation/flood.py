"""SEN12-FLOOD: sequences, their pairs of scenes, and both layouts of the finished set.

`records` stores each scene once, in dB, and the pairs as an index; `npy` writes the published files
`{train,test}/<folder>__<first>__<second>__<label>.npy`, (2 dates, VH and VV, 512, 512) float32 linear power.
"""

import dataclasses
import hashlib
import io
import re
from collections import ChainMap, Counter
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from sarwmix_jax.data import pairs
from sarwmix_jax.data.records import Contract, ExcludedError, Record, RecordError
from sarwmix_jax.data.tables import parse_json, read_text
from sarwmix_jax.errors import UserError
from sarwmix_jax.plausibility import FLOOR_POWER
from sarwmix_jax.preparation.flood_files import (
    SIDE,
    UNREADABLE,
    AlignedScene,
    FloodScene,
    FloodSequence,
    RawFiles,
    ScenePair,
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
_LARGEST_INDEX = 2**26
_PLAIN_NAME = r"[A-Za-z0-9_-]{1,200}"
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
LeftOut = Mapping[str, str]
"""Why scenes are left out, by `scene_id`."""


def scene_id(sequence: FloodSequence, filename: str) -> str:
    """Name of a scene in the set and its reports."""
    return f"{sequence.name}__{filename}"


def read_index(raw: RawFiles, lists: Mapping[str, Path] | None = None) -> tuple[list[FloodSequence], int]:
    """The sequences of the index, by folder, and the number of sequences that are in no list.

    Args:
        raw: The raw files.
        lists: By split a file with one folder name per line; by default folders with four digits are for training,
            folders with one or two digits for test.

    Raises:
        UserError: The index or a list is missing or cannot be read.
    """
    try:
        index = parse_json(raw.read(INDEX, _LARGEST_INDEX))
        scenes = {folder: _scenes(entry) for folder, entry in index.items()}
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise UserError(f"{INDEX} of {raw.archive or raw.base} cannot be understood ({error!r:.300})") from None
    for folder in scenes:
        if not re.fullmatch(_PLAIN_NAME, folder):
            place = raw.archive or raw.base
            raise UserError(f"{INDEX} of {place} names the folder {folder!r:.100}, which is not a plain name")
    splits = {folder: split_by_id(folder) for folder in scenes} if lists is None else _read_lists(lists, scenes)
    found = [FloodSequence(folder, splits[folder], scenes[folder]) for folder in sorted(scenes) if folder in splits]
    return found, len(scenes) - len(found)


def _scenes(entry: Mapping[str, Any]) -> tuple[FloodScene, ...]:
    """Scenes of one entry by number; of scenes of the same product only the first."""
    scenes: dict[str, FloodScene] = {}
    for key in sorted(int(key) for key in entry if key.isdigit()):
        fields = entry[str(key)]
        if not isinstance(fields["FLOODING"], bool):
            raise ValueError(f"scene {key} has FLOODING {fields['FLOODING']!r:.50}, expected true or false")
        if not re.fullmatch(_PLAIN_NAME, fields["filename"]):
            raise ValueError(f"scene {key} has the filename {fields['filename']!r:.100}, which is not a plain name")
        scenes.setdefault(fields["filename"], FloodScene(key, fields["filename"], fields["FLOODING"]))
    return tuple(scenes.values())


def split_by_id(folder: str) -> str:
    """The published split of a sequence: training for four digits, test for one or two.

    Raises:
        UserError: The folder has another name.
    """
    if re.fullmatch(r"\d{4}", folder):
        return "train"
    if re.fullmatch(r"\d{1,2}", folder):
        return "test"
    raise UserError(f"sequence {folder!r} has neither four nor one or two digits; give --train-csv and --test-csv")


def _read_lists(lists: Mapping[str, Path], known: Mapping[str, Any]) -> dict[str, str]:
    splits: dict[str, str] = {}
    for split, path in lists.items():
        lines = [line.strip().strip(",").strip('"') for line in read_text(path).splitlines()]
        if not any(lines):
            raise UserError(f"{path} names no sequence")
        for folder in filter(None, lines):
            if folder not in known:
                raise UserError(f"{path} names the sequence {folder}, which {INDEX} does not hold")
            if splits.setdefault(folder, split) != split:
                raise UserError(f"{path} names the sequence {folder}, which is in another split too")
    return splits


def report(
    sequences: Sequence[FloodSequence], left_out: LeftOut, facts: Mapping[str, Mapping[str, int]]
) -> dict[str, Any]:
    """Numbers of sequences, scenes and pairs, used and left out; the same for both layouts."""
    scenes = [scene_id(each, name) for each in sequences for name in sorted(scene.filename for scene in each.scenes)]
    return {
        "sequences": len(sequences),
        "scenes": sum(len(each.scenes) for each in sequences),
        "scenes in pairs": sum(each.count for each in sequences),
        "scenes left out": {scene: left_out[scene] for scene in scenes if scene in left_out},
        "values taken as zero": {name: dict(counts) for name, counts in sorted(facts.items())},
        "pairs": {split: _count_pairs(sequences, split, left_out) for split in SPLITS},
    }


def _count_pairs(sequences: Sequence[FloodSequence], split: str, left_out: LeftOut) -> dict[str, Any]:
    """Pairs of a split, made and dropped."""
    made: Counter[int] = Counter()
    dropped: Counter[str] = Counter()
    for each in (each for each in sequences if each.split == split):
        for pair in each.pairs():
            reasons = [left_out[name] for name in _scenes_of(each, pair) if name in left_out]
            made[pair.label] += not reasons
            dropped.update(reasons[:1])
    total = made.total()
    share = {"flood share": round(made[1] / total, 4)} if total else {}
    counts = {"made": total, "no flood": made[0], "flood": made[1], **share, "dropped": dict(sorted(dropped.items()))}
    return counts | {"published": PUBLISHED_PAIRS[split]}


def _scenes_of(sequence: FloodSequence, pair: ScenePair) -> tuple[str, str]:
    return scene_id(sequence, pair.first), scene_id(sequence, pair.second)


def report_lines(found: Mapping[str, Any], unlisted: int) -> list[str]:
    """The report as text; `unlisted` is the number of sequences in no list."""
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


def read_scene(raw: RawFiles, row: Row) -> Record:
    """The record of a row of the plan, in dB; zeros (nodata) become -60 dB, as in the published system.

    Raises:
        RecordError: A file is damaged.
        ExcludedError: The scene is left out.
    """
    scene = aligned_scene(raw, row["group"], row["s1_name"], CONTRACT.bands)
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
            "patch_id": scene_id(each, scene.filename),
            "s1_name": scene.filename,
            "split": each.split,
            "group": each.name,
            "flooding": scene.flooding,
        }
        for each in sequences
        for scene in each.scenes_in_pairs()
    ]
    if not rows:
        raise UserError(f"{INDEX} holds no pair: no sequence has a scene without flood and another one")
    return Plan(CONTRACT, pa.Table.from_pylist(rows), records_per_shard)


def index_pairs(
    sequences: Sequence[FloodSequence], folder: Path, plan: Plan, outcomes: Sequence[Outcome]
) -> dict[str, Any]:
    """Add the index of pairs, in the order of the sequences, to the finished scenes; returns the report."""
    left_out: dict[str, str] = {}
    for outcome in outcomes:
        left_out |= outcome.excluded | dict.fromkeys(outcome.problems, UNREADABLE)
    numbers: dict[str, int] = {}
    written: Counter[str] = Counter()
    for name, split in zip(plan.rows["patch_id"].to_pylist(), plan.rows["split"].to_pylist(), strict=True):
        if name not in left_out:
            numbers[name] = written[split]
            written[split] += 1
    lines = [",".join(field.name for field in dataclasses.fields(pairs.IndexedPair))]
    for each in sequences:
        for pair in each.pairs():
            if left_out.keys().isdisjoint(_scenes_of(each, pair)):
                first, second = (numbers[name] for name in _scenes_of(each, pair))
                lines.append(f"{pair.name},{each.split},{first},{second},{pair.label}")
    write_file(folder / pairs.FILE_NAME, "\n".join(lines) + "\n")
    facts = {name: counts for outcome in outcomes for name, counts in outcome.facts.items()}
    return report(sequences, left_out, facts)


def write_sequence(raw: RawFiles, sequence: FloodSequence, on_error: OnError, folder: Path) -> dict[str, Any]:
    """Write the pairs of a sequence as .npy to `folder`; only its scenes are held in memory.

    Returns:
        What was left out and repaired, by `scene_id`.

    Raises:
        RecordError: A file is damaged and `on_error` is `stop`.
    """
    scenes: dict[str, AlignedScene] = {}
    left_out = {}
    for _, name, _ in sequence.scenes_in_pairs():
        try:
            scenes[name] = aligned_scene(raw, sequence.name, name, CONTRACT.bands)
        except ExcludedError as rule:
            left_out[scene_id(sequence, name)] = str(rule)
        except RecordError:
            if on_error == "stop":
                raise
            left_out[scene_id(sequence, name)] = UNREADABLE
    target = folder / sequence.split
    for pair in sequence.pairs():
        if pair.first in scenes and pair.second in scenes:
            with writing_errors(target):
                target.mkdir(exist_ok=True)
            content = io.BytesIO()
            np.save(content, np.stack([scenes[pair.first].power, scenes[pair.second].power]))
            write_file(target / f"{pair.name}.npy", content.getbuffer())
    repaired = {scene_id(sequence, name): scene.repaired for name, scene in scenes.items() if scene.repaired}
    return {"left out": left_out, "repaired": repaired}


def pair_work(raw: RawFiles, sequences: Sequence[FloodSequence], on_error: OnError) -> Work:
    """The work of the layout `npy`."""
    used = [each for each in sequences if each.count]

    def finish(_: Path, outcomes: dict[str, Any]) -> dict[str, Any]:
        found = {kind: dict(ChainMap(*(each[kind] for each in outcomes.values()))) for kind in ("left out", "repaired")}
        return report(sequences, found["left out"], found["repaired"])

    names = [pair.name for each in used for pair in each.pairs()]
    text = "\n".join([*names, *(f"{each.name} {each.count}" for each in used)])
    fingerprint = hashlib.sha256(text.encode()).hexdigest()
    return Work(fingerprint, used, lambda sequence: partial(write_sequence, raw, sequence, on_error), finish)
