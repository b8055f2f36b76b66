"""Draws pairs of GeoTIFFs with all statements that files can make, and the expected result of each.

What a pair states, what is valid in it and its values in dB are decided here, from how it is drawn; nothing is asked of
the code under test.
"""

from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

SIDE = 32
POLARISATIONS = ("VH", "VV")
LEVELS_DB = {"VH": -19.0, "VV": -12.0}
QUANTITY_WORDS = {
    "gamma0": ("gamma0", "Gamma0", "GAMMA0_TERRAIN", "gamma_nought"),
    "sigma0": ("sigma0", "Sigma0", "SIGMA0_ELLIPSOID", "sigma-0"),
}
UNIT_WORDS = {"dB": ("dB", "db", "decibel", "DECIBEL"), "linear": ("linear", "power", "linear_power", "intensity")}
OTHER = {"dB": "linear", "linear": "dB", "gamma0": "sigma0", "sigma0": "gamma0", "VH": "VV", "VV": "VH"}
QUANTITY_TAGS = ("PRODUCT", "CALIBRATION", "Quantity", "PROCESSING_INFORMATION_OUTPUT_BACKSCATTER_CONVENTION")
UNIT_TAGS = ("UNITS", "unit", "BACKSCATTER_EXPRESSION", "outputBackscatterUnit", "TIFFTAG_IMAGEDESCRIPTION")
STEMS = (
    "S1A_IW_20230318_{words}_{pol}",
    "scene-{words}-{low}",
    "2023-03-18-00_00_Sentinel-1_IW_VV+VH_{pol}_-_{words}",
    "s1_{pol}_{words}_x",
    "{pol}_of_VV_VH_{words}",
    "{pol}/scene_{words}",
    "VH+VV/{low}.{words}.mosaic",
)
WHOLE = ("S1A_IW_20230318_{words}", "VV_VH-{words}-mosaic", "a/scene.{words}")
ENCODINGS = ("float32", "float64", "float32 scaled", "int16 scaled", "int16 scaled with offset", "int32 scaled")
FILLS = (-9999.0, -9999.9, float(np.finfo(np.float32).min), -1e20, 32767.0, float("inf"), float("nan"))
FAULTS = (
    "unit of the values",
    "unit stated twice",
    "quantity stated twice",
    "unit option",
    "quantity option",
    "amplitude",
    "swapped",
    "undeclared fill",
    "polarisation stated twice",
    "side-car link",
    "side-car damaged",
    "side-car nodata",
    "world file elsewhere",
    "odd mask",
    "unapplied scale",
    "no quantity",
    "no polarisation",
    "infinite",
)


@dataclass
class Pair:
    """A drawn pair: its files, the options to give, and the expected result."""

    fault: str | None
    quantity: str
    unit: str
    values_db: np.ndarray
    valid: np.ndarray
    folder: Path = Path()
    options: list[str] = field(default_factory=list)
    drawn: dict[str, str] = field(default_factory=dict)


