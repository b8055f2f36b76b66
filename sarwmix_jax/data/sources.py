"""Sources of records: a split (such as `train[:12.5%]`) of a prepared folder, or several of them mixed."""

import re
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from google.protobuf.message import DecodeError
from jaxtyping import Int64

from sarwmix_jax import plausibility
from sarwmix_jax.data import verification
from sarwmix_jax.data.records import (
    CONTRACT_FILE,
    STORED_DTYPE,
    Contract,
    Expectation,
    decode_record,
    promise_faults,
    read_contract,
    shard_name,
)
from sarwmix_jax.errors import UserError

# One record is one read, so reading ahead and parallel decoding would only cost time.
_READER_OPTIONS = "readahead_buffer_size:0,max_parallelism:0"
_FILE_BUFFER_BYTES = 32768
_BOUND = r"(-?\d+(?:\.\d+)?)?(%)?"
_PRODUCT = re.compile(r"^(S1[A-D]_\w\w_\w{4}_\w{4}_\d{8}T\d{6})_.*$")
_PART = re.compile(rf"([\w-]+)(?:\[{_BOUND}:{_BOUND}\])?")

# Two reading threads that import at once can wait for each other for ever: while tensorflow_datasets is imported, it
# replaces Python's import function for all threads.
_IMPORTING = threading.Lock()

_SAMPLES = 64
Batch = dict[str, np.ndarray]


@dataclass(frozen=True)
class SplitRange:
    """Records `start` to `stop` (exclusive) of the split `name`."""

    name: str
    start: int
    stop: int


@dataclass(frozen=True)
class FileSlice:
    """Records `first` to `first + count` of one file, which holds `whole`."""

    path: Path
    first: int
    count: int
    whole: int


class RecordSource:
    """The records of one split (or slices of several), by number; picklable, safe to read from threads."""

    def __init__(self, contract: Contract, split: str, files: Sequence[FileSlice]) -> None:
        """Use `open_records`."""
        self.contract = contract
        self.split = split
        self._files = tuple(files)
        self._ends = np.cumsum([file.count for file in self._files])
        self._readers: dict[int, Any] = {}
        self._lock = threading.Lock()

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.contract, self.split, self._files)

    def __len__(self) -> int:
        return int(self._ends[-1])

    def __repr__(self) -> str:
        return f"RecordSource({self.contract.name}, {self.split!r}, {len(self)} records)"

    @property
    def folder(self) -> Path:
        """Folder of the record set."""
        return self._files[0].path.parent

    def __getitem__(self, index: int) -> dict[str, Any]:
        """Record `index`, as from `records.decode_record`.

        Raises:
            IndexError: No such record.
            UserError: The file cannot be read.
        """
        return self._decoded(index)

    @property
    def records(self) -> "RecordSource":
        """This source itself; a source of pairs has the same attribute."""
        return self

    def name_of(self, index: int) -> str:
        """Patch id of record `index`."""
        return str(self[index]["patch_id"])

    def cluster_of(self, index: int) -> str:
        """Acquisition of record `index`: its Sentinel-1 product where known, else the record's name."""
        record = self[index]
        return _PRODUCT.sub(r"\1", record["s1_name"]) or str(record["patch_id"])

    def read_batch(
        self, indices: Sequence[int] | np.ndarray, columns: Sequence[str] | None = None
    ) -> dict[str, np.ndarray]:
        """Arrays of several records, in the order of `indices`.

        Returns:
            `image` (records, band, height, width) float16; `valid_pixels` (records, height, width) bool if the
            contract promises it; `labels` (records, classes) uint8 if there are classes; only `columns`, if given.
        """
        contract = self.contract
        known: dict[str, tuple[tuple[int, ...], Any]] = {"image": (contract.shape, STORED_DTYPE)}
        if contract.has_valid_pixels:
            known["valid_pixels"] = (contract.shape[1:], np.bool_)
        if contract.classes:
            known["labels"] = ((len(contract.classes),), np.uint8)
        if missing := [name for name in columns or () if name not in known]:
            raise UserError(f"the records in {self.folder} carry no {missing[0]}; prepare them with it")
        batch = {name: np.empty((len(indices), *known[name][0]), known[name][1]) for name in columns or known}
        for row, index in enumerate(indices):
            record = self._decoded(int(index))
            for name, values in batch.items():
                values[row] = record[name]
        return batch

    def check_files(self) -> None:
        """Compare the files with the checksums and numbers of records that the preparation noted; reads little of them.

        Raises:
            UserError: A file is another one, or holds another number of records.
        """
        verification.check_files(self.folder, (CONTRACT_FILE,), {file.path.name: file.whole for file in self._files})

    def _decoded(self, index: int) -> dict[str, Any]:
        if not 0 <= index < len(self):
            raise IndexError(f"record {index} of {len(self)}")
        number = int(np.searchsorted(self._ends, index, side="right"))
        file = self._files[number]
        position = index - int(self._ends[number]) + file.count + file.first
        try:
            return decode_record(bytes(self._reader(number).read([position])[0]), self.contract)
        except (RuntimeError, IndexError, ValueError, DecodeError) as error:
            reason = next(iter(str(error).splitlines()), type(error).__name__)
            raise UserError(
                f"record {position} of {file.path} cannot be read ({reason}); the file is damaged, was "
                f"removed or does not fit {CONTRACT_FILE}: prepare the records again"
            ) from None

    def _reader(self, number: int) -> Any:
        with self._lock:
            if number not in self._readers:
                path = str(self._files[number].path)
                options = {"file_reader_buffer_size": _FILE_BUFFER_BYTES}
                with _IMPORTING:
                    from array_record.python import array_record_module
                    from tensorflow_datasets.proto import tf_example_pb2  # noqa: F401 (decoding needs it)

                self._readers[number] = array_record_module.ArrayRecordReader(path, _READER_OPTIONS, **options)
            return self._readers[number]


