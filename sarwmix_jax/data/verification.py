"""What is checked when a record set is opened: the values of its contract, and its files against their checksums.

A preparation ends with `checksums.json` beside the contract: size and SHA-256 of every file, and of each shard also its
records and the SHA-256 of its ends, the first and last 64 KiB. Sizes, ends, contract and metadata are compared at every
start, in milliseconds: shards that were exchanged, doubled, shortened or come from another set differ in them. Whole
files are read on request. Bits that flip inside a shard are noticed when they are read, by ArrayRecord.
"""

import contextlib
import functools
import hashlib
import json
import logging
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from sarwmix_jax.errors import UserError
from sarwmix_jax.facts.bands import BandStatistics

CHECKSUMS_FILE = "checksums.json"
METADATA_FILE = "dataset_info.json"
REPORT_FILE = "preparation.json"
_SCHEMA = 1
_END_BYTES = 65536
_LARGEST_SIDE = 65536
_DB_RANGE = (-200.0, 60.0)
_LEAST_STD_DB = 1e-6
_FAR_DEVIATIONS = 1.0
_FAR_RATIO = 4.0
_REMEDY = "prepare or copy the records again"

log = logging.getLogger(__name__)


def contract_faults(fields: Mapping[str, Any]) -> Iterator[str]:
    """What cannot be in the JSON of a contract: types, sizes, doubled names, impossible statistics."""
    for name in ("name", "version", "source", "quantity", "unit", "statistics_split"):
        if not isinstance(fields[name], str):
            yield f"{name} is {fields[name]!r}, not text"
    for name in ("height", "width"):
        if not _is_count(fields[name], 1, _LARGEST_SIDE):
            yield f"{name} is {fields[name]!r}, not a number of pixels from 1 to {_LARGEST_SIDE}"
    for name in ("bands", "classes"):
        listed = fields[name]
        texts = isinstance(listed, list) and all(isinstance(each, str) and each for each in listed)
        if not texts or len(set(listed)) < len(listed) or (name == "bands" and not listed):
            yield f"{name} are {listed!r}, not a list of different names"
    for name in ("has_valid_pixels", "georeferenced"):
        if not isinstance(fields[name], bool):
            yield f"{name} is {fields[name]!r}, not true or false"
    counts = fields["records"]
    if not isinstance(counts, dict) or not all(_is_count(count) for count in counts.values()):
        yield f"records are {counts!r}, not a number for each split"
    elif fields["statistics"] is not None:
        yield from _statistics_faults(fields["statistics"], fields["bands"])
        if fields["statistics_split"] not in counts:
            yield f"statistics_split is {fields['statistics_split']!r}, which is no split of the set"


def _is_count(value: Any, low: int = 0, high: float = math.inf) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and low <= value <= high


def _statistics_faults(statistics: Any, bands: Sequence[str]) -> Iterator[str]:
    low, high = _DB_RANGE
    if not isinstance(statistics, dict) or not all(isinstance(values, list) for values in statistics.values()):
        yield f"statistics are {statistics!r}, not lists of numbers"
        return
    for name, least, most in (("mean_db", low, high), ("std_db", _LEAST_STD_DB, high - low)):
        values = statistics[name]
        numbers = all(isinstance(value, int | float) and not isinstance(value, bool) for value in values)
        if not numbers or len(values) != len(bands):
            yield f"{name} is {values!r}, not one number for each of {len(bands)} bands"
        elif not all(math.isfinite(value) and least <= value <= most for value in values):
            yield f"{name} is {values!r}, not within {least:g} to {most:g} dB"


def shard_lengths(folder: Path, records: Mapping[str, int]) -> dict[str, list[int]]:
    """Records of every shard by split, from the metadata of TFDS.

    Args:
        folder: Folder of the record set.
        records: Records of each split, as its contract states.

    Raises:
        UserError: They cannot be read, or differ from the contract.
    """
    path = folder / METADATA_FILE
    try:
        splits = json.loads(path.read_text(encoding="utf-8-sig"))["splits"]
        lengths = {str(split["name"]): [_length(length) for length in split["shardLengths"]] for split in splits}
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise UserError(f"{path} cannot be read ({error}); {_REMEDY}") from None
    sums = {name: sum(shards) for name, shards in lengths.items()}
    if sums != dict(records) or len(lengths) != len(splits):
        raise UserError(f"{path} states {_counts(sums)}, the contract {_counts(records)}; {_REMEDY}")
    return lengths


def _length(text: Any) -> int:
    """A length as TFDS writes it: digits, as text or as a number."""
    if isinstance(text, bool) or not str(text).isdecimal():
        raise ValueError(f"a shard of {text!r} records")
    return int(text)


def _counts(records: Mapping[str, int]) -> str:
    return ", ".join(f"{name} {count} records" for name, count in records.items()) or "no split"


