"""Records: the contract of a record set, and encoding and decoding of single records.

The contract is the file `contract.json` beside the records and is read without reading any of them. A record is a
`tf.train.Example`, so that plain TFDS reads it as well:

- `image`: (band, row, column) float16 in the contract's unit, bands in the contract's order
- `labels`: class numbers (only when the contract names classes)
- `valid_pixels`: validity mask, one bit per pixel, packed row by row (only when the contract promises it)
- `patch_id`, `s1_name`, `split`, `country`: text
- `crs` and `transform` (only when georeferenced): EPSG code or WKT, and six float64 numbers a, b, c, d, e, f with
  x = a*column + b*row + c and y = d*column + e*row + f at the upper left corner of a pixel
"""

import dataclasses
import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Bool, Float

from sarwmix_jax.errors import UserError
from sarwmix_jax.facts.bands import BANDS, BandStatistics

CONTRACT_FILE = "contract.json"
SCHEMA = 1
UNITS = ("dB", "linear")
QUANTITIES = ("sigma0", "gamma0", "beta0")
STORED_DTYPE = np.float16
TEXTS = ("patch_id", "s1_name", "split", "country")
TRANSFORM_DTYPE, TRANSFORM_NUMBERS = np.float64, 6
_FAR_DEVIATIONS = 3.0


@dataclass(frozen=True)
class Contract:
    """What a record set promises about its records.

    Attributes:
        name: Name of the data set in snake case; file names begin with it.
        version: Version of the data as `major.minor.patch`.
        source: Where the values come from, in words.
        quantity: `sigma0`, `gamma0` or `beta0`.
        height: Rows of an image in pixels.
        width: Columns of an image in pixels.
        bands: Polarisations in stored order.
        unit: `dB`, or `linear` for power.
        classes: Class names in label order; empty when the records carry no labels.
        has_valid_pixels: Whether every record carries a validity mask.
        georeferenced: Whether every record carries its coordinate reference system and transform.
        statistics: Mean and standard deviation per band over the valid pixels of `statistics_split`, if known.
        statistics_split: The split on which they were computed.
        records: Records per split.
    """

    name: str
    version: str
    source: str
    quantity: str
    height: int
    width: int
    bands: tuple[str, ...] = BANDS
    unit: str = "dB"
    classes: tuple[str, ...] = ()
    has_valid_pixels: bool = False
    georeferenced: bool = False
    statistics: BandStatistics | None = None
    statistics_split: str = ""
    records: dict[str, int] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not re.fullmatch(r"[a-z][a-z0-9_]*", self.name):
            raise UserError(f"record set name {self.name!r}: use lower-case letters, digits and _ only")
        if not re.fullmatch(r"\d+\.\d+\.\d+", self.version):
            raise UserError(f"record set version {self.version!r}: write it as three numbers, such as 1.0.0")
        for what, value, known in (("unit", self.unit, UNITS), ("quantity", self.quantity, QUANTITIES)):
            if value not in known:
                raise UserError(f"{what} {value!r} of record set {self.name}: use one of {', '.join(known)}")

    @property
    def shape(self) -> tuple[int, int, int]:
        """Shape of an image: (bands, rows, columns)."""
        return (len(self.bands), self.height, self.width)

    def to_json(self) -> str:
        """The contract as JSON text; equal contracts give equal texts."""
        return json.dumps({"schema": SCHEMA} | dataclasses.asdict(self), indent=2) + "\n"


def read_contract(folder: Path) -> Contract:
    """Read the contract of the record set in `folder`.

    Raises:
        UserError: The folder or its contract is missing or cannot be read.
    """
    path = folder / CONTRACT_FILE
    if not folder.is_dir():
        raise UserError(f"no record set at {folder}: the folder does not exist; prepare it with sarwmix prepare")
    try:
        fields: dict[str, Any] = json.loads(path.read_text(encoding="utf-8-sig"))
    except FileNotFoundError:
        hint = "not a record set, or its preparation has not finished"
        raise UserError(f"{folder} holds no {CONTRACT_FILE}: {hint}") from None
    except (json.JSONDecodeError, UnicodeDecodeError, RecursionError, OSError) as error:
        raise UserError(f"{path} cannot be read ({error}); prepare the records again") from None
    schema = fields.pop("schema", None) if isinstance(fields, dict) else None
    if schema != SCHEMA:
        raise UserError(f"{path} has schema {schema}, this version reads {SCHEMA}; prepare the records again")
    try:
        if fields["statistics"] is not None:
            fields["statistics"] = BandStatistics(**{k: tuple(v) for k, v in fields["statistics"].items()})
        return Contract(**fields | {"bands": tuple(fields["bands"]), "classes": tuple(fields["classes"])})
    except (TypeError, KeyError, AttributeError) as error:
        raise UserError(f"{path} is not a contract ({error}); prepare the records again") from None


