"""Writing record sets: shards first, what describes them last, so that nothing half-written is ever visible.

A shard is written under a temporary name, flushed to the disk and renamed. A record set grows in a folder
beside its place and is renamed when it is complete.
"""

import contextlib
import dataclasses
import math
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from array_record.python import array_record_module

from sarwmix_jax.data.records import (
    CONTRACT_FILE,
    STORED_DTYPE,
    TEXTS,
    TRANSFORM_DTYPE,
    TRANSFORM_NUMBERS,
    Contract,
    Record,
    RecordError,
    encode_record,
)
from sarwmix_jax.errors import UserError
from sarwmix_jax.facts.bands import BandStatistics

if TYPE_CHECKING:
    from tensorflow_datasets.core.features import FeaturesDict

# Speckle hardly compresses (15 to 20 %), and reading compressed records takes twice as long.
_ARRAY_RECORD_OPTIONS = "group_size:1,uncompressed"
RECORDS_PER_SHARD = 2048
STATISTICS_SPLIT = "train"


@dataclass(frozen=True)
class ShardSummary:
    """What a shard holds: records, bytes of their values, and sums over valid pixels per band."""

    records: int
    bytes: int
    pixels: int
    sums: tuple[float, ...]
    square_sums: tuple[float, ...]


def _refuse(patch_id: str, error: RecordError) -> None:
    raise RecordError(f"{patch_id}: {error}") from None


