"""Properties of a model that follow from no tensor of its file: given by the user, or asked for."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

from sarwmix_jax.errors import UserError
from sarwmix_jax.facts.bands import BANDS, STATISTICS, BandStatistics
from sarwmix_jax.facts.released import TILINGS

T = TypeVar("T")


@dataclass(frozen=True)
class Hints:
    """What the user states about a file; None where nothing is stated."""

    kind: str | None = None
    tiling: str | None = None
    statistics: str | None = None
    decoder_heads: int | None = None
    norm_pix: bool | None = None
    mix_group: int | None = None

    def __post_init__(self) -> None:
        """Raises UserError if the statistics or the mix group are invalid."""
        if self.statistics is not None:
            parse_statistics(self.statistics)
        if self.mix_group is not None and not 0 < self.mix_group < 1 << 31:
            raise UserError(f"--mix-group {self.mix_group} is not a number of images; give 1 or more")


ANSWERS = {
    "kind": "flood|classifier (a head of two classes can be either)",
    "statistics": f"{'|'.join(sorted(STATISTICS))}|MEAN_VH,MEAN_VV,STD_VH,STD_VV (of the training images, in dB)",
    "tiling": f"{'|'.join(TILINGS)} (if it is a flood model; the released code: released)",
    "decoder_heads": "N (known for the published sizes alone)",
    "norm_pix": "yes|no (whether the targets were standardised per cell)",
    "mix_group": "N (images per device in the run, which mixed with each other; batch_size in the file: {})",
}
"""What can be stated about a file, in the order in which it is asked for, with the possible answers."""

OWNERS = {"tiling": "flood", "decoder_heads": "pretraining", "norm_pix": "pretraining", "mix_group": "pretraining"}
"""The only kind of file for which a property has a meaning."""


NEEDS_NORM_PIX = "sarwmix reconstruct, and model.reconstruct unless its norm_pix is given"


def option(name: str) -> str:
    """The command-line option of a hint."""
    return f"--{name.replace('_', '-')}"


def ask(settled: Mapping[str, Any], own_batch_size: str | None) -> None:
    """Ask for all properties that are needed and unknown in one message.

    Raises:
        UserError: There are such properties.
    """
    kind, goes_on = settled["kind"], own_batch_size is not None
    needed = {"kind", "statistics"} | ({"tiling"} if kind in (None, "flood") else set())
    if kind == "pretraining":
        needed |= {"decoder_heads"} | ({"norm_pix", "mix_group"} if goes_on else set())
    asked = {
        name: f"{option(name)} {answers.format(own_batch_size)}"
        for name, answers in ANSWERS.items()
        if settled[name] is None
    }
    if missing := [asked[name] for name in asked if name in needed]:
        wishes = kind == "pretraining" and not goes_on and "norm_pix" in asked
        wish = f"; and {asked['norm_pix']}, for {NEEDS_NORM_PIX}" if wishes else ""
        raise UserError(f"the file does not state how the model was trained; give {', '.join(missing)}{wish}")


def settle(what: str, given: T | None, known: T | None) -> T | None:
    """A property as given by the user or known from the registry.

    Raises:
        UserError: The two contradict each other.
    """
    if given is not None and known is not None and given != known:
        shown = [("no", "yes")[value] if isinstance(value, bool) else value for value in (given, known)]
        raise UserError(
            f"{option(what)} {shown[0]} contradicts the registry, which has {shown[1]} for this file; leave it out"
        )
    return known if given is None else given


def parse_statistics(text: str) -> BandStatistics:
    """Statistics by name, or from four numbers in dB: the means of `BANDS`, then their standard deviations.

    Raises:
        UserError: The text is neither a known name nor four finite numbers, the last two positive.
    """
    if text in STATISTICS:
        return STATISTICS[text]
    try:
        numbers = [float(part) for part in text.split(",")]
    except ValueError:
        numbers = []
    count = len(BANDS)
    if len(numbers) != 2 * count or not all(map(math.isfinite, numbers)) or min(numbers[count:]) <= 0:
        raise UserError(
            f"--statistics {text[:80]!r} is unknown; use {', '.join(sorted(STATISTICS))} or mean VH,mean VV,"
            "deviation VH,deviation VV in dB, such as -19.2,-12.5,5.4,5.0"
        )
    return BandStatistics(mean_db=tuple(numbers[:count]), std_db=tuple(numbers[count:]))
