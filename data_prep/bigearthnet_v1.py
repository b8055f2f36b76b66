"""Write the Sentinel-1 part of BigEarthNet v1 as records, with the 19 classes.

    python data_prep/bigearthnet_v1.py --root DIR --out DIR --names s1_s2_name_country_season.csv \
        --splits train=train.csv validation=val.csv test=test.csv [--workers 8]

`--root` is the folder that holds `BigEarthNet-S1-v1.0/`; instead, `--zarr` is the Zarr store of the published system
(`sentinel1/<s1_name>/{VH,VV}`, labels as attribute). Split lists are the official ones (an S2 name a line, mapped by
`--names`) or CSVs with the S1 name in a column. Lists may be compressed. Patches with none of the 19 classes are left
out and counted, those with snow or cloud if lists of them are given: `--exclude snow=FILE cloud=FILE`, or the metadata
of BigEarthNet v2 (parquet), whose flags say so. A stopped run goes on where it was.
"""

import argparse
import functools
import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import tensorstore as ts

from sarwmix_jax.command_line import Parser
from sarwmix_jax.data.records import Contract, ExcludedError, Record, RecordError
from sarwmix_jax.errors import UserError
from sarwmix_jax.facts.bands import BANDS
from sarwmix_jax.facts.labels import CLASSES, ORIGINAL_TO_CLASS
from sarwmix_jax.geotiff.patches import check_band, read_band
from sarwmix_jax.preparation.command import add_work_arguments, run_command, run_plan
from sarwmix_jax.preparation.name_lists import exclude, read_exclusions, read_rows
from sarwmix_jax.preparation.plan import Plan, Row

CONTRACT = Contract(
    name="bigearthnet_v1",
    version="1.0.0",
    source="BigEarthNet-S1 v1.0, Sentinel-1 IW GRD, SNAP terrain corrected, 10 m",
    quantity="sigma0",
    height=120,
    width=120,
    classes=CLASSES,
)
FOLDER = "BigEarthNet-S1-v1.0"
NO_CLASS = "none of the 19 classes"


@dataclass(frozen=True)
class FolderReader:
    """Reads labels and bands of a patch from its folder in `folder`."""

    folder: Path

    def labels(self, name: str) -> list[str]:
        """Original labels of a patch."""
        return _labels(self.folder / name / f"{name}_labels_metadata.json", lambda fields: fields["labels"])

    def band(self, name: str, band: str) -> np.ndarray:
        """One band of a patch, (rows, columns) float32 in dB."""
        return read_band(self.folder, Path(name) / f"{name}_{band}.tif", CONTRACT.shape[1:])


@dataclass(frozen=True)
class ZarrReader:
    """Reads labels and bands of a patch from the group `sentinel1` in `folder` (Zarr format 2 or 3).

    Through tensorstore, which reads these small arrays about four times as fast as zarr-python.
    """

    folder: Path

    def labels(self, name: str) -> list[str]:
        """Original labels of a patch."""
        old = self.folder / name / ".zattrs"
        if old.is_file():
            return _labels(old, lambda fields: fields["labels"])
        return _labels(self.folder / name / "zarr.json", lambda fields: fields["attributes"]["labels"])

    def band(self, name: str, band: str) -> np.ndarray:
        """One band of a patch, (rows, columns) float32 in dB."""
        path = self.folder / name / band
        driver = "zarr" if (path / ".zarray").is_file() else "zarr3"
        store = {"driver": driver, "kvstore": {"driver": "file", "path": str(path)}}
        try:
            values = np.asarray(ts.open(store, open=True, read=True, context=_context()).result().read().result())
        except ValueError as error:
            if not path.is_dir():
                raise RecordError(f"{Path(name) / band} is missing") from None
            raise RecordError(f"{Path(name) / band} is damaged ({str(error).splitlines()[0]})") from None
        return check_band(values, Path(name) / band, CONTRACT.shape[1:])