class RecordError(ValueError):
    """One record cannot be made or read; the message states in one line what is wrong."""


class ExcludedError(Exception):
    """One record is left out on purpose; the message is the rule that excludes it, without the record's name."""


@dataclass(frozen=True)
class Record:
    """One image before it is written.

    Attributes:
        image: Backscatter in the contract's unit, any float type; finite everywhere, also where not valid.
        patch_id: Name, unique in the record set.
        s1_name: Name of the Sentinel-1 product, or empty.
        country: Country, or empty.
        labels: Class names.
        valid_pixels: Where the image was observed; needed when the contract promises it.
        crs: Coordinate reference system as EPSG code or WKT; needed when the contract promises a georeference.
        transform: The six numbers of the transform from pixels to coordinates.
        facts: Numbers for the report of the preparation; not stored in the record.
    """

    image: Float[np.ndarray, "band height width"]
    patch_id: str
    s1_name: str = ""
    country: str = ""
    labels: tuple[str, ...] = ()
    valid_pixels: Bool[np.ndarray, "height width"] | None = None
    crs: str = ""
    transform: tuple[float, ...] | None = None
    facts: Mapping[str, int] = field(default_factory=dict)


@dataclass(frozen=True)
class Expectation:
    """What a run expects of its records; attributes that are None are not checked.

    Attributes:
        bands: Polarisations in order.
        unit: `dB` or `linear`.
        quantity: `sigma0`, `gamma0` or `beta0`.
        side: Rows and columns of an image.
        classes: Class names in label order.
        statistics: Mean and standard deviation with which the run standardises.
    """

    bands: tuple[str, ...] = BANDS
    unit: str = "dB"
    quantity: str | None = None
    side: int | None = None
    classes: tuple[str, ...] | None = None
    statistics: BandStatistics | None = None


def promise_faults(found: Contract, wanted: Expectation) -> Iterator[str]:
    """The points in which a contract differs from what a run expects, each with its remedy."""
    if found.bands != wanted.bands:
        hint = "prepare the records again with the bands in that order"
        yield f"bands are {', '.join(found.bands)}, expected {', '.join(wanted.bands)}; {hint}"
    if found.unit != wanted.unit:
        yield f"values are {found.unit}, expected {wanted.unit}; convert them while preparing"
    if wanted.quantity not in (None, found.quantity):
        hint = f"use records of that quantity, or give --config.data.quantity={found.quantity}"
        yield f"values are {found.quantity}, expected {wanted.quantity}; {hint}"
    if wanted.side is not None and found.shape[1:] != (wanted.side, wanted.side):
        size = f"{wanted.side}x{wanted.side}"
        yield f"images are {found.height}x{found.width} pixels, expected {size}; prepare them at that size"
    if wanted.classes is not None and found.classes != wanted.classes:
        yield (
            f"labels are {len(found.classes)} classes, expected {len(wanted.classes)} with other names or in another "
            "order; prepare them with the classes of the run"
        )
    if wanted.statistics is not None and found.statistics is not None:
        means, expected = found.statistics.mean_db, wanted.statistics
        for band, mean, near, std in zip(found.bands, means, expected.mean_db, expected.std_db, strict=True):
            if abs(mean - near) > _FAR_DEVIATIONS * std:
                far = f"more than {_FAR_DEVIATIONS:g} standard deviations from the statistics' mean, {near:.1f} dB"
                yield f"{band} has mean {mean:.1f} dB, {far}; give --config.data.statistics=records, the set's own"


def shard_name(name: str, split: str, number: int, count: int) -> str:
    """File name of a shard of the record set `name`, as TFDS expects it."""
    return f"{name}-{split}.array_record-{number:05d}-of-{count:05d}"


