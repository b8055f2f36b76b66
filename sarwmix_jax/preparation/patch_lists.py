"""Lists of BigEarthNet patches: metadata, split lists and lists of patches to leave out."""

import re
from collections.abc import Sequence
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc

from sarwmix_jax.data.tables import read_csv, read_parquet, select
from sarwmix_jax.errors import UserError
from sarwmix_jax.facts.labels import CLASSES

_COLUMNS = pa.schema({name: pa.string() for name in ("patch_id", "s1_name", "split", "country")})
_COLUMNS_V2 = _COLUMNS.append(pa.field("labels", pa.list_(pa.string())))
_NAMES = pa.schema({name: pa.string() for name in ("s1_name", "s2_name", "country")})
_FLAGS = {"snow": "contains_seasonal_snow", "cloud or shadow": "contains_cloud_or_shadow"}
_FLAGGED = pa.schema({"s1_name": pa.string(), **dict.fromkeys(_FLAGS.values(), pa.bool_())})
_LABEL_LIST = r"\[\s*(?:(?:'[^']+'|\"[^\"]+\")[\s,]*)*\]"
_CSV_LABELS, _CSV_S1_NAME, _LIST_S1_NAME = 1, 4, 1


def read_metadata(files: Sequence[str]) -> pa.Table:
    """The rows of metadata files of v2: official parquet, or CSV of the published system.

    Args:
        files: Paths; a CSV without a column `split` is written as `train=path`.

    Returns:
        Table with patch_id, s1_name, split, country and labels.

    Raises:
        UserError: A file or a column is missing, or a label is not one of the 19 classes.
    """
    rows = pa.concat_tables([_metadata(file) for file in files])
    unknown = set(pc.unique(pc.list_flatten(rows["labels"])).to_pylist()) - set(CLASSES)
    if unknown:
        raise UserError(
            f"label {min(unknown, key=str)!r} in the metadata is not one of the 19 classes of BigEarthNet v2"
        )
    return rows


def _metadata(file: str) -> pa.Table:
    if file.endswith(".parquet"):
        path = Path(file)
        hint = "is it metadata.parquet of BigEarthNet v2?"
        found = select(path, read_parquet(path), _COLUMNS_V2, hint, nullable=["country"])
        return _with_plain_names(path, found)
    split, _, name = file.rpartition("=")
    path = Path(name)
    table = read_csv(path)
    length = table.num_rows
    if table.num_columns <= _CSV_S1_NAME:
        raise UserError(f"{path} has {table.num_columns} columns; labels are expected in the 2nd, s1_name in the 5th")
    if not split and "split" not in table.column_names:
        raise UserError(f"{path} has no column 'split'; write train={path}, validation={path} or test={path}")
    if split and "split" in table.column_names and pc.unique(table["split"]).to_pylist() != [split]:
        raise UserError(f"{path} has a column 'split' that is not always {split!r}; give the file without {split}=")
    columns = {
        "patch_id": table.column(0),
        "s1_name": table.column(_CSV_S1_NAME),
        "split": pa.array([split] * length) if split else table["split"],
        "country": table["country"] if "country" in table.column_names else pa.array([""] * length),
        "labels": _label_lists(path, table.column(_CSV_LABELS)),
    }
    return _with_plain_names(path, pa.table(columns).cast(_COLUMNS_V2))


def _label_lists(path: Path, column: pa.ChunkedArray) -> pa.Array:
    """Labels from texts such as `['Pastures', 'Arable land']`."""
    texts = column.dictionary_encode().combine_chunks()
    lists = []
    for text in texts.dictionary.to_pylist():
        if re.fullmatch(_LABEL_LIST, text) is None:
            raise UserError(f"{path}: labels {text!r:.100} in the 2nd column are not a list such as ['Pastures']")
        lists.append([double or single for single, double in re.findall(r"'([^']+)'|\"([^\"]+)\"", text)])
    return pa.array(lists, pa.list_(pa.string())).take(texts.indices)


def _with_plain_names(path: Path, rows: pa.Table) -> pa.Table:
    """The rows themselves, after a check that no name can lead out of the root.

    Raises:
        UserError: A name has other characters than letters, digits, - and _.
    """
    for column in ("s1_name", "patch_id"):
        wrong = pc.index(pc.match_substring_regex(rows[column], r"\A[A-Za-z0-9_-]+\z"), False).as_py()
        if wrong >= 0:
            name = rows[column][wrong].as_py()
            raise UserError(f"{path}, row {wrong + 1}: {column} {name!r:.100} is not the name of a patch")
    return rows


