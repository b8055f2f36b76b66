"""Lists of BigEarthNet v1: which patches a split holds, and which are to be left out."""

from collections.abc import Sequence
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv
import pyarrow.parquet

from sarwmix_jax.errors import UserError

DEFAULT_S1_COLUMN = 1
_FLAGS = {"snow": "contains_seasonal_snow", "cloud or shadow": "contains_cloud_or_shadow"}


def read_rows(splits: Sequence[str], names: Path | None, s1_column: int | None) -> pa.Table:
    """The patches of split lists.

    Args:
        splits: `train=FILE` and so on; a file holds one S2 name a line (the official lists), or comma-separated rows
            with the S1 name in one column (those of the published system); no header; may be compressed.
        names: The official table of S1 name, S2 name, country and season.
        s1_column: Column of the S1 name, from 0; by default 1 where there are several columns.

    Returns:
        Table with patch_id (the S2 name where it is known), s1_name, split and country.

    Raises:
        UserError: A file is missing or cannot be understood, or a name is not in the table.
    """
    table = None if names is None else read_names(names)
    parts = []
    for text in splits:
        split, _, file = text.partition("=")
        if not file:
            raise UserError(f"--splits {text}: write it as train=FILE, validation=FILE or test=FILE")
        parts.append(_split_rows(split, Path(file), table, s1_column))
    return pa.concat_tables(parts)


def read_names(path: Path) -> pa.Table:
    """The official name table, columns s1_name, s2_name and country."""
    table = _read_csv(path, header=True)
    missing = [name for name in ("s1_name", "s2_name", "country") if name not in table.column_names]
    if missing:
        raise UserError(f"{path} has no column {missing[0]!r}; give s1_s2_name_country_season.csv as --names")
    return table.select(["s1_name", "s2_name", "country"])


def _split_rows(split: str, path: Path, names: pa.Table | None, s1_column: int | None) -> pa.Table:
    given = _read_csv(path, header=False)
    if s1_column is None and given.num_columns == 1:
        column, prefix = 0, _prefix(given.column(0)[0].as_py())
    else:
        column, prefix = DEFAULT_S1_COLUMN if s1_column is None else s1_column, "S1"
    if column >= given.num_columns:
        raise UserError(f"{path} has {given.num_columns} columns, no column {column}; choose --s1-column")
    found = given.column(column).cast(pa.string())
    wrong = pc.index(pc.starts_with(found, prefix or "S1"), False).as_py()
    if wrong >= 0:
        raise UserError(f"{path}, row {wrong + 1}: {found[wrong].as_py()!r} is no {prefix or 'S1'} name of a patch")
    if names is None:
        if prefix == "S2":
            raise UserError(
                f"{path} lists S2 names: give the table that maps them, s1_s2_name_country_season.csv, as --names"
            )
        s1_names, patch_ids, country = found, found, pa.array([""] * len(found))
    else:
        positions = pc.index_in(found, names["s2_name" if prefix == "S2" else "s1_name"].combine_chunks())
        if positions.null_count:
            unknown = found[pc.index(pc.is_null(positions), True).as_py()].as_py()
            raise UserError(f"{path} names {unknown}, which the --names table does not hold; check both files")
        s1_names, patch_ids, country = (names[c].take(positions) for c in ("s1_name", "s2_name", "country"))
    columns = {"patch_id": patch_ids, "s1_name": s1_names, "split": pa.array([split] * len(found)), "country": country}
    return pa.table({name: pc.cast(values, pa.string()) for name, values in columns.items()})


def _prefix(name: object) -> str:
    return "S2" if str(name).startswith("S2") else "S1"


def read_exclusions(files: Sequence[str]) -> dict[str, pa.Array]:
    """Names to leave out, by reason.

    Args:
        files: `snow=FILE`, `cloud=FILE` with one S1 or S2 name a line, or metadata of BigEarthNet v2 (parquet), whose
            flags say snow or cloud.

    Raises:
        UserError: A file is missing or cannot be understood.
    """
    reasons: dict[str, pa.Array] = {}
    for text in files:
        reason, _, file = text.rpartition("=")
        path = Path(file)
        if path.suffix == ".parquet":
            reasons |= _flagged(path)
        elif not reason:
            raise UserError(f"--exclude {text}: say why, as in snow={text}")
        else:
            reasons[reason] = _read_csv(path, header=False).column(0).cast(pa.string()).combine_chunks()
    return reasons


def _flagged(path: Path) -> dict[str, pa.Array]:
    _check_file(path)
    try:
        table = pyarrow.parquet.read_table(path, columns=["s1_name", *_FLAGS.values()])
    except (pa.ArrowException, OSError) as error:
        raise UserError(f"{path} cannot be read ({str(error).splitlines()[0]}); fetch it again") from None
    return {reason: table.filter(table[flag])["s1_name"].combine_chunks() for reason, flag in _FLAGS.items()}


def exclude(rows: pa.Table, reasons: dict[str, pa.Array]) -> tuple[pa.Table, dict[str, int]]:
    """Rows that no list names, and how many each list took (the first that names a patch)."""
    counts = {}
    for reason, names in reasons.items():
        hit = pc.or_(pc.is_in(rows["s1_name"], names), pc.is_in(rows["patch_id"], names))
        counts[reason] = pc.sum(hit).as_py() or 0
        rows = rows.filter(pc.invert(hit))
    return rows, counts


def _read_csv(path: Path, *, header: bool) -> pa.Table:
    _check_file(path)
    options = pyarrow.csv.ReadOptions(autogenerate_column_names=not header)
    try:
        table = pyarrow.csv.read_csv(path, read_options=options)
    except (pa.ArrowException, OSError) as error:
        raise UserError(f"{path} cannot be read as CSV ({str(error).splitlines()[0]})") from None
    if table.num_rows == 0:
        raise UserError(f"{path} names no patch")
    return table


def _check_file(path: Path) -> None:
    if not path.is_file():
        raise UserError(f"no file {path}")
