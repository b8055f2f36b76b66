"""Texts and tables from users: regular files, UTF-8, with all columns and no null values."""

import csv
import json
import re
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv
import pyarrow.parquet

from sarwmix_jax.errors import UserError

LARGEST_BYTES = 2**30
"""Largest size of a list or table, decompressed; the official ones have some tens of MB."""
_CONTROL = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f]")
_KINDS = {pa.string(): "text", pa.list_(pa.string()): "lists of text", pa.bool_(): "true and false"}


def read_text(path: Path, largest: int = LARGEST_BYTES) -> str:
    """Text of a file, which may be compressed (`.gz`, `.bz2`, `.zst`).

    Raises:
        UserError: It is missing, not a regular file, too large, not UTF-8 (with or without byte order mark), or
            contains control characters.
    """
    if not path.is_file():
        raise UserError(f"{path} is not a regular file" if path.exists() else f"no file {path}")
    try:
        with pa.input_stream(str(path)) as stream:
            content = stream.read(largest + 1)
    except (pa.ArrowException, OSError) as error:
        raise UserError(f"{path} cannot be read ({_first_line(error)}); fetch it again") from None
    if len(content) > largest:
        raise UserError(f"{path} holds more than {largest / 2**20:,.0f} MiB; is it the right file?")
    try:
        text: str = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        byte = f"byte {error.start} is 0x{content[error.start]:02x}"
        raise UserError(f"{path} is not UTF-8 ({byte}); save it as UTF-8") from None
    control = _CONTROL.search(text)
    if control is not None:
        line = text.count("\n", 0, control.start()) + 1
        raise UserError(f"{path}, line {line}: holds the control character {control[0]!r}; save it as plain text")
    return text


def read_csv(path: Path, *, header: bool = True) -> pa.Table:
    """A CSV file, which may be compressed: all columns as text without surrounding spaces; never null.

    Raises:
        UserError: It cannot be read by `read_text` or as CSV, or has no rows.
    """
    text = read_text(path)
    if not text.strip():
        raise UserError(f"{path} has no rows; give a table with at least one")
    names = next(csv.reader([next(line for line in text.splitlines() if line.strip())]))
    columns = names if header else [f"f{number}" for number in range(len(names))]
    if len(set(columns)) < len(columns):
        raise UserError(f"{path} names a column twice: {', '.join(columns)}")
    reading = pyarrow.csv.ReadOptions(autogenerate_column_names=not header)
    converting = pyarrow.csv.ConvertOptions(column_types=dict.fromkeys(columns, pa.string()))
    # A single line without a line end would be ignored.
    source = pa.BufferReader(text.rstrip().encode() + b"\n")
    try:
        table = pyarrow.csv.read_csv(source, read_options=reading, convert_options=converting)
    except pa.ArrowException as error:
        raise UserError(f"{path} cannot be read as CSV ({_first_line(error)}); check its rows") from None
    if table.num_rows == 0:
        raise UserError(f"{path} has no rows; give a table with at least one")
    trimmed = [pc.utf8_trim_whitespace(column) for column in table.columns]
    return pa.table(trimmed, [name.strip() for name in table.column_names])


def read_parquet(path: Path) -> pa.Table:
    """A parquet file.

    Raises:
        UserError: It is missing, not a parquet file, or too large.
    """
    if not path.is_file():
        raise UserError(f"{path} is not a regular file" if path.exists() else f"no file {path}")
    try:
        with pyarrow.parquet.ParquetFile(path) as file:
            groups = range(file.metadata.num_row_groups)
            if sum(file.metadata.row_group(number).total_byte_size for number in groups) > LARGEST_BYTES:
                raise UserError(f"{path} holds more than {LARGEST_BYTES / 2**20:,.0f} MiB; is it the right file?")
            table = file.read()
    except (pa.ArrowException, OSError) as error:
        raise UserError(f"{path} cannot be read as parquet ({_first_line(error)}); fetch it again") from None
    if table.num_rows == 0:
        raise UserError(f"{path} has no rows; give a table with at least one")
    return table


def select(path: Path, table: pa.Table, wanted: pa.Schema, hint: str, nullable: Collection[str] = ()) -> pa.Table:
    """Columns of a table with the types wanted: text, lists of text, or flags.

    Args:
        path: File of the table, for messages.
        table: The table.
        wanted: Names and types of the columns.
        hint: Remedy where a column is missing or has another type.
        nullable: Columns of text in which null means an empty text.

    Raises:
        UserError: A column is missing or of another type, or a value is null.
    """
    columns = []
    for field in wanted:
        if field.name not in table.column_names:
            raise UserError(f"{path} has no column {field.name!r}; {hint}")
        column = table[field.name]
        if _plain(column.type) != field.type:
            raise UserError(f"{path}: column {field.name!r} holds {column.type}, expected {_KINDS[field.type]}; {hint}")
        column = column.cast(field.type).combine_chunks()
        if field.name in nullable:
            column = column.fill_null("")
        row = pc.index(pc.is_null(column), True).as_py()
        if row < 0 and pa.types.is_list(field.type):
            inside = pc.index(pc.is_null(pc.list_flatten(column)), True).as_py()
            row = inside if inside < 0 else pc.list_parent_indices(column)[inside].as_py()
        if row >= 0:
            raise UserError(f"{path}: column {field.name!r} is null, first in row {row + 1}; {hint}")
        columns.append(column)
    return pa.table(columns, wanted)


def _plain(kind: pa.DataType) -> pa.DataType:
    """The common type of all types that hold the same values."""
    if pa.types.is_dictionary(kind):
        return _plain(kind.value_type)
    if pa.types.is_list(kind) or pa.types.is_large_list(kind):
        return pa.list_(_plain(kind.value_type))
    return pa.string() if pa.types.is_large_string(kind) or pa.types.is_string_view(kind) else kind


def parse_json(content: bytes) -> Any:
    """JSON of a file.

    Raises:
        ValueError: It is not UTF-8 or not JSON, is nested too deeply, or has a name twice in one object.
    """
    try:
        return json.loads(content.decode("utf-8-sig"), object_pairs_hook=_unique)
    except RecursionError:
        raise ValueError("nested too deeply") from None


def _unique(pairs: Sequence[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        names = [name for name, _ in pairs]
        raise ValueError(f"{max(names, key=names.count)!r:.100} is named twice")
    return found


def _first_line(error: BaseException) -> str:
    return (str(error).splitlines() or [repr(error)])[0]