def open_records(path: str | Path, split: str) -> RecordSource:
    """Open the split `split` of the record set at `path`.

    Args:
        path: Folder of the record set.
        split: Split names with optional slices as in TFDS: `train`, `train[:12.5%]`, `train[100:200]`,
            `train+validation`.

    Raises:
        UserError: Folder, split or files are missing, or the slice cannot be read or is empty.
    """
    folder = Path(path)
    contract = read_contract(folder)
    lengths = verification.shard_lengths(folder, contract.records)
    ranges = parse_split(split, {name: sum(shards) for name, shards in lengths.items()}, folder)
    files = [file for part in ranges for file in _file_slices(folder, contract, part, lengths[part.name])]
    if missing := [file.path for file in files if not file.path.is_file()]:
        raise UserError(f"{missing[0]} is missing ({len(missing)} of {len(files)} files); copy the records again")
    source = RecordSource(contract, split, files)
    source.check_files()
    return source


def _file_slices(folder: Path, contract: Contract, wanted: SplitRange, lengths: list[int]) -> list[FileSlice]:
    slices = []
    first = 0
    for number, length in enumerate(lengths):
        start, stop = max(wanted.start - first, 0), min(wanted.stop - first, length)
        if start < stop:
            path = folder / shard_name(contract.name, wanted.name, number, len(lengths))
            slices.append(FileSlice(path, start, stop - start, length))
        first += length
    return slices


def check_contract(source: RecordSource, expected: Expectation | None = None) -> None:
    """Check contract and a sample of values against what a run expects, by default VH and VV in dB.

    Raises:
        UserError: The records differ from it; the line states what was found, where, and the remedy.
    """
    check_promises(source, expected or Expectation())
    check_values(source)


def check_promises(source: RecordSource, expected: Expectation) -> None:
    """Check the contract of a record set against what a run expects; errors as above."""
    for fault in promise_faults(source.contract, expected):
        raise UserError(f"records {source.folder}: {fault}")