def write_shard(
    path: Path,
    records: Iterable[Record],
    split: str,
    contract: Contract,
    on_bad: Callable[[str, RecordError], None] = _refuse,
) -> ShardSummary:
    """Write one shard at `path`: all of it or nothing.

    The same records give the same bytes. A shard already there is replaced.

    Args:
        path: File to make.
        records: What goes into it, in order.
        split: Split of all of them.
        contract: What they promise.
        on_bad: Called with the name of a record that breaks the contract, which is then left out; raises by default.

    Raises:
        RecordError: A record breaks the contract and `on_bad` raises.
        UserError: The disk is full or the folder cannot be written.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    with writing_errors(path):
        try:
            summary = _write_array_record(temporary, records, split, contract, on_bad)
            _commit(temporary, path)
        except BaseException:
            with contextlib.suppress(OSError):
                temporary.unlink()
            raise
    return summary


def _write_array_record(
    path: Path, records: Iterable[Record], split: str, contract: Contract, on_bad: Callable[[str, RecordError], None]
) -> ShardSummary:
    path.open("wb").close()  # names the reason when the folder cannot be written; the C++ writer does not
    count = size = pixels = 0
    sums = np.zeros((2, len(contract.bands)))
    writer = array_record_module.ArrayRecordWriter(str(path), _ARRAY_RECORD_OPTIONS)
    try:
        for record in records:
            try:
                data = encode_record(record, split, contract)
            except RecordError as error:
                on_bad(record.patch_id, error)
                continue
            writer.write(data)
            seen = _valid_values(record)
            sums += [seen.sum(axis=1, dtype=np.float64), np.square(seen).sum(axis=1, dtype=np.float64)]
            count, size, pixels = count + 1, size + len(data), pixels + seen.shape[1]
    except BaseException:
        with contextlib.suppress(RuntimeError):
            writer.close()
        raise
    writer.close()
    _check_complete(path, count)
    return ShardSummary(count, size, pixels, tuple(sums[0].tolist()), tuple(sums[1].tolist()))


def _valid_values(record: Record) -> np.ndarray:
    """Values as stored, where valid: (band, pixels) float32, in which float16 values and their squares are exact."""
    stored = record.image.astype(STORED_DTYPE).astype(np.float32)
    if record.valid_pixels is None:
        return stored.reshape(len(stored), -1)
    return stored[:, record.valid_pixels]


def _check_complete(path: Path, count: int) -> None:
    """The C++ writer can fail in silence; an incomplete file reads as one of zero records."""
    reader = array_record_module.ArrayRecordReader(str(path))
    found = reader.num_records()
    reader.close()
    if found != count:
        raise OSError(f"{found} of {count} records arrived on the disk")


@contextlib.contextmanager
def writing_errors(path: Path) -> Iterator[None]:
    """Turn a failure of the file system into a line that names the place and the remedy."""
    try:
        yield
    except RecordError:
        raise
    except (OSError, RuntimeError) as error:
        reason = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
        reason = reason.splitlines()[0].split(";")[0].removeprefix("write() failed: ")
        free = free_gib(path)
        raise UserError(
            f"cannot write {path}: {reason} ({free}); free space or choose another --out, then run again"
        ) from None


def free_gib(path: Path) -> str:
    """Free space of the disk that `path` will lie on, in words."""
    for folder in path.parents:
        if folder.is_dir():
            status = os.statvfs(folder)
            return f"{status.f_bavail * status.f_frsize / 2**30:.2f} GiB free"
    return "no such folder"


def _commit(temporary: Path, path: Path) -> None:
    """Flush `temporary` to the disk and give it its final name."""
    _flush(temporary)
    temporary.replace(path)
    _flush(path.parent)


def _flush(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def write_text(path: Path, text: str, writer: str = "") -> None:
    """`write_bytes` of a text."""
    write_bytes(path, text.encode(), writer)


def write_bytes(path: Path, content: bytes | memoryview, writer: str = "") -> None:
    """Write a file: all of it or nothing. Those who may write it at the same time name themselves in `writer`."""
    temporary = path.with_name(f".{path.name}{writer}.tmp")
    with writing_errors(path):
        temporary.write_bytes(content)
        _commit(temporary, path)


def merged_statistics(shards: Sequence[ShardSummary]) -> BandStatistics | None:
    """Band mean and (population) deviation over the valid pixels of `shards`, exact in any shard order."""
    pixels = sum(shard.pixels for shard in shards)
    if pixels == 0:
        return None
    means = [math.fsum(values) / pixels for values in zip(*(s.sums for s in shards), strict=True)]
    squares = [math.fsum(values) / pixels for values in zip(*(s.square_sums for s in shards), strict=True)]
    deviations = (math.sqrt(max(s - m * m, 0.0)) for m, s in zip(means, squares, strict=True))
    return BandStatistics(mean_db=tuple(means), std_db=tuple(deviations))


def write_description(folder: Path, contract: Contract, splits: Mapping[str, Sequence[ShardSummary]]) -> Contract:
    """Write contract and TFDS metadata beside the shards in `folder`; return the contract as completed.

    Statistics are those of the training split (`splits` maps the names to the shards in order).
    """
    import tensorflow_datasets as tfds

    in_db = contract.unit == "dB"
    statistics = merged_statistics(splits.get(STATISTICS_SPLIT, ())) if in_db else None
    contract = dataclasses.replace(
        contract,
        statistics=statistics,
        statistics_split=STATISTICS_SPLIT if statistics else "",
        records={name: sum(s.records for s in shards) for name, shards in splits.items()},
    )
    template = tfds.core.ShardedFileTemplate(
        data_dir=folder, dataset_name=contract.name, filetype_suffix="array_record"
    )
    infos = [
        tfds.core.SplitInfo(
            name=name,
            shard_lengths=[s.records for s in shards],
            num_bytes=sum(s.bytes for s in shards),
            filename_template=template.replace(split=name),
        )
        for name, shards in splits.items()
    ]
    write_text(folder / CONTRACT_FILE, contract.to_json())
    with writing_errors(folder):
        tfds.folder_dataset.write_metadata(
            data_dir=str(folder),
            features=tfds_features(contract),
            split_infos=infos,
            version=contract.version,
            check_data=False,
            description=contract.source,
        )
    return contract


def tfds_features(contract: Contract) -> "FeaturesDict":
    """The features of a record for TFDS."""
    from tensorflow_datasets.core import features as tfds

    features: dict[str, Any] = {name: tfds.Text() for name in TEXTS}
    features["image"] = tfds.Tensor(
        shape=contract.shape, dtype=STORED_DTYPE, encoding=tfds.Encoding.BYTES, doc=", ".join(contract.bands)
    )
    if contract.classes:
        features["labels"] = tfds.Sequence(tfds.ClassLabel(names=list(contract.classes)))
    if contract.has_valid_pixels:
        packed = -(-contract.height * contract.width // 8)
        features["valid_pixels"] = tfds.Tensor(shape=(packed,), dtype=np.uint8, encoding=tfds.Encoding.BYTES)
    if contract.georeferenced:
        features["crs"] = tfds.Text()
        features["transform"] = tfds.Tensor(
            shape=(TRANSFORM_NUMBERS,), dtype=TRANSFORM_DTYPE, encoding=tfds.Encoding.BYTES
        )
    return tfds.FeaturesDict(features)


def check_absent(out: Path) -> None:
    """Refuse to write where something lies.

    Raises:
        UserError: `out` exists and is not an empty folder.
    """
    if out.exists() and not (out.is_dir() and not any(out.iterdir())):
        raise UserError(f"{out} already exists; remove it or choose another --out")


def publish(folder: Path, out: Path) -> None:
    """Give a finished folder its final name, in one step."""
    with writing_errors(out):
        folder.replace(out)
        _flush(out.parent)
