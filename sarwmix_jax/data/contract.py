"""What a set of records promises: bands and order, unit, quantity, shape, statistics, origin, classes.

The contract lies as `contract.json` beside the records and is read without reading one of them.
"""

import dataclasses
import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sarwmix_jax.errors import UserError
from sarwmix_jax.facts.bands import BANDS, BandStatistics

FILE_NAME = "contract.json"
SCHEMA = 1
UNITS = ("dB", "linear")
QUANTITIES = ("sigma0", "gamma0", "beta0")


@dataclass(frozen=True)
class Contract:
    """The promise of one record set.

    Attributes:
        name: Data set name, snake case; begins the name of every file.
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
        statistics: Mean and deviation per band over the valid pixels of `statistics_split`, if known.
        statistics_split: The split they were computed on.
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
    records: dict[str, int] = dataclasses.field(default_factory=dict)

    def __post_init__(self) -> None:
        if not re.fullmatch(r"[a-z][a-z0-9_]*", self.name):
            raise UserError(f"record set name {self.name!r}: use lower-case letters, digits and _ only")
        if not re.fullmatch(r"\d+\.\d+\.\d+", self.version):
            raise UserError(f"record set version {self.version!r}: write it as three numbers, such as 1.0.0")
        if self.unit not in UNITS:
            raise UserError(f"unit {self.unit!r} of record set {self.name}: use one of {', '.join(UNITS)}")
        if self.quantity not in QUANTITIES:
            raise UserError(f"quantity {self.quantity!r} of record set {self.name}: use one of {', '.join(QUANTITIES)}")

    @property
    def shape(self) -> tuple[int, int, int]:
        """Shape of an image: (bands, rows, columns)."""
        return (len(self.bands), self.height, self.width)

    def to_json(self) -> str:
        """The contract as JSON text, the same for the same contract."""
        return json.dumps({"schema": SCHEMA} | dataclasses.asdict(self), indent=2) + "\n"


def read_contract(folder: Path) -> Contract:
    """Read the contract of the record set in `folder`.

    Raises:
        UserError: The folder or its contract is missing or cannot be understood.
    """
    path = folder / FILE_NAME
    if not folder.is_dir():
        raise UserError(f"no record set at {folder}: the folder does not exist; prepare it with data_prep/")
    try:
        fields: dict[str, Any] = json.loads(path.read_text())
    except FileNotFoundError:
        raise UserError(
            f"{folder} holds no {FILE_NAME}: not a record set, or its preparation has not finished"
        ) from None
    except (json.JSONDecodeError, UnicodeDecodeError, OSError) as error:
        raise UserError(f"{path} cannot be read ({error}); prepare the records again") from None
    schema = fields.pop("schema", None) if isinstance(fields, dict) else None
    if schema != SCHEMA:
        raise UserError(f"{path} has schema {schema}, this version reads {SCHEMA}; prepare the records again")
    return _contract(fields, path)


def _contract(fields: dict[str, Any], path: Path) -> Contract:
    try:
        if fields["statistics"] is not None:
            fields["statistics"] = BandStatistics(**{k: tuple(v) for k, v in fields["statistics"].items()})
        return Contract(**fields | {"bands": tuple(fields["bands"]), "classes": tuple(fields["classes"])})
    except (TypeError, KeyError, AttributeError) as error:
        raise UserError(f"{path} is not a contract ({error}); prepare the records again") from None