def encode_record(record: Record, split: str, contract: Contract) -> bytes:
    """The bytes of a record.

    Raises:
        RecordError: Shape, values, labels or mask differ from what the contract promises.
    """
    features: dict[str, Any] = {"image": _stored_image(record.image, contract).tobytes()}
    texts = (record.patch_id, record.s1_name, split, record.country)
    features |= {name: text.encode() for name, text in zip(TEXTS, texts, strict=True)}
    if contract.has_valid_pixels:
        features["valid_pixels"] = _stored_mask(record, contract).tobytes()
    if contract.georeferenced:
        features |= {"crs": record.crs.encode(), "transform": _stored_transform(record).tobytes()}
    from tensorflow_datasets.proto import tf_example_pb2  # here, as models and steps do not need it

    example = tf_example_pb2.Example()
    for name, value in features.items():
        example.features.feature[name].bytes_list.value.append(value)
    if contract.classes:
        example.features.feature["labels"].int64_list.value.extend(class_numbers(record.labels, contract))
    return example.SerializeToString(deterministic=True)


def class_numbers(labels: tuple[str, ...], contract: Contract) -> list[int]:
    """Class numbers of the names `labels`, ascending.

    Raises:
        RecordError: A name is not among the contract's classes.
    """
    if unknown := [name for name in labels if name not in contract.classes]:
        raise RecordError(f"label {unknown[0]!r} is not one of the {len(contract.classes)} classes")
    return sorted({contract.classes.index(name) for name in labels})


def _stored_image(image: np.ndarray, contract: Contract) -> np.ndarray:
    if image.shape != contract.shape:
        raise RecordError(f"image has shape {image.shape}, expected {contract.shape}")
    if not np.issubdtype(image.dtype, np.floating):
        raise RecordError(f"image has type {image.dtype}, expected floating point")
    with np.errstate(over="ignore"):
        stored = image.astype(STORED_DTYPE)
    finite = np.isfinite(stored)
    if not finite.all():
        band = contract.bands[int(np.argmin(finite.all(axis=(1, 2))))]
        raise RecordError(f"{finite.size - finite.sum()} values are not finite in float16, first in {band}")
    return stored


def _stored_mask(record: Record, contract: Contract) -> np.ndarray:
    mask = record.valid_pixels
    if mask is None or mask.shape != contract.shape[1:] or mask.dtype != np.bool_:
        found = "nothing" if mask is None else f"{mask.dtype} {mask.shape}"
        raise RecordError(f"valid_pixels is {found}, expected bool {contract.shape[1:]}")
    return np.packbits(mask)


def _stored_transform(record: Record) -> np.ndarray:
    values = np.asarray(record.transform or (), TRANSFORM_DTYPE)
    if values.shape != (TRANSFORM_NUMBERS,) or not np.isfinite(values).all():
        raise RecordError(f"transform is {record.transform}, expected {TRANSFORM_NUMBERS} finite numbers")
    return values


def decode_record(data: bytes, contract: Contract) -> dict[str, Any]:
    """The record in `data` as a dict of arrays.

    Args:
        data: Bytes from `encode_record`.
        contract: The contract of the record set.

    Returns:
        `image` (band, height, width) float16, read-only; `valid_pixels` (height, width) bool if the contract promises
        it; `labels` (classes,) uint8 with ones at the record's classes if the contract names classes; `crs` str and
        `transform` (6,) float64 if georeferenced; the texts as `str`.
    """
    from tensorflow_datasets.proto import tf_example_pb2

    features = tf_example_pb2.Example.FromString(data).features.feature
    image = np.frombuffer(features["image"].bytes_list.value[0], STORED_DTYPE)
    record: dict[str, Any] = {"image": image.reshape(contract.shape)}
    if contract.has_valid_pixels:
        packed = np.frombuffer(features["valid_pixels"].bytes_list.value[0], np.uint8)
        bits = np.unpackbits(packed, count=contract.height * contract.width)
        record["valid_pixels"] = bits.reshape(contract.shape[1:]).view(np.bool_)
    if contract.classes:
        record["labels"] = np.zeros(len(contract.classes), np.uint8)
        record["labels"][list(features["labels"].int64_list.value)] = 1
    if contract.georeferenced:
        record["crs"] = features["crs"].bytes_list.value[0].decode()
        record["transform"] = np.frombuffer(features["transform"].bytes_list.value[0], TRANSFORM_DTYPE)
    return record | {name: features[name].bytes_list.value[0].decode() for name in TEXTS}
