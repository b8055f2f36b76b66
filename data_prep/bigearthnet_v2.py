"""Write the Sentinel-1 part of BigEarthNet v2 as records.

    python data_prep/bigearthnet_v2.py --root DIR --metadata metadata.parquet --out DIR [--workers 8]

`--root` is the folder that holds `BigEarthNet-S1/`. More metadata files (the one of patches with snow, cloud or
shadow; or `train=train.csv` files in the form of the published system) may follow the first. A stopped run goes on
where it was. On several machines: `--shard 1/3`, `--shard 2/3`, `--shard 3/3` with the same `--out`, then `--merge`.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv
import pyarrow.parquet

from sarwmix_jax.command_line import Parser
from sarwmix_jax.data.records import Contract, Record
from sarwmix_jax.errors import UserError
from sarwmix_jax.facts.bands import BANDS
from sarwmix_jax.facts.labels import CLASSES
from sarwmix_jax.geotiff.patches import read_band
from sarwmix_jax.preparation.command import add_work_arguments, run_command, run_plan
from sarwmix_jax.preparation.plan import Plan, Row

CONTRACT = Contract(
    name="bigearthnet_v2",
    version="2.0.0",
    source="BigEarthNet v2.0 (reBEN), Sentinel-1 IW GRD, SNAP terrain corrected, 10 m",
    quantity="sigma0",
    height=120,
    width=120,
    classes=CLASSES,
)
COLUMNS = ("patch_id", "s1_name", "split", "country", "labels")
_CSV_LABELS, _CSV_S1_NAME = 1, 4


@dataclass(frozen=True)
class PatchReader:
    """Reads the two GeoTIFFs of a patch.

    Attributes:
        folder: The folder `BigEarthNet-S1`.
    """

    folder: Path

    def __call__(self, row: Row) -> Record:
        """The record of a row of the plan.

        Raises:
            RecordError: A file is missing or damaged, or holds something else than 120x120 floats in dB.
        """
        name = row["s1_name"]
        patch = Path(name.rsplit("_", 3)[0]) / name
        image = np.stack([read_band(self.folder, patch / f"{name}_{band}.tif", CONTRACT.shape[1:]) for band in BANDS])
        return Record(image, row["patch_id"], name, row["country"] or "", tuple(row["labels"]))


def read_metadata(files: Sequence[str]) -> pa.Table:
    """The rows of metadata files: official parquet, or CSV of the published system.

    Args:
        files: Paths; a CSV without a column `split` is written as `train=path`.

    Returns:
        Table with `COLUMNS`.

    Raises:
        UserError: A file or a column is missing, or a label is none of the 19 classes.
    """
    tables = [_read_parquet(Path(f)) if f.endswith(".parquet") else _read_csv(f) for f in files]
    rows = pa.concat_tables(tables)
    unknown = set(pc.unique(pc.list_flatten(rows["labels"])).to_pylist()) - set(CLASSES)
    if unknown:
        raise UserError(f"label {min(unknown, key=str)!r} in the metadata is none of the 19 classes of BigEarthNet v2")
    return rows


def _read_parquet(path: Path) -> pa.Table:
    _check_file(path)
    try:
        table = pyarrow.parquet.read_table(path)
    except (pa.ArrowException, OSError) as error:
        raise UserError(f"{path} cannot be read as parquet ({str(error).splitlines()[0]}); fetch it again") from None
    missing = [name for name in COLUMNS if name not in table.column_names]
    if missing:
        raise UserError(f"{path} has no column {missing[0]!r}; is it metadata.parquet of BigEarthNet v2?")
    return _with_types(table.select(COLUMNS))


def _with_types(table: pa.Table) -> pa.Table:
    types = {name: pa.list_(pa.string()) if name == "labels" else pa.string() for name in COLUMNS}
    return table.cast(pa.schema(types))


def _read_csv(file: str) -> pa.Table:
    given, _, name = file.rpartition("=")
    path = Path(name)
    _check_file(path)
    try:
        table = pyarrow.csv.read_csv(path)
    except pa.ArrowException as error:
        raise UserError(f"{path} cannot be read as CSV ({str(error).splitlines()[0]})") from None
    if table.num_columns <= _CSV_S1_NAME:
        raise UserError(f"{path} has {table.num_columns} columns; labels are expected in the 2nd, s1_name in the 5th")
    if not given and "split" not in table.column_names:
        raise UserError(f"{path} has no column 'split'; write train={path}, validation={path} or test={path}")
    texts = table.column(_CSV_LABELS).dictionary_encode().combine_chunks()
    lists = pa.array([re.findall(r"['\"]([^'\"]+)['\"]", text) for text in texts.dictionary.to_pylist()])
    length = table.num_rows
    country = table["country"] if "country" in table.column_names else pa.array([""] * length)
    columns = {
        "patch_id": table.column(0),
        "s1_name": table.column(_CSV_S1_NAME),
        "split": pa.array([given] * length) if given else table["split"],
        "country": country,
        "labels": lists.take(texts.indices),
    }
    return _with_types(pa.table(columns))


def _check_file(path: Path) -> None:
    if not path.is_file():
        raise UserError(f"no metadata file {path}")


def find_folder(root: Path) -> Path:
    """The folder `BigEarthNet-S1` in or at `root`.

    Raises:
        UserError: It is neither.
    """
    for folder in (root / "BigEarthNet-S1", root):
        if folder.name == "BigEarthNet-S1" and folder.is_dir():
            return folder
    raise UserError(f"no folder BigEarthNet-S1 in {root}; give the folder that holds it as --root")


def main() -> None:
    """Parse the command line and prepare the records."""
    parser = Parser(description="Write the Sentinel-1 part of BigEarthNet v2 as records.")
    parser.add_argument("--root", type=Path, required=True, help="folder that holds BigEarthNet-S1/")
    parser.add_argument("--metadata", nargs="+", required=True, help="metadata.parquet, or train=train.csv ...")
    add_work_arguments(parser)
    arguments = parser.parse_args()
    folder = find_folder(arguments.root)
    plan = Plan(CONTRACT, read_metadata(arguments.metadata), arguments.records_per_shard)
    run_plan(arguments, plan, PatchReader(folder))


if __name__ == "__main__":
    run_command(main)
