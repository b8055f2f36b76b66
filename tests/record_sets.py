"""Record sets of given records, with none of the checks and judgements of a preparation."""

from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

from sarwmix_jax.data.records import Contract, Record, encode_record, shard_name
from sarwmix_jax.preparation.writer import RECORDS_PER_SHARD, ShardSummary, write_description, write_shard


def encoded(records: Iterable[Record], split: str, contract: Contract) -> Iterator[tuple[Record, bytes]]:
    """What `write_shard` takes."""
    return ((record, encode_record(record, split, contract)) for record in records)


def write_records(
    out: Path, contract: Contract, splits: Mapping[str, Iterable[Record]], *, records_per_shard: int = RECORDS_PER_SHARD
) -> Contract:
    """Write records in their order, in this process; gives the completed contract."""
    out.mkdir(parents=True)
    written: dict[str, list[ShardSummary]] = {}
    for split, stream in splits.items():
        records = list(stream)
        starts = range(0, len(records), records_per_shard)
        for number, start in enumerate(starts):
            path = out / shard_name(contract.name, split, number, len(starts))
            some = encoded(records[start : start + records_per_shard], split, contract)
            written.setdefault(split, []).append(write_shard(path, some, len(contract.bands)))
    return write_description(out, contract, written)
