"""Writing record sets: first the shards, then their description, so that nothing half-written is ever visible.

A shard is written under a temporary name, flushed to the disk and renamed. A record set is written to a folder
beside its final place and renamed when it is complete.
"""

import contextlib
import dataclasses
import math
import os
import shutil
import socket
from collections.abc import Iterable, Iterator, Mapping, Sequence
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
    """Summary of a shard: number of records, bytes of their values, and sums over valid pixels per band."""

    records: int
    bytes: int
    pixels: int
    sums: Sequence[float]
    square_sums: Sequence[float]

    def __add__(self, other: "ShardSummary") -> "ShardSummary":
        counts = (self.records + other.records, self.bytes + other.bytes, self.pixels + other.pixels)
        pairs = ((self.sums, other.sums), (self.square_sums, other.square_sums))
        return ShardSummary(*counts, *([a + b for a, b in zip(*pair, strict=True)] for pair in pairs))


def write_shard(path: Path, records: Iterable[tuple[Record, bytes]], bands: int) -> ShardSummary:
    """Write one shard at `path`: all of it or nothing.

    The same records give the same bytes. An existing shard is replaced.

    Args:
        path: File to create.
        records: Its records in order, each with its bytes from `encode_record`.
        bands: Number of bands of a record.

    Raises:
        UserError: The disk is full or the folder cannot be written.
    """
    with _whole_file(path) as temporary:
        with _array_record(temporary) as writer:
            summary = _write_all(writer, records, bands)
        _check_complete(temporary, summary.records)
    return summary


def join_shards(path: Path, parts: Sequence[Path], records: int) -> None:
    """Write one shard at `path` with the `records` records of several shards, in their order: all of it or nothing.

    Raises:
        UserError: As in `write_shard`.
    """
    with _whole_file(path) as temporary:
        with _array_record(temporary) as writer:
            for part in parts:
                with contextlib.closing(array_record_module.ArrayRecordReader(str(part))) as reader:
                    for number in range(reader.num_records()):
                        writer.write(reader.read([number])[0])
        _check_complete(temporary, records)


@contextlib.contextmanager
def _array_record(path: Path) -> Iterator[Any]:
    path.open("wb").close()  # raises with the reason where the folder cannot be written; the C++ writer does not
    writer = array_record_module.ArrayRecordWriter(str(path), _ARRAY_RECORD_OPTIONS)
    try:
        yield writer
    except BaseException:
        with contextlib.suppress(RuntimeError):
            writer.close()
        raise
    writer.close()


def _write_all(writer: Any, records: Iterable[tuple[Record, bytes]], bands: int) -> ShardSummary:
    count = size = pixels = 0
    sums = np.zeros((2, bands))
    for record, data in records:
        writer.write(data)
        seen = _valid_values(record)
        sums += [seen.sum(axis=1, dtype=np.float64), np.square(seen).sum(axis=1, dtype=np.float64)]
        count, size, pixels = count + 1, size + len(data), pixels + seen.shape[1]
    return ShardSummary(count, size, pixels, *sums.tolist())


def _valid_values(record: Record) -> np.ndarray:
    """Stored values where valid: (band, pixels) float32, in which float16 values and their squares are exact."""
    stored = record.image.astype(STORED_DTYPE).astype(np.float32)
    if record.valid_pixels is None:
        return stored.reshape(len(stored), -1)
    return stored[:, record.valid_pixels]


def _check_complete(path: Path, count: int) -> None:
    """Check a written file: the C++ writer can fail silently, and an incomplete file reads as one without records."""
    reader = array_record_module.ArrayRecordReader(str(path))
    found = reader.num_records()
    reader.close()
    if found != count:
        raise OSError(f"{found} of {count} records arrived on the disk")


@contextlib.contextmanager
def writing_errors(path: Path) -> Iterator[None]:
    """Convert an error of the file system to one line that names the place and the remedy."""
    try:
        yield
    except RecordError:
        raise
    except (OSError, RuntimeError) as error:
        reason = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
        reason = reason.splitlines()[0].split(";")[0].removeprefix("write() failed: ")
        remedy = f"({free_gib(path)}); free space or choose another --out, then run again"
        raise UserError(f"cannot write {path}: {reason} {remedy}") from None


def free_gib(path: Path) -> str:
    """Free space on the disk of `path`, as text."""
    folder = next(parent for parent in path.absolute().parents if parent.is_dir())
    return f"{shutil.disk_usage(folder).free / 2**30:.2f} GiB free"


def _flush(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextlib.contextmanager
def _whole_file(path: Path) -> Iterator[Path]:
    """A temporary name, unique to this process, for a file that is flushed and renamed when it is complete."""
    temporary = path.with_name(f".{path.name}.{socket.gethostname()}.{os.getpid()}.tmp")
    with writing_errors(path):
        try:
            yield temporary
            _flush(temporary)
            temporary.replace(path)
            _flush(path.parent)
        except BaseException:
            with contextlib.suppress(OSError):
                temporary.unlink()
            raise


def write_file(path: Path, content: str | bytes | memoryview) -> None:
    """Write a file: all of it or nothing."""
    with _whole_file(path) as temporary:
        temporary.write_bytes(content.encode() if isinstance(content, str) else content)


def merged_statistics(shards: Sequence[ShardSummary]) -> BandStatistics | None:
    """Mean and (population) standard deviation per band over the valid pixels of `shards`, exact in any order."""
    pixels = sum(shard.pixels for shard in shards)
    if pixels == 0:
        return None
    means = [math.fsum(values) / pixels for values in zip(*(s.sums for s in shards), strict=True)]
    squares = [math.fsum(values) / pixels for values in zip(*(s.square_sums for s in shards), strict=True)]
    deviations = (math.sqrt(max(s - m * m, 0.0)) for m, s in zip(means, squares, strict=True))
    return BandStatistics(mean_db=tuple(means), std_db=tuple(deviations))


def write_description(folder: Path, contract: Contract, splits: Mapping[str, Sequence[ShardSummary]]) -> Contract:
    """Write contract and TFDS metadata beside the shards in `folder`; returns the completed contract.

    Statistics are those of the training split; `splits` gives the shards of each split in order.
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
    write_file(folder / CONTRACT_FILE, contract.to_json())
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
    """Refuse to write to an existing place.

    Raises:
        UserError: `out` exists and is not an empty folder.
    """
    if out.exists() and not (out.is_dir() and not any(out.iterdir())):
        raise UserError(f"{out} already exists; remove it or choose another --out")


def publish(folder: Path, out: Path) -> None:
    """Rename a finished folder to its final name, in one step."""
    with writing_errors(out):
        folder.replace(out)
        _flush(out.parent)
