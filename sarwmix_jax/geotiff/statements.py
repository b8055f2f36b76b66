"""What names, descriptions and tags state about a product: polarisation, quantity, unit. Functions of texts alone.

Quantity and unit are taken from words that state what the values are. Tags are selected by their key: `UNITS` or
`OUTPUT_BACKSCATTER_...` describe the product, `INPUT_...` and `..._EQUATION` do not.
"""

import functools
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

AMPLITUDE = "amplitude"
"""Stated in place of a unit where the values are amplitudes."""
Text = tuple[str, str]
"""Where a text was found (`its name`, `tag UNITS`), and the text."""


def _words(pattern: str) -> re.Pattern[str]:
    return re.compile(rf"(?<![A-Za-z])(?:{pattern})(?![A-Za-z])", re.IGNORECASE)


_QUANTITIES = {
    quantity: re.compile(rf"({name}|{letter})[ _-]?(0(?!\.?\d)|⁰|zero|nought|naught)", re.IGNORECASE)
    for quantity, name, letter in (("gamma0", "gamma", "γ"), ("sigma0", "sigma", "σ"), ("beta0", "beta", "β"))  # noqa: RUF001
}
_RTC = re.compile(r"(?<![A-Za-z0-9])rtc(?![A-Za-z0-9])", re.IGNORECASE)
_AMPLITUDE = _words("amplitudes?|amp|magnitudes?")
_DECIBEL = _words("db|decibels?")
_LINEAR = _words("linear")
_POWER = _words("power|intensity")
_HYP3 = re.compile(r"_RTC\d+_[A-Z]_([gs])([pad])[um][nf][ec][dm](?![A-Za-z0-9])")
"""Letters in names of HyP3: gamma0 or sigma0, power, amplitude or decibel; water mask, filter, clipping, geocoding."""
_HYP3_QUANTITIES = {"g": "gamma0", "s": "sigma0"}
_HYP3_UNITS = {"p": "linear", "a": AMPLITUDE, "d": "dB"}