class Drawing:
    """Draws one pair: what its files will state, hold, and mark as not valid."""

    def __init__(self, seed: int):
        self.rng = np.random.default_rng([71, seed])
        quantity, unit = self.choose(("gamma0", "sigma0")), self.choose(("dB", "linear"))
        fault = self.choose(FAULTS) if self.rng.random() < 0.33 else None
        shape = (2, SIDE, SIDE)
        self.pair = Pair(fault, quantity, unit, np.zeros(shape), np.ones(shape[1:], bool))
        self.layout = self.choose(("files", "files", "VH,VV", "VV,VH"))
        if fault in ("polarisation stated twice", "side-car link", "swapped"):
            self.layout = "files"
        if fault == "no polarisation":
            self.layout = "VH,VV"
        self.encoding = self.choose(ENCODINGS)
        if fault in ("unapplied scale", "infinite"):
            self.encoding = "float32"
        self.pair.drawn |= {"layout": self.layout, "encoding": self.encoding}
        self.tags: dict[str, str] = {}
        self.words: list[str] = []
        self.parent = ""
        self.band_units = self.band_words = ""

    def choose(self, among):
        return among[int(self.rng.integers(len(among)))]

    def draw(self) -> None:
        self.state()
        self.make_values()
        self.make_holes()

    def drop_options(self, name: str) -> None:
        self.pair.options = [option for option in self.pair.options if not option.startswith(f"--{name}=")]

    def state(self) -> None:
        fault, quantity, unit = self.pair.fault, self.pair.quantity, self.pair.unit
        stated_unit = OTHER[unit] if fault == "unit of the values" else unit
        way = self.state_quantity(quantity)
        if way != "hyp3":
            self.state_unit(stated_unit)
        elif fault == "unit of the values":
            self.pair.options.append(f"--unit={stated_unit}")
        if fault == "unit stated twice":
            self.drop_options("unit")
            self.band_units = self.choose(UNIT_WORDS[OTHER[unit]])
            self.tags["UNITS"] = self.choose(UNIT_WORDS[unit])
        if fault == "quantity stated twice":
            self.drop_options("quantity")
            self.tags["CALIBRATION"], self.tags["PRODUCT"] = (QUANTITY_WORDS[q][0] for q in (quantity, OTHER[quantity]))
        if fault == "unit option":
            self.tags["UNITS"] = self.choose(UNIT_WORDS[unit])
            self.drop_options("unit")
            self.pair.options.append(f"--unit={OTHER[unit]}")
        if fault == "quantity option":
            self.tags["PRODUCT"] = self.choose(QUANTITY_WORDS[quantity])
            self.drop_options("quantity")
            self.pair.options.append(f"--quantity={OTHER[quantity]}")
        if fault == "amplitude":
            if self.rng.random() < 0.5:
                self.words.append("amplitude")
            else:
                self.tags[self.choose(("UNITS", "NOTE", "TIFFTAG_IMAGEDESCRIPTION"))] = "calibrated amplitude"
        for key, text in {
            "DECIBEL_CONVERSION_EQUATION": "dB = 10*log10(linear)",
            "PROCESSING_INFORMATION_INPUT_BACKSCATTER_CONVENTION": "beta0",
            "SOURCE_UNITS": OTHER[unit],
            "HISTORY": f"{OTHER[quantity]} to {quantity}, {OTHER[unit]} to {unit}",
            "NOISE_UNITS": OTHER[unit],
            "SOFTWARE": "dB tools",
        }.items():
            if self.rng.random() < 0.3:
                self.tags[key] = text

    def state_quantity(self, quantity: str) -> str:
        ways = ["name", "name", "tag", "description", "folder", "option"] + ["rtc"] * (quantity == "gamma0")
        ways += ["hyp3"] * (self.layout == "files" and self.pair.fault is None)
        way = self.choose(ways) if self.pair.fault != "no quantity" else "nothing"
        word = self.choose(QUANTITY_WORDS[quantity])
        if way == "name":
            self.words.append(word)
        elif way == "tag":
            self.tags[self.choose(QUANTITY_TAGS)] = word
        elif way == "description":
            self.band_words = word
        elif way == "folder":
            self.parent = f"{word}/"
        elif way == "option":
            self.pair.options.append(f"--quantity={quantity}")
        elif way == "rtc":
            self.words.append("rtc")
        if way in ("name", "tag", "description") and self.rng.random() < 0.2:
            self.parent = f"{OTHER[quantity]}/"
        self.pair.drawn["quantity by"] = way
        return way

    def state_unit(self, unit: str) -> None:
        ways = ["name", "unit", "tag", "description", "folder", "option"]
        # That linear power is called dB, or dB linear, is wrong only if it is stated.
        way = self.choose(ways + ["nothing", "nothing"] * (self.pair.fault != "unit of the values"))
        word = self.choose(UNIT_WORDS[unit])
        if way == "name":
            self.words.append(word)
        elif way == "unit":
            self.band_units = word
        elif way == "tag":
            self.tags[self.choose(UNIT_TAGS)] = f"backscatter in {word}"
        elif way == "description":
            self.band_words += "_" + word
        elif way == "folder":
            self.parent += f"{word}/"
        elif way == "option":
            self.pair.options.append(f"--unit={unit}")
        if way in ("name", "tag", "unit", "description") and self.rng.random() < 0.2:
            self.parent += f"{OTHER[unit]}/"
        self.pair.drawn["unit by"] = way

    def make_values(self) -> None:
        """Stored values, and what they are in dB by the decimal rule of their encoding."""
        looks = self.rng.gamma(4.4, 1 / 4.4, (2, SIDE, SIDE))
        levels = np.array([LEVELS_DB[band] for band in POLARISATIONS])[:, None, None]
        real = 10 * np.log10(looks) + levels
        if self.pair.fault == "swapped":
            real = real[::-1]
        real[0, 0, :4], real[1, 1, :4] = (-61.3, -75.2, -58.9, -103.7), 25.0
        if self.pair.unit == "linear":
            real = 10 ** (real / 10)
            real[0, 2, :3] = -1e-4, -0.049, 3e-7
        kind, _, rest = self.encoding.partition(" ")
        linear = self.pair.unit == "linear"
        self.scale, self.offset = 1.0, 0.0
        if rest:
            self.scale = {"float32": 0.01, "int16": 0.01, "int32": 1e-6 if linear else 1e-4}[kind]
            if kind == "int16" and linear:
                self.scale, real = 1e-2, np.clip(real, -0.049, 300)
            self.offset = (-40.0 if not linear else -0.03) if "offset" in rest else 0.0
        stored = (real - self.offset) / self.scale
        if kind.startswith("int"):
            stored = np.rint(stored)
            # Zero as stored is another thing, drawn below.
            stored[stored == 0] = 1
        self.stored = stored.astype(kind)
        self.set_values_db()

    def set_values_db(self) -> None:
        real = self.stored.astype(np.float64) * self.scale + self.offset
        with np.errstate(all="ignore"):
            self.pair.values_db = 10 * np.log10(np.maximum(real, 1e-6)) if self.pair.unit == "linear" else real

    def hole(self, band: int | None = None) -> tuple[slice | int, slice, slice]:
        row, column = self.rng.integers(4, SIDE - 6, 2)
        where = slice(None) if band is None else band
        return where, slice(row, row + int(self.rng.integers(1, 5))), slice(column, column + 5)

    def make_holes(self) -> None:
        """Fill, NaN and zeros in the values; what no mask covers and no statement names stays valid."""
        self.nodata = self.aux_nodata = None
        integer = self.stored.dtype.kind == "i"
        fills = [fill for fill in FILLS if not integer or fill in (-9999.0, 32767.0)]
        ways = set()
        for way in ("tag", "option", "fill value tag", "aux.xml"):
            if (
                self.pair.fault != "infinite"
                and fills
                and self.rng.random() < 0.3
                and not (way == "aux.xml" and "tag" in ways)
            ):
                usable = [fill for fill in fills if way != "option" or fill == fill]  # NaN is nodata in any case
                fill = self.choose(usable)
                fills.remove(fill)
                ways.add(way)
                self.declare(way, fill)
                self.fill(self.hole(self.choose((None, 0, 1))), fill)
        if not integer and self.rng.random() < 0.4:
            self.fill(self.hole(self.choose((None, 0, 1))), np.nan)
        if self.rng.random() < 0.4:
            self.fill(self.hole(), 0)
        if self.pair.fault == "undeclared fill":
            lowest = np.iinfo(self.stored.dtype).min if integer else -2.5e30
            self.stored[:, 10:12] = self.choose((-9999, lowest)) if -9999.0 in fills else lowest
        if self.pair.fault == "infinite":
            self.stored[:, 10] = np.inf
        self.pair.drawn["nodata by"] = ", ".join(sorted(ways))

    def fill(self, where, value: float) -> None:
        self.stored[where] = np.asarray(value, self.stored.dtype)
        self.pair.valid[where[1:]] = False

    def declare(self, way: str, fill: float) -> None:
        if way == "tag":
            self.nodata = fill
        elif way == "option":
            self.pair.options.append(f"--nodata={fill!r}")
        elif way == "fill value tag":
            self.tags[self.choose(("_FillValue", "Band1#missing_value"))] = repr(fill)
        else:
            self.aux_nodata = fill
