"""Pairs of records: a record set that stores every image once, and an index of the pairs.

The index is the file `pairs.csv` beside the records: name, split, numbers of the two records in that split, label.
"""

import csv
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from sarwmix_jax.data import verification
from sarwmix_jax.data.records import Contract
from sarwmix_jax.data.sources import RecordSource, open_records, parse_split
from sarwmix_jax.errors import UserError

FILE_NAME = "pairs.csv"


@dataclass(frozen=True)
class IndexedPair:
    """One line of the index."""

    name: str
    split: str
    first: int
    second: int
    label: int


class PairSource:
    """The pairs of one split (or slices of several), by number; picklable, safe to read from threads."""

    def __init__(self, sources: dict[str, RecordSource], pairs: Sequence[IndexedPair]) -> None:
        """Use `open_pairs`."""
        self._sources = sources
        self.pairs = tuple(pairs)

    @property
    def contract(self) -> Contract:
        """The contract of the records."""
        return next(iter(self._sources.values())).contract

    @property
    def records(self) -> RecordSource:
        """The records of the first split."""
        return next(iter(self._sources.values()))

    @property
    def folder(self) -> Path:
        """Folder of the record set."""
        return self.records.folder

    @property
    def split(self) -> str:
        """Split of the pairs, as given to `open_pairs`."""
        return "+".join(self._sources)

    def name_of(self, index: int) -> str:
        """Name of pair `index`."""
        return self.pairs[index].name

    def cluster_of(self, index: int) -> str:
        """Sequence of pair `index`, with which its name begins."""
        return self.pairs[index].name.split("__")[0]

    def __len__(self) -> int:
        return len(self.pairs)

    def __getitem__(self, index: int) -> dict[str, Any]:
        """Pair `index`.

        Returns:
            `image` (date, band, height, width) float16; `valid_pixels` (date, height, width) bool if the contract
            promises it; `label` int; `name` str.

        Raises:
            IndexError: No such pair.
            UserError: A file cannot be read.
        """
        if not 0 <= index < len(self):
            raise IndexError(f"pair {index} of {len(self)}")
        pair = self.pairs[index]
        batch = self._sources[pair.split].read_batch([pair.first, pair.second])
        batch.pop("labels", None)  # of single dates
        return {**batch, "label": pair.label, "name": pair.name}

    def read_batch(
        self, indices: Sequence[int] | np.ndarray, columns: Sequence[str] | None = None
    ) -> dict[str, np.ndarray]:
        """Arrays of several pairs, as those of one with a leading axis: `label` is int32, there are no names.

        Only `columns` are read, if given.
        """
        found = [self[int(index)] for index in indices]
        names = columns or [name for name in found[0] if name != "name"]
        return {n: np.stack([np.asarray(p[n], np.int32 if n == "label" else None) for p in found]) for n in names}


def open_pairs(path: str | Path, split: str) -> PairSource:
    """Open the pairs of the split `split` of the record set at `path`.

    Args:
        path: Folder of the record set.
        split: As in `open_records`; slices count pairs.

    Raises:
        UserError: Folder, split or index is missing, the index was changed after its preparation, or the slice cannot
            be read or is empty.
    """
    folder = Path(path)
    pairs = _read_index(folder)
    if FILE_NAME in (verification.read_checksums(folder) or ()):
        verification.check_files(folder, (FILE_NAME,), {})
    by_split: dict[str, list[IndexedPair]] = {}
    for pair in pairs:
        by_split.setdefault(pair.split, []).append(pair)
    ranges = parse_split(split, {name: len(found) for name, found in by_split.items()}, folder)
    chosen = [pair for part in ranges for pair in by_split[part.name][part.start : part.stop]]
    sources = {name: open_records(folder, name) for name in dict.fromkeys(pair.split for pair in chosen)}
    for pair in chosen:
        if not 0 <= min(pair.first, pair.second) <= max(pair.first, pair.second) < len(sources[pair.split]):
            raise UserError(f"{folder / FILE_NAME} names a record that is missing ({pair.name}); prepare it again")
        if pair.label not in (0, 1):
            raise UserError(f"{folder / FILE_NAME} labels {pair.name} as {pair.label}, not 0 or 1; prepare it again")
    return PairSource(sources, chosen)


def _read_index(folder: Path) -> list[IndexedPair]:
    try:
        with (folder / FILE_NAME).open(newline="", encoding="utf-8-sig") as file:
            lines = csv.DictReader(file)
            return [
                IndexedPair(line["name"], line["split"], int(line["first"]), int(line["second"]), int(line["label"]))
                for line in lines
            ]
    except FileNotFoundError:
        raise UserError(f"{folder} holds no {FILE_NAME}: no record set of pairs") from None
    except (OSError, KeyError, ValueError, TypeError, csv.Error) as error:
        raise UserError(f"{folder / FILE_NAME} cannot be understood ({error}); prepare it again") from None