def read_lists(splits: Sequence[str], names: Path | None, s1_column: int | None) -> pa.Table:
    """The patches of split lists of v1.

    Args:
        splits: `train=FILE` and so on; a file holds one S2 name per line (the official lists), or comma-separated rows
            with the S1 name in one column (those of the published system); no header; may be compressed.
        names: The official table of S1 name, S2 name, country and season.
        s1_column: Column of the S1 name, from 0; by default 1 where there are several columns.

    Returns:
        Table with patch_id (the S2 name where it is known), s1_name, split and country.

    Raises:
        UserError: A file is missing or cannot be read, or a name is not in the table.
    """
    table = None
    if names is not None:
        table = select(names, read_csv(names), _NAMES, "give s1_s2_name_country_season.csv as --names")
    parts = []
    for text in splits:
        split, _, file = text.partition("=")
        if not file:
            raise UserError(f"--splits {text}: write it as train=FILE, validation=FILE or test=FILE")
        parts.append(_split_rows(split, Path(file), table, s1_column))
    return pa.concat_tables(parts)


def _split_rows(split: str, path: Path, names: pa.Table | None, s1_column: int | None) -> pa.Table:
    given = read_csv(path, header=False)
    column, prefix = _LIST_S1_NAME if s1_column is None else s1_column, "S1"
    if s1_column is None and given.num_columns == 1:
        column, prefix = 0, "S2" if str(given.column(0)[0].as_py()).startswith("S2") else "S1"
    if not 0 <= column < given.num_columns:
        raise UserError(f"{path} has {given.num_columns} columns, no column {column}; choose --s1-column")
    found = given.column(column)
    wrong = pc.index(pc.starts_with(found, prefix), False).as_py()
    if wrong >= 0:
        raise UserError(f"{path}, row {wrong + 1}: {found[wrong].as_py()!r} is no {prefix} name of a patch")
    columns = {"patch_id": found, "s1_name": found, "country": pa.array([""] * len(found))}
    if names is not None:
        positions = pc.index_in(found, names[f"{prefix.lower()}_name"].combine_chunks())
        if positions.null_count:
            unknown = found[pc.index(pc.is_null(positions), True).as_py()].as_py()
            raise UserError(f"{path} names {unknown}, which the --names table does not hold; check both files")
        columns = dict(zip(columns, names.take(positions).select(["s2_name", "s1_name", "country"]), strict=True))
    elif prefix == "S2":
        table = "s1_s2_name_country_season.csv"
        raise UserError(f"{path} lists S2 names: give the table that maps them, {table}, as --names")
    columns["split"] = pa.array([split] * len(found))
    return _with_plain_names(path, pa.table(columns).select(_COLUMNS.names).cast(_COLUMNS))


def read_exclusions(files: Sequence[str], rows: pa.Table) -> dict[str, pa.Array]:
    """Names to leave out, by reason.

    Args:
        files: `snow=FILE`, `cloud=FILE` with one S1 or S2 name per line, or metadata of BigEarthNet v2 (parquet),
            whose flags state the reasons.
        rows: The patches from which they exclude some.

    Raises:
        UserError: A file is missing or cannot be read, names none of the patches, or gives a reason twice.
    """
    reasons: dict[str, pa.Array] = {}
    for text in files:
        found = _exclusions(text)
        if twice := found.keys() & reasons.keys():
            raise UserError(f"--exclude {text}: the reason {min(twice)!r} is given twice; rename one of them")
        if not any(pc.any(_hit(rows, names)).as_py() for names in found.values()):
            raise UserError(
                f"--exclude {text} names none of the {rows.num_rows} patches; give S1 or S2 names, one per line"
            )
        reasons |= found
    return reasons


def _exclusions(text: str) -> dict[str, pa.Array]:
    reason, _, file = text.rpartition("=")
    path = Path(file)
    if path.suffix != ".parquet":
        if not reason:
            raise UserError(f"--exclude {text}: give a reason, as in snow={text}")
        return {reason: read_csv(path, header=False).column(0).combine_chunks()}
    if reason:
        raise UserError(f"--exclude {text}: the flags of a parquet file state the reason; leave out {reason}=")
    table = select(path, read_parquet(path), _FLAGGED, "is it metadata of BigEarthNet v2?")
    return {reason: table.filter(table[flag])["s1_name"].combine_chunks() for reason, flag in _FLAGS.items()}


def _hit(rows: pa.Table, names: pa.Array) -> pa.ChunkedArray:
    return pc.or_(pc.is_in(rows["s1_name"], names), pc.is_in(rows["patch_id"], names))


def exclude(rows: pa.Table, reasons: dict[str, pa.Array]) -> tuple[pa.Table, dict[str, int]]:
    """Rows that are in no list, and the number of patches that each list excludes (counted in the first list only)."""
    counts = {}
    for reason, names in reasons.items():
        hit = _hit(rows, names)
        counts[reason] = pc.sum(hit).as_py() or 0
        rows = rows.filter(pc.invert(hit))
    return rows, counts