def sha256_of(path: Path) -> str:
    """SHA-256 of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def ends_of(path: Path) -> dict[str, Any]:
    """Size of a file in bytes, and SHA-256 of its first and last 64 KiB."""
    with path.open("rb") as file:
        digest = hashlib.sha256(file.read(_END_BYTES))
        size = file.seek(0, 2)
        file.seek(max(size - _END_BYTES, 0))
        digest.update(file.read())
    return {"bytes": size, "ends_sha256": digest.hexdigest()}


def checksums(folder: Path, shards: Mapping[str, tuple[int, str]]) -> str:
    """The content of `checksums.json` for a folder, all but its report; of `shards` records and SHA-256 are known."""
    files: dict[str, dict[str, Any]] = {}
    written_later = (CHECKSUMS_FILE, REPORT_FILE)  # or left by a start that was killed
    for path in sorted(path for path in folder.iterdir() if path.is_file()):
        if path.name.startswith(".") or path.name in written_later:
            continue
        records, digest = shards.get(path.name, (None, ""))
        files[path.name] = ends_of(path) | {"sha256": digest or sha256_of(path)}
        if records is not None:
            files[path.name]["records"] = records
    return json.dumps({"schema": _SCHEMA, "files": files}, indent=2) + "\n"


def read_checksums(folder: Path) -> dict[str, dict[str, Any]] | None:
    """The facts of every file of a record set by name; None for a set of an earlier version.

    Raises:
        UserError: They cannot be read.
    """
    path = folder / CHECKSUMS_FILE
    try:
        found = json.loads(path.read_bytes())
        if found["schema"] != _SCHEMA:
            raise ValueError(f"schema {found['schema']}, this version reads {_SCHEMA}")
        empty = dict.fromkeys(("bytes", "ends_sha256", "sha256"))
        known = {name: empty | facts for name, facts in found["files"].items()}
    except FileNotFoundError:
        return None
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise UserError(f"{path} cannot be read ({error}); {_REMEDY}, or remove it to use them unchecked") from None
    return known


def statistics_faults(
    batch: Mapping[str, np.ndarray], bands: Sequence[str], statistics: BandStatistics
) -> Iterator[str]:
    """Statistics of a contract that cannot be those of values like a sample's, `image` and perhaps `valid_pixels`."""
    for number, (band, mean, std) in enumerate(zip(bands, statistics.mean_db, statistics.std_db, strict=True)):
        values = batch["image"][:, number].astype(np.float64)
        values = values[batch["valid_pixels"]] if "valid_pixels" in batch else values
        if not values.size:
            continue
        far = abs(values.mean() - mean) > _FAR_DEVIATIONS * max(std, values.std())
        if far or not std / _FAR_RATIO <= values.std() <= std * _FAR_RATIO:
            yield (
                f"{band} is stated with mean {mean:.4g} dB and standard deviation {std:.4g}, a sample has "
                f"{values.mean():.4g} and {values.std():.4g}; {_REMEDY}"
            )


def check_files(folder: Path, described: Sequence[str], shards: Mapping[str, int]) -> None:
    """Compare the files that a run reads with their checksums, in a short time; state once where there are none.

    Args:
        folder: Folder of the record set.
        described: Names of small files, which are read in full.
        shards: Records by name of the shards.

    Raises:
        UserError: A file is another one, with a remedy.
    """
    known = read_checksums(folder)
    if known is None:
        _state_unchecked(folder.absolute())
    faults = counted_faults(folder, shards) if known is None else quick_faults(folder, known, described, shards)
    try:
        fault = next(faults, None)
    except OSError as error:
        fault = f"{error.filename} cannot be read: {error.strerror}"
    if fault:
        raise UserError(f"records {folder}: {fault}")


def counted_faults(folder: Path, shards: Mapping[str, int]) -> Iterator[str]:
    """Shards that hold another number of records than stated."""
    from array_record.python import array_record_module

    for name, stated in shards.items():
        try:
            with contextlib.closing(array_record_module.ArrayRecordReader(str(folder / name))) as reader:
                found = reader.num_records()
        except (RuntimeError, ValueError) as error:
            yield f"{name} cannot be read ({str(error).splitlines()[0]}); {_REMEDY}"
        else:
            if found != stated:
                yield f"{name} holds {found} records, {METADATA_FILE} states {stated}; {_REMEDY}"


def quick_faults(
    folder: Path, known: Mapping[str, Mapping[str, Any]], described: Iterable[str], shards: Mapping[str, int]
) -> Iterator[str]:
    """Files that differ from their checksums in what is read in a short time; arguments as for `check_files`."""
    described = (*described, METADATA_FILE)
    for name in (*described, *shards):
        if name not in known:
            yield f"{name} is not in {CHECKSUMS_FILE}; {_REMEDY}"
        elif name in described and sha256_of(folder / name) != known[name]["sha256"]:
            yield f"{name} was changed after the preparation; {_REMEDY}, or remove {CHECKSUMS_FILE} to use it unchecked"
        elif name in shards and (records := known[name].get("records")) != shards[name]:
            yield f"{name} is stated with {shards[name]} records, but was written with {records}; {_REMEDY}"
        elif name in shards and any(known[name][key] != value for key, value in ends_of(folder / name).items()):
            yield f"{name} is not the file that the preparation wrote; {_REMEDY}"


def whole_fault(path: Path, facts: Mapping[str, Any]) -> str | None:
    """How a file differs from what the preparation noted of it; reads all of it."""
    if not path.is_file():
        return f"{path.name} is missing; {_REMEDY}"
    if path.stat().st_size != facts["bytes"] or sha256_of(path) != facts["sha256"]:
        return f"{path.name} differs from its SHA-256; {_REMEDY}"
    return None


@functools.cache
def _state_unchecked(folder: Path) -> None:
    """State once that a record set has no checksums."""
    log.warning(
        "records %s: prepared by an earlier version without %s, so shards are unchecked", folder, CHECKSUMS_FILE
    )
