"""BigEarthNet, Sentinel-1: which patches a set holds, and the records of both versions of it."""

import json
import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv
import pyarrow.parquet
import tensorstore as ts

from sarwmix_jax.data.records import Contract, ExcludedError, Record, RecordError
from sarwmix_jax.errors import UserError
from sarwmix_jax.facts.labels import CLASSES, ORIGINAL_TO_CLASS
from sarwmix_jax.geotiff.patches import check_finite, check_form, read_band
from sarwmix_jax.preparation.plan import Row

CONTRACT_V1 = Contract(
    name="bigearthnet_v1",
    version="1.0.0",
    source="BigEarthNet-S1 v1.0, Sentinel-1 IW GRD, SNAP terrain corrected, 10 m",
    quantity="sigma0",
    height=120,
    width=120,
    classes=CLASSES,
)
_SOURCE_V2 = "BigEarthNet v2.0 (reBEN), Sentinel-1 IW GRD, SNAP terrain corrected, 10 m"
CONTRACT_V2 = replace(CONTRACT_V1, name="bigearthnet_v2", version="2.0.0", source=_SOURCE_V2)
SHAPE = CONTRACT_V1.shape[1:]
FOLDER_V1, FOLDER_V2, ZARR_GROUP = "BigEarthNet-S1-v1.0", "BigEarthNet-S1", "sentinel1"
NO_CLASS = "none of the 19 classes"
_COLUMNS = {name: pa.string() for name in ("patch_id", "s1_name", "split", "country")}
_COLUMNS_V2 = pa.schema(_COLUMNS | {"labels": pa.list_(pa.string())})
_FLAGS = {"snow": "contains_seasonal_snow", "cloud or shadow": "contains_cloud_or_shadow"}
_CSV_LABELS, _CSV_S1_NAME, _LIST_S1_NAME = 1, 4, 1
_CONTEXT = ts.Context({"data_copy_concurrency": {"limit": 1}, "file_io_concurrency": {"limit": 1}})


def find_folder(root: Path, name: str) -> Path:
    """The folder `name` in or at `root`.

    Raises:
        UserError: It is neither.
    """
    for folder in (root / name, root):
        if folder.name == name and folder.is_dir():
            return folder
    raise UserError(f"no folder {name} in {root}; give the folder that holds it as --root")


def _read_table(path: Path, *, header: bool = True) -> pa.Table:
    """A table from a parquet file or a CSV, which may be compressed."""
    if not path.is_file():
        raise UserError(f"no file {path}")
    parquet = path.suffix == ".parquet"
    try:
        if parquet:
            return pyarrow.parquet.read_table(path)
        options = pyarrow.csv.ReadOptions(autogenerate_column_names=not header)
        table = pyarrow.csv.read_csv(path, read_options=options)
    except (pa.ArrowException, OSError) as error:
        kind = "parquet" if parquet else "CSV"
        raise UserError(f"{path} cannot be read as {kind} ({str(error).splitlines()[0]}); fetch it again") from None
    if table.num_rows == 0:
        raise UserError(f"{path} names no patch")
    return table


def _select(path: Path, table: pa.Table, names: Sequence[str], hint: str) -> pa.Table:
    missing = [name for name in names if name not in table.column_names]
    if missing:
        raise UserError(f"{path} has no column {missing[0]!r}; {hint}")
    return table.select(names)


def read_metadata(files: Sequence[str]) -> pa.Table:
    """The rows of metadata files of v2: official parquet, or CSV of the published system.

    Args:
        files: Paths; a CSV without a column `split` is written as `train=path`.

    Returns:
        Table with patch_id, s1_name, split, country and labels.

    Raises:
        UserError: A file or a column is missing, or a label is none of the 19 classes.
    """
    rows = pa.concat_tables([_metadata(file) for file in files])
    unknown = set(pc.unique(pc.list_flatten(rows["labels"])).to_pylist()) - set(CLASSES)
    if unknown:
        raise UserError(f"label {min(unknown, key=str)!r} in the metadata is none of the 19 classes of BigEarthNet v2")
    return rows