def check_values(source: RecordSource) -> None:
    """Check that 64 records, evenly spaced, are plausible for unit, bands and statistics; errors as above."""
    contract = source.contract
    indices = np.unique(np.linspace(0, len(source) - 1, min(_SAMPLES, len(source))).astype(int))
    batch = source.read_batch(indices)
    judge = plausibility.judge_db if contract.unit == "dB" else plausibility.judge_power
    found = judge(batch["image"].astype(np.float32), contract.bands, batch.get("valid_pixels"))
    if found is not None:
        place = f"split {source.split}" if found.image is None else source[int(indices[found.image])]["patch_id"]
        raise UserError(f"records {source.folder}, {place}: {found.reason}; {found.remedy}")
    if contract.statistics is not None and source.split == contract.statistics_split:
        for fault in verification.statistics_faults(batch, contract.bands, contract.statistics):
            raise UserError(f"records {source.folder}, split {source.split}: {fault}")


def read_mixed(
    sources: Sequence[Any], numbers: Int64[np.ndarray, " records"], columns: Sequence[str] | None = None
) -> Batch:
    """The records with these numbers, counted over all `sources`; arrays as in `RecordSource.read_batch`."""
    if len(sources) == 1:
        return dict(sources[0].read_batch(numbers, columns))
    batch: Batch = {}
    first = 0
    for source in sources:
        rows = np.flatnonzero((numbers >= first) & (numbers < first + len(source)))
        carried = [c for c in columns or () if c != "valid_pixels" or source.contract.has_valid_pixels]
        for name, values in source.read_batch(numbers[rows] - first, carried or None).items():
            # Where a source has no masks, all pixels are valid.
            empty = np.ones if name == "valid_pixels" else np.zeros
            batch.setdefault(name, empty((len(numbers), *values.shape[1:]), values.dtype))[rows] = values
        first += len(source)
    return batch


def parse_split(expression: str, records: Mapping[str, int], where: object) -> list[SplitRange]:
    """The ranges of records in a split expression, in its order.

    Args:
        expression: Names joined by `+`, each with an optional slice in records or percent; bounds may be negative
            (from the end); percentages are rounded to the nearest record.
        records: Records per split.
        where: Name of the record set, for errors.

    Raises:
        UserError: A split is unknown, the expression cannot be read, or it has no records.
    """
    ranges = [_parse_part(part.strip(), expression, records, where) for part in expression.split("+")]
    if filled := [part for part in ranges if part.stop > part.start]:
        return filled
    raise UserError(f"split {expression!r} of {where} is empty; it has {_known(records)}")


def _parse_part(part: str, expression: str, records: Mapping[str, int], where: object) -> SplitRange:
    if (match := _PART.fullmatch(part)) is None:
        forms = "train, train[:12.5%], train[100:200] or train+validation"
        raise UserError(f"split {expression!r} cannot be understood; write it as {forms}")
    name, start, start_unit, stop, stop_unit = match.groups()
    if name not in records:
        raise UserError(f"no split {name!r} in {where}; it has {_known(records)}")
    bounds = ((start, start_unit, 0), (stop, stop_unit, records[name]))
    return SplitRange(name, *(_bound(*bound, records[name], expression) for bound in bounds))


def _bound(text: str | None, unit: str | None, default: int, count: int, expression: str) -> int:
    if text is None:
        return default
    if unit is None and "." in text:
        raise UserError(f"split {expression!r}: {text} is not a whole number of records; write {text}% for percent")
    value = float(text)
    if unit is not None and abs(value) > 100:
        raise UserError(f"split {expression!r}: {text}% lies outside -100% to 100%")
    if unit is None and abs(value) > count:
        raise UserError(f"split {expression!r}: {text} lies outside the split's {count} records")
    position = round(value * count / 100) if unit is not None else int(value)
    return position + count if position < 0 else position


def _known(records: Mapping[str, int]) -> str:
    return ", ".join(f"{name} ({count} records)" for name, count in records.items())