@functools.cache
def _context() -> ts.Context:
    return ts.Context({"data_copy_concurrency": {"limit": 1}, "file_io_concurrency": {"limit": 1}})


def _labels(path: Path, find: Callable[[dict[str, Any]], Any]) -> list[str]:
    place = Path(path.parent.name) / path.name
    try:
        found = find(json.loads(path.read_text()))
    except FileNotFoundError:
        raise RecordError(f"{place} is missing") from None
    except (ValueError, KeyError, TypeError) as error:
        raise RecordError(f"{place} holds no labels ({error})") from None
    if not isinstance(found, list):
        raise RecordError(f"{place} holds labels {found!r}, expected a list")
    return found


@dataclass(frozen=True)
class PatchReader:
    """Makes the record of a patch.

    Attributes:
        source: Where labels and bands come from.
        without_class: What to do with a patch with none of the 19 classes: `exclude` or `keep`.
    """

    source: FolderReader | ZarrReader
    without_class: str

    def __call__(self, row: Row) -> Record:
        """The record of a row of the plan.

        Raises:
            RecordError: A file is missing or damaged, or holds something else than 120x120 floats in dB.
            ExcludedError: The patch has none of the 19 classes.
        """
        name = row["s1_name"]
        labels = to_classes(self.source.labels(name))
        if not labels and self.without_class == "exclude":
            raise ExcludedError(NO_CLASS)
        image = np.stack([self.source.band(name, band) for band in BANDS])
        return Record(image, row["patch_id"], name, row["country"], labels)


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


def find_source(root: Path | None, store: Path | None) -> FolderReader | ZarrReader:
    """The source at a root folder or in a Zarr store.

    Raises:
        UserError: It is not there.
    """
    if root is not None:
        for folder in (root / FOLDER, root):
            if folder.name == FOLDER and folder.is_dir():
                return FolderReader(folder)
        raise UserError(f"no folder {FOLDER} in {root}; give the folder that holds it as --root")
    if store is None or not (store / "sentinel1").is_dir():
        raise UserError(f"no group sentinel1 in {store}; give the Zarr store that holds it as --zarr")
    return ZarrReader(store / "sentinel1")


def make_plan(arguments: argparse.Namespace) -> Plan:
    """The plan of the command line."""
    rows: pa.Table = read_rows(arguments.splits, arguments.names, arguments.s1_column)
    rows, counts = exclude(rows, read_exclusions(arguments.exclude))
    notes = {"patches without class": arguments.without_class, "excluded by lists": counts}
    return Plan(CONTRACT, rows, arguments.records_per_shard, notes)


def main() -> None:
    """Parse the command line and prepare the records."""
    parser = Parser(description="Write the Sentinel-1 part of BigEarthNet v1 as records.")
    source = parser.add_mutually_exclusive_group(required=True)
    source.add_argument("--root", type=Path, help=f"folder that holds {FOLDER}/")
    source.add_argument("--zarr", type=Path, help="Zarr store that holds the group sentinel1")
    parser.add_argument("--splits", nargs="+", required=True, help="train=FILE validation=FILE test=FILE")
    parser.add_argument("--names", type=Path, help="table of S1 and S2 names (s1_s2_name_country_season.csv)")
    parser.add_argument("--s1-column", type=int, help="column of the S1 name in the lists, from 0")
    parser.add_argument("--exclude", nargs="+", default=[], help="snow=FILE cloud=FILE, or metadata of v2 (parquet)")
    parser.add_argument(
        "--without-class", choices=("exclude", "keep"), default="exclude", help="patches with none of the 19 classes"
    )
    add_work_arguments(parser)
    arguments = parser.parse_args()
    reader = PatchReader(find_source(arguments.root, arguments.zarr), arguments.without_class)
    run_plan(arguments, make_plan(arguments), reader)


if __name__ == "__main__":
    run_command(main)
