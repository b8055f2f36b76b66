"""The index of SEN12-FLOOD: sequences, their scenes and splits, and the pairs they make."""

import csv
import dataclasses
import io
import itertools
import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sarwmix_jax.data import pairs
from sarwmix_jax.errors import UserError
from sarwmix_jax.preparation.raw_files import RawFiles
from sarwmix_jax.preparation.writer import write_text

INDEX = "S1list.json"
SPLITS = ("train", "test")
PUBLISHED_PAIRS = {"train": 11_078, "test": 2_662}


@dataclass(frozen=True)
class FloodScene:
    """One Sentinel-1 scene of a sequence.

    Attributes:
        key: Its number in the index.
        filename: Name of the product; its files are `<filename>_corrected_{VH,VV}.tif`.
        flooding: Whether it shows a flood.
    """

    key: int
    filename: str
    flooding: bool


@dataclass(frozen=True)
class Pair:
    """Two scenes of a sequence; label 1 if the second is flooded."""

    first: FloodScene
    second: FloodScene

    @property
    def label(self) -> int:
        """1 if the second scene shows a flood, else 0."""
        return int(self.second.flooding)


@dataclass(frozen=True)
class FloodSequence:
    """One place: its folder, its split, its scenes by number."""

    folder: str
    split: str
    scenes: tuple[FloodScene, ...]

    def pairs(self) -> Iterator[Pair]:
        """Every scene without flood, by number, with every other scene; each two scenes once."""
        done = set()
        for first, second in itertools.product(self.scenes, repeat=2):
            names = frozenset((first.key, second.key))
            if first is not second and not first.flooding and names not in done:
                done.add(names)
                yield Pair(first, second)

    def scenes_in_pairs(self) -> list[FloodScene]:
        """Scenes that a pair needs, by number."""
        needed = {scene.key for pair in self.pairs() for scene in (pair.first, pair.second)}
        return [scene for scene in self.scenes if scene.key in needed]

    def pair_name(self, pair: Pair) -> str:
        """Name of a pair as the published files have it, without suffix."""
        return f"{self.folder}__{pair.first.filename}__{pair.second.filename}__{pair.label}"


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


def count_pairs(sequences: Sequence[FloodSequence], left_out: Mapping[tuple[str, str], str]) -> dict[str, Any]:
    """Pairs made and dropped by split, for the report.

    Args:
        sequences: The sequences.
        left_out: Why scenes are left out, by (folder, filename).
    """
    report: dict[str, Any] = {}
    for split in SPLITS:
        made = {"no flood": 0, "flood": 0}
        dropped: dict[str, int] = {}
        for sequence in (each for each in sequences if each.split == split):
            for pair in sequence.pairs():
                reason = pair_reason(sequence, pair, left_out)
                if reason is None:
                    made["flood" if pair.label else "no flood"] += 1
                else:
                    dropped[reason] = dropped.get(reason, 0) + 1
        total = sum(made.values())
        share = {"flood share": round(made["flood"] / total, 4)} if total else {}
        counts = {"made": total, **made, **share, "dropped": dict(sorted(dropped.items()))}
        report[split] = counts | {"published": PUBLISHED_PAIRS[split]}
    return report


def pair_reason(sequence: FloodSequence, pair: Pair, left_out: Mapping[tuple[str, str], str]) -> str | None:
    """Why a pair is dropped, None if it is not."""
    reasons = (left_out.get((sequence.folder, scene.filename)) for scene in (pair.first, pair.second))
    return next((reason for reason in reasons if reason is not None), None)


def write_pairs(folder: Path, index: Iterable[pairs.IndexedPair]) -> None:
    """Write the index of the record set in `folder`: all of it or nothing."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    columns = [field.name for field in dataclasses.fields(pairs.IndexedPair)]
    writer.writerow(columns)
    writer.writerows([getattr(pair, name) for name in columns] for pair in index)
    write_text(folder / pairs.FILE_NAME, text.getvalue())