def _metadata(file: str) -> pa.Table:
    if file.endswith(".parquet"):
        hint = "is it metadata.parquet of BigEarthNet v2?"
        return _select(Path(file), _read_table(Path(file)), _COLUMNS_V2.names, hint).cast(_COLUMNS_V2)
    split, _, name = file.rpartition("=")
    path = Path(name)
    table = _read_table(path)
    length = table.num_rows
    if table.num_columns <= _CSV_S1_NAME:
        raise UserError(f"{path} has {table.num_columns} columns; labels are expected in the 2nd, s1_name in the 5th")
    if not split:
        _select(path, table, ["split"], f"write train={path}, validation={path} or test={path}")
    texts = table.column(_CSV_LABELS).dictionary_encode().combine_chunks()
    lists = pa.array([re.findall(r"['\"]([^'\"]+)['\"]", text) for text in texts.dictionary.to_pylist()])
    columns = {
        "patch_id": table.column(0),
        "s1_name": table.column(_CSV_S1_NAME),
        "split": pa.array([split] * length) if split else table["split"],
        "country": table["country"] if "country" in table.column_names else pa.array([""] * length),
        "labels": lists.take(texts.indices),
    }
    return pa.table(columns).cast(_COLUMNS_V2)


def read_lists(splits: Sequence[str], names: Path | None, s1_column: int | None) -> pa.Table:
    """The patches of split lists of v1.

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
    table = None
    if names is not None:
        hint = "give s1_s2_name_country_season.csv as --names"
        table = _select(names, _read_table(names), ["s1_name", "s2_name", "country"], hint)
    parts = []
    for text in splits:
        split, _, file = text.partition("=")
        if not file:
            raise UserError(f"--splits {text}: write it as train=FILE, validation=FILE or test=FILE")
        parts.append(_split_rows(split, Path(file), table, s1_column))
    return pa.concat_tables(parts)


def _split_rows(split: str, path: Path, names: pa.Table | None, s1_column: int | None) -> pa.Table:
    given = _read_table(path, header=False)
    column, prefix = _LIST_S1_NAME if s1_column is None else s1_column, "S1"
    if s1_column is None and given.num_columns == 1:
        column, prefix = 0, "S2" if str(given.column(0)[0].as_py()).startswith("S2") else "S1"
    if column >= given.num_columns:
        raise UserError(f"{path} has {given.num_columns} columns, no column {column}; choose --s1-column")
    found = given.column(column).cast(pa.string())
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
    return pa.table(columns).select(list(_COLUMNS)).cast(pa.schema(_COLUMNS))


def read_exclusions(files: Sequence[str]) -> dict[str, pa.Array]:
    """Names to leave out, by reason.

    Args:
        files: `snow=FILE`, `cloud=FILE` with one S1 or S2 name a line, or metadata of BigEarthNet v2 (parquet), whose
            flags say so.

    Raises:
        UserError: A file is missing or cannot be understood.
    """
    reasons: dict[str, pa.Array] = {}
    for text in files:
        reason, _, file = text.rpartition("=")
        path = Path(file)
        if path.suffix == ".parquet":
            table = _select(path, _read_table(path), ["s1_name", *_FLAGS.values()], "is it metadata of BigEarthNet v2?")
            reasons |= {
                reason: table.filter(table[flag])["s1_name"].combine_chunks() for reason, flag in _FLAGS.items()
            }
        elif not reason:
            raise UserError(f"--exclude {text}: say why, as in snow={text}")
        else:
            reasons[reason] = _read_table(path, header=False).column(0).cast(pa.string()).combine_chunks()
    return reasons


def exclude(rows: pa.Table, reasons: dict[str, pa.Array]) -> tuple[pa.Table, dict[str, int]]:
    """Rows that no list names, and how many each list took (the first that names a patch)."""
    counts = {}
    for reason, names in reasons.items():
        hit = pc.or_(pc.is_in(rows["s1_name"], names), pc.is_in(rows["patch_id"], names))
        counts[reason] = pc.sum(hit).as_py() or 0
        rows = rows.filter(pc.invert(hit))
    return rows, counts


def read_v2(folder: Path, row: Row) -> Record:
    """The record of a row of the plan from its GeoTIFFs in `folder`; labels lie in the metadata.

    Raises:
        RecordError: A file is missing or damaged, or holds something else than 120x120 floats in dB.
    """
    name = row["s1_name"]
    image = _read_bands(folder, Path(name.rsplit("_", 3)[0]) / name)
    return Record(image, row["patch_id"], name, row["country"] or "", tuple(row["labels"]))


def read_v1(folder: Path, zarr: bool, without_class: str, row: Row) -> Record:
    """The record of a row of the plan.

    Args:
        folder: The folder `FOLDER_V1`, or the group `ZARR_GROUP` of a Zarr store.
        zarr: Whether it is that group (format 2 or 3).
        without_class: What to do with a patch with none of the 19 classes: `exclude` or `keep`.
        row: The row.

    Raises:
        RecordError: A file is missing or damaged, or holds something else than 120x120 floats in dB.
        ExcludedError: The patch has none of the 19 classes.
    """
    name = row["s1_name"]
    file = f"{name}_labels_metadata.json"
    if zarr:
        file = ".zattrs" if (folder / name / ".zattrs").is_file() else "zarr.json"
    labels = to_classes(_read_labels(folder, Path(name) / file))
    if not labels and without_class == "exclude":
        raise ExcludedError(NO_CLASS)
    image = _read_arrays(folder, Path(name)) if zarr else _read_bands(folder, Path(name))
    return Record(image, row["patch_id"], name, row["country"], labels)


def _read_labels(folder: Path, path: Path) -> list[str]:
    """Original labels of a patch."""
    try:
        fields = json.loads((folder / path).read_text())
        found = (fields["attributes"] if path.name == "zarr.json" else fields)["labels"]
    except FileNotFoundError:
        raise RecordError(f"{path} is missing") from None
    except (ValueError, KeyError, TypeError) as error:
        raise RecordError(f"{path} holds no labels ({error})") from None
    if not isinstance(found, list):
        raise RecordError(f"{path} holds labels {found!r}, expected a list")
    return found


def _read_bands(folder: Path, patch: Path) -> np.ndarray:
    """Image of a patch from its GeoTIFFs, (band, rows, columns) float32 in dB."""
    return np.stack([read_band(folder, patch / f"{patch.name}_{band}.tif", SHAPE) for band in CONTRACT_V1.bands])


def _read_arrays(folder: Path, patch: Path) -> np.ndarray:
    """The same from a Zarr store, through tensorstore: about four times as fast as by zarr-python for small arrays."""
    image = []
    for path in (patch / band for band in CONTRACT_V1.bands):
        driver = "zarr" if (folder / path / ".zarray").is_file() else "zarr3"
        place = {"driver": "file", "path": str(folder / path)}
        # Else a chunk that is missing would be read as zeros.
        store = {"driver": driver, "kvstore": place, "fill_missing_data_reads": False}
        try:
            array = ts.open(store, open=True, read=True, context=_CONTEXT).result()
            check_form(array.shape, array.dtype.numpy_dtype, path, SHAPE)
            values = np.asarray(array.read().result())
        except RecordError:
            raise
        except ValueError as error:
            fault = f"is damaged ({str(error).splitlines()[0]})" if (folder / path).is_dir() else "is missing"
            raise RecordError(f"{path} {fault}") from None
        image.append(check_finite(values, path))
    return np.stack(image)


def to_classes(originals: list[str]) -> tuple[str, ...]:
    """Those of the 19 classes that 43 original names stand for, in class order.

    Raises:
        RecordError: A name is none of the 43.
    """
    unknown = [name for name in originals if name not in ORIGINAL_TO_CLASS]
    if unknown:
        raise RecordError(f"label {unknown[0]!r} is none of the {len(ORIGINAL_TO_CLASS)} original names")
    found = {ORIGINAL_TO_CLASS[name] for name in originals}
    return tuple(name for name in CLASSES if name in found)