_FORMULA = re.compile(r"log_?10|log\(|[*^]", re.IGNORECASE)
_FORMER = re.compile(r"(?<![A-Za-z])(from|not|non|without)[ _.-]+(in[ _.-]+)?[A-Za-z]+([ _-]?0(?!\d))?", re.IGNORECASE)
"""Phrases that name what the values were, or are not."""
_KEY_WORDS = re.compile(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+")
_STATING = frozenset(
    "unit units unittype quantity calibration backscatter radiometry radiometric normalization normalisation product "
    "scale scaling value values type kind content "
    "expression convention coefficient description imagedescription name title measurement polarization polarisation "
    "polarizations polarisations".split()
)
_NOT_STATING = frozenset(
    "input equation formula conversion source history reference algorithm software url doi citation command comment "
    "noise nesz threshold accuracy error angle incidence dem range azimuth time original".split()
)
_POLARISATION_KEYS = {"polarization", "polarisation", "polarizations", "polarisations"}

_OFFICIAL = r"(?:OPERA_L2_RTC-S1(?:-STATIC)?_|S1[A-D]_.*_RTC\d+_).*_"
_ANCILLARY = {
    "incidence angle": "inc_map(?:_ell)?|(?:local_)?incidence_angle",
    "mask": "(?:ls_map|(?:(?:VV|VH|HH|HV)_)?mask)",
    "DEM": "dem",
    "area": "area|rtc_anf_gamma0_to_(?:beta0|sigma0)|number_of_looks",
    "RGB": "rgb",
}


@dataclass(frozen=True)
class Statements:
    """Quantities and units that texts state.

    Attributes:
        quantities: `sigma0`, `gamma0` or `beta0`, each with the place where it is stated.
        units: `dB`, `linear` or `AMPLITUDE`, each with the place where it is stated.
    """

    quantities: Mapping[str, str] = field(default_factory=dict)
    units: Mapping[str, str] = field(default_factory=dict)

    def __or__(self, other: "Statements") -> "Statements":
        return Statements({**other.quantities, **self.quantities}, {**other.units, **self.units})


def quantities_in(text: str) -> set[str]:
    """The quantities that a text states."""
    if hyp3 := _HYP3.search(text):
        return {_HYP3_QUANTITIES[hyp3[1]]}
    text = _FORMER.sub(" ", text)
    return {quantity for quantity, pattern in _QUANTITIES.items() if pattern.search(text)}


def units_in(text: str) -> set[str]:
    """The units that a text states; power or intensity "in dB" is dB."""
    if hyp3 := _HYP3.search(text):
        return {_HYP3_UNITS[hyp3[2]]}
    amplitude = {AMPLITUDE} if _AMPLITUDE.search(text) else set()
    text = _FORMER.sub(" ", text)
    decibel = {"dB"} if _DECIBEL.search(text) else set()
    linear = _LINEAR.search(text) or (not decibel and not amplitude and _POWER.search(text))
    return amplitude | decibel | ({"linear"} if linear else set())


def read_statements(own: Sequence[Text], folders: Sequence[Text] = ()) -> Statements:
    """Quantities and units that a file states.

    Args:
        own: Its name, descriptions, units, and the tags that describe the product (`stating_tags`).
        folders: The folders above it, nearest first; used where `own` states nothing, up to the first one that does.

    Returns:
        All statements, contradictions included. A product called RTC is gamma0 where no quantity is stated.
    """
    levels = [own, *([folder] for folder in folders)]
    quantities, units = (
        next(filter(None, ({v: where for where, text in level for v in sorted(find(text))} for level in levels)), {})
        for find in (quantities_in, units_in)
    )
    if not quantities:
        called_rtc = [where for level in levels for where, text in level if _RTC.search(text)]
        quantities = {"gamma0": called_rtc[0]} if called_rtc else {}
    return Statements(quantities, units)


def stating_tags(tags: Mapping[str, str]) -> Iterator[Text]:
    """The tags whose key shows that they describe the values; and any other that names amplitudes, unless excluded."""
    for key, value in tags.items():
        words = set(map(str.lower, _KEY_WORDS.findall(key)))
        states = words & _STATING or _AMPLITUDE.search(value)
        if states and not words & _NOT_STATING and not _FORMULA.search(value):
            yield f"tag {key}", value


def stated_polarisation(descriptions: Sequence[str], tags: Mapping[str, str], bands: tuple[str, ...]) -> str | None:
    """The polarisation that a band's description and the tags for it state, if it is only one."""
    keyed = [value for key, value in tags.items() if key.lower().split("_")[-1] in _POLARISATION_KEYS]
    found = [{match.upper() for match in tokens(text, bands)} for text in (*descriptions, *keyed)]
    single = {name for names in found if len(names) == 1 for name in names}
    return single.pop() if len(single) == 1 else None


def tokens(text: str, bands: tuple[str, ...]) -> list[str]:
    """The polarisations named in a text, in order, in upper case."""
    return [match.upper() for match in pattern(bands).findall(text)]


def deciding_tokens(named: Sequence[Sequence[str]]) -> list[str | None]:
    """Which of the polarisations in the name of each file is that of the file.

    Args:
        named: Polarisations in the names of files that differ in nothing else; equally many per name.

    Returns:
        The one at the only position where the names differ; else the last one of each name.
    """
    places = [place for place, column in enumerate(zip(*named, strict=True)) if len(set(column)) > 1]
    place = places[0] if len(places) == 1 else -1
    return [names[place] if names else None for names in named]


@functools.cache
def pattern(bands: tuple[str, ...]) -> re.Pattern[str]:
    """Matches a polarisation as a separate word."""
    return re.compile(rf"(?<![A-Za-z0-9])({'|'.join(bands)})(?![A-Za-z0-9])", re.IGNORECASE)


def ancillary(name: str) -> str | None:
    """What a file of an official product is, if not backscatter; by its name without folders and suffix."""
    if name.startswith("._"):
        return "AppleDouble"
    return next((k for k, suffix in _ANCILLARY.items() if re.fullmatch(f"{_OFFICIAL}(?:{suffix})", name)), None)


def summarise(kinds: Iterable[str]) -> str:
    """How many of each kind, as text."""
    found = list(kinds)
    return ", ".join(f"{found.count(kind)} {kind}" for kind in sorted(set(found)))
