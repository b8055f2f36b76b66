"""The plan of a record set: every record at its final position, divided into files."""

import collections
import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from sarwmix_jax.data.records import Contract, shard_name
from sarwmix_jax.errors import UserError
from sarwmix_jax.preparation.writer import RECORDS_PER_SHARD
from sarwmix_jax.progress import progress

SPLITS = ("train", "validation", "test")
Row = dict[str, Any]


@dataclass(frozen=True)
class Shard:
    """One unit of work: rows `first` to `first + count` of the plan become one file."""

    name: str
    split: str
    first: int
    count: int


class Plan:
    """All records of a set in their final order.

    Attributes:
        contract: Contract of the records to be written.
        rows: One row per record with at least `patch_id` and `split`, and what the reader needs; sorted by split
            and, within it, by a hash of `patch_id`, so that a slice of a split is a random sample. Where there is a
            column `group`, its hash comes first: records of a group, which are read together, stay together. Rows
            whose order is random anyway may keep it.
        records_per_shard: Largest number of records in a file.
        shards: The units of work in order.
        notes: Further entries of the report, such as how many records were excluded and why.
        fingerprint: Differs for every other output.
    """

    def __init__(
        self,
        contract: Contract,
        rows: pa.Table,
        records_per_shard: int = RECORDS_PER_SHARD,
        notes: Mapping[str, Any] | None = None,
        *,
        keep_order: bool = False,
    ) -> None:
        """Order the rows (within a split only where not `keep_order`) and cut them into shards.

        Raises:
            UserError: There are no rows, a split is unknown, a `patch_id` occurs twice, or files would have no records.
        """
        if records_per_shard < 1:
            raise UserError(f"--records-per-shard={records_per_shard}: at least 1 is needed")
        self.contract = contract
        self.records_per_shard = records_per_shard
        self.notes = dict(notes or {})
        with progress(f"planning {rows.num_rows:,} records"):
            self.rows = _ordered(rows, keep_order)
            self.shards = tuple(_shards(contract.name, self.rows["split"].to_pylist(), records_per_shard))
            self.fingerprint = _fingerprint(contract, self.rows, self.shards, self.notes)

    def rows_of(self, shard: Shard) -> list[Row]:
        """The rows of one shard as dicts."""
        return self.rows.slice(shard.first, shard.count).to_pylist()


def _ordered(rows: pa.Table, keep_order: bool) -> pa.Table:
    if rows.num_rows == 0:
        raise UserError("nothing to prepare: the metadata name no record")
    names, splits = rows["patch_id"].to_pylist(), rows["split"].to_pylist()
    unknown = sorted(set(splits) - set(SPLITS), key=str)
    if unknown:
        raise UserError(f"split {unknown[0]!r} in the metadata is none of {', '.join(SPLITS)}")
    keys = {"split": pa.array([SPLITS.index(split) for split in splits])}
    if not keep_order:
        groups = rows["group"].to_pylist() if "group" in rows.column_names else names
        hashes = [hashlib.blake2b(group.encode(), digest_size=8).digest() for group in groups]
        keys |= {"hash": pa.array(hashes), "group": pa.array(groups), "name": pa.array(names)}
    order = pc.sort_indices(pa.table(keys), sort_keys=[(key, "ascending") for key in keys])
    if len(set(names)) < len(names):
        twice = next(name for name, count in collections.Counter(names).items() if count > 1)
        raise UserError(f"patch {twice} is named twice in the metadata; give each file once")
    return rows.take(order).combine_chunks()


def _shards(name: str, splits: Sequence[str], size: int) -> Iterator[Shard]:
    for split in SPLITS:
        total = splits.count(split)
        first = splits.index(split) if total else 0
        count = -(-total // size)
        for number in range(count):
            start = number * size
            yield Shard(shard_name(name, split, number, count), split, first + start, min(size, total - start))


def _fingerprint(contract: Contract, rows: pa.Table, shards: Sequence[Shard], notes: Mapping[str, Any]) -> str:
    digest = hashlib.sha256(contract.to_json().encode())
    digest.update(repr([(shard.name, shard.count) for shard in shards]).encode())
    for column in sorted(rows.column_names):
        digest.update(f"\n{column}\n".encode() + repr(rows[column].to_pylist()).encode())
    if notes:
        digest.update(b"\nnotes\n" + json.dumps(notes, sort_keys=True).encode())
    return digest.hexdigest()
