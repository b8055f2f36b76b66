"""Records of BigEarthNet, Sentinel-1, in both versions."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import tensorstore as ts

from sarwmix_jax.data.records import Contract, ExcludedError, Record, RecordError
from sarwmix_jax.data.tables import parse_json
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
_LARGEST_JSON = 2**20
_CONTEXT = ts.Context({"data_copy_concurrency": {"limit": 1}, "file_io_concurrency": {"limit": 1}})


def find_folder(root: Path, name: str) -> Path:
    """The folder `name`: in `root`, or `root` itself.

    Raises:
        UserError: There is no such folder.
    """
    for folder in (root / name, root):
        if folder.name == name and folder.is_dir():
            return folder
    raise UserError(f"no folder {name} in {root}; give the folder that holds it as --root")


def read_v2(folder: Path, row: Row) -> Record:
    """The record of a row of the plan from its GeoTIFFs in `folder`; labels are in the metadata.

    Raises:
        RecordError: A file is missing or damaged, or does not hold 120x120 floats in dB.
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
        RecordError: A file is missing or damaged, or does not hold 120x120 floats in dB.
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
        if (folder / path).exists() and not (folder / path).is_file():
            raise RecordError(f"{path} is not a regular file")
        with (folder / path).open("rb") as file:
            content = file.read(_LARGEST_JSON + 1)
        if len(content) > _LARGEST_JSON:
            raise RecordError(f"{path} is larger than any list of labels")
        fields = parse_json(content)
        found = (fields["attributes"] if path.name == "zarr.json" else fields)["labels"]
    except FileNotFoundError:
        raise RecordError(f"{path} is missing") from None
    except RecordError:
        raise
    except (ValueError, KeyError, TypeError) as error:
        raise RecordError(f"{path} holds no labels ({error})") from None
    if not isinstance(found, list) or not all(isinstance(label, str) for label in found):
        raise RecordError(f"{path} holds labels {found!r:.100}, expected a list of names")
    return found


def _read_bands(folder: Path, patch: Path) -> np.ndarray:
    """Image of a patch from its GeoTIFFs, (band, rows, columns) float32 in dB."""
    return np.stack([read_band(folder, patch / f"{patch.name}_{band}.tif", SHAPE) for band in CONTRACT_V1.bands])


def _read_arrays(folder: Path, patch: Path) -> np.ndarray:
    """The same from a Zarr store, with tensorstore: for small arrays about four times as fast as zarr-python."""
    image = []
    for path in (patch / band for band in CONTRACT_V1.bands):
        driver = "zarr" if (folder / path / ".zarray").is_file() else "zarr3"
        place = {"driver": "file", "path": str(folder / path)}
        # Otherwise a missing chunk would be read as zeros.
        store = {"driver": driver, "kvstore": place, "fill_missing_data_reads": False}
        try:
            array = ts.open(store, open=True, read=True, context=_CONTEXT).result()
            check_form(array.shape, array.dtype.name, path, SHAPE)
            values = np.asarray(array.read().result())
        except RecordError:
            raise
        except ValueError as error:
            fault = f"is damaged ({str(error).splitlines()[0]})" if (folder / path).is_dir() else "is missing"
            raise RecordError(f"{path} {fault}") from None
        image.append(check_finite(values, path))
    return np.stack(image)


def to_classes(originals: list[str]) -> tuple[str, ...]:
    """The classes (of 19) to which original names (of 43) belong, in class order.

    Raises:
        RecordError: A name is not one of the 43.
    """
    unknown = [name for name in originals if name not in ORIGINAL_TO_CLASS]
    if unknown:
        raise RecordError(f"label {unknown[0]!r} is not one of the {len(ORIGINAL_TO_CLASS)} original names")
    found = {ORIGINAL_TO_CLASS[name] for name in originals}
    return tuple(name for name in CLASSES if name in found)
