"""Texts and tables of users: read as UTF-8, or refused in one line."""

import bz2
import os

import pyarrow as pa
import pyarrow.parquet
import pytest

from sarwmix_jax.data.tables import parse_json, read_csv, read_parquet, read_text, select
from sarwmix_jax.errors import UserError

SCHEMA = pa.schema({"name": pa.string(), "labels": pa.list_(pa.string()), "snow": pa.bool_()})
TABLE = pa.table({"name": ["a", "b"], "labels": [["x"], []], "snow": [True, False]}, SCHEMA)


@pytest.mark.parametrize("mark", [b"", b"\xef\xbb\xbf"])
@pytest.mark.parametrize("end", [b"", b"\n", b"\r\n"])
def test_a_list_reads_the_same_with_mark_and_without_end(tmp_path, mark, end):
    path = tmp_path / "list.csv"
    path.write_bytes(mark + "Zürich".encode() + end)
    assert read_csv(path, header=False).to_pydict() == {"f0": ["Zürich"]}
    path.write_bytes(mark + " name ,labels\r\n 0007 ,ä; b".encode() + end)
    assert read_csv(path).to_pydict() == {"name": ["0007"], "labels": ["ä; b"]}
    packed = tmp_path / "list.csv.bz2"
    packed.write_bytes(bz2.compress(path.read_bytes()))
    assert read_csv(packed).equals(read_csv(path))


@pytest.mark.parametrize(
    "content, message",
    [
        ("Zürich".encode("latin-1"), r"is not UTF-8 \(byte 1 is 0xfc\); save it as UTF-8"),
        ("name\n".encode("utf-16"), r"is not UTF-8 \(byte 0 is 0xff\)"),
        (b"a\nb\0c\n", r"line 2: holds the control character '\\x00'"),
        (b"a\x1b[31m\n", r"line 1: holds the control character '\\x1b'"),
        (b"", "has no rows"),
        (b" \n\n", "has no rows"),
        (b"a,b\nc\n", "cannot be read as CSV"),
    ],
)
def test_other_texts_are_one_line(tmp_path, content, message):
    path = tmp_path / "list.csv"
    path.write_bytes(content)
    with pytest.raises(UserError, match=message) as refused:
        read_csv(path, header=False)
    assert str(path) in str(refused.value) and "\n" not in str(refused.value)


def test_other_files_are_one_line(tmp_path):
    with pytest.raises(UserError, match="no file"):
        read_text(tmp_path / "nothing")
    os.mkfifo(tmp_path / "pipe.csv")
    (tmp_path / "large.gz").write_bytes(b"no gzip")
    (tmp_path / "bomb.bz2").write_bytes(bz2.compress(bytes([48]) * 2**20))
    for name, message in (
        ("pipe.csv", "is not a regular file"),
        ("large.gz", "cannot be read"),
        ("bomb.bz2", "holds more"),
    ):
        with pytest.raises(UserError, match=message):
            read_text(tmp_path / name, largest=2**19)
    with pytest.raises(UserError, match="is not a regular file"):
        read_parquet(tmp_path / "pipe.csv")
    (tmp_path / "list.csv").write_text("a,a\n1,2\n")
    with pytest.raises(UserError, match="names a column twice: a, a"):
        read_csv(tmp_path / "list.csv")


def test_columns_of_the_same_meaning_are_taken(tmp_path):
    given = {
        "snow": TABLE["snow"],
        "labels": TABLE["labels"].cast(pa.large_list(pa.large_string())),
        "name": TABLE["name"].dictionary_encode(),
        "more": pa.array([1, 2]),
    }
    folder = tmp_path / "more=7"  # no value of a column, though some would read it so
    folder.mkdir()
    pyarrow.parquet.write_table(pa.table(given), folder / "a.parquet")
    table = read_parquet(folder / "a.parquet")
    assert table["more"].to_pylist() == [1, 2]
    assert select(tmp_path, table, SCHEMA, "").equals(TABLE)
    nulls = TABLE.set_column(0, "name", pa.array(["a", None]))
    assert select(tmp_path, nulls, SCHEMA, "", nullable=["name"])["name"].to_pylist() == ["a", ""]


@pytest.mark.parametrize(
    "name, values, message",
    [
        ("name", None, "has no column 'name'; fetch it"),
        ("name", pa.array(["a", None]), "column 'name' is null, first in row 2; fetch it"),
        ("name", pa.array([1, 2]), "column 'name' holds int64, expected text"),
        ("name", pa.nulls(2), "column 'name' holds null, expected text"),
        ("labels", pa.array(["x", "y"]), "column 'labels' holds string, expected lists of text"),
        ("labels", pa.array([["x"], None]), "column 'labels' is null, first in row 2"),
        ("labels", pa.array([[], ["x", None]]), "column 'labels' is null, first in row 2"),
        ("labels", pa.array([[1], [2]]), "column 'labels' holds list<.*int64>, expected lists of text"),
        ("snow", pa.array([1, 0]), "column 'snow' holds int64, expected true and false"),
        ("snow", pa.array(["True", "False"]), "column 'snow' holds string, expected true and false"),
        ("snow", pa.array([True, None]), "column 'snow' is null, first in row 2"),
    ],
)
def test_columns_of_other_values_are_refused_in_one_line(tmp_path, name, values, message):
    position = TABLE.column_names.index(name)
    table = TABLE.remove_column(position) if values is None else TABLE.set_column(position, name, values)
    with pytest.raises(UserError, match=message):
        select(tmp_path / "a.parquet", table, SCHEMA, "fetch it")


@pytest.mark.parametrize(
    "content, message",
    [
        (b"[" * 1_000_000, "nested too deeply|Expecting value"),
        (b'{"a": 1, "a": 2}', "'a' is named twice"),
        ('{"a": "ü"}'.encode("latin-1"), "utf-8"),
        (b"\0", "Expecting value"),
    ],
)
def test_odd_json_is_a_value_error(content, message):
    with pytest.raises(ValueError, match=message):
        parse_json(content)
    assert parse_json(b'\xef\xbb\xbf{"a": [1]}') == {"a": [1]}
