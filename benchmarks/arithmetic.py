"""From seconds to what the report tells."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median

FIRST_LOOK = 0
"""Number of the wave of rounds that were timed right after a set-up, not in turn."""


@dataclass(frozen=True)
class Round:
    """One timed round: so many steps in so many seconds, in a numbered wave of contenders that took turns."""

    wave: int
    number: int
    steps: int
    seconds: float


def images_per_second(rounds: Sequence[Round], batch: int) -> float:
    """Median over rounds in turn; first looks count where there are no others."""
    in_turn = [each for each in rounds if each.wave != FIRST_LOOK]
    return median(batch * each.steps / each.seconds for each in in_turn or rounds)


def speed_ratio(ours: Sequence[Round], other: Sequence[Round]) -> float | None:
    """How many times as fast the first is as the second: median of the ratios of rounds that took turns.

    None where no round of the one stands beside a round of the other.
    """
    speeds = {(each.wave, each.number): each.steps / each.seconds for each in other if each.wave != FIRST_LOOK}
    pairs = [(each.steps / each.seconds, speeds.get((each.wave, each.number))) for each in ours]
    ratios = [mine / theirs for mine, theirs in pairs if theirs is not None]
    return median(ratios) if ratios else None


def percentile(values: Sequence[float], share: float) -> float:
    """The smallest value that at least this share of all values does not exceed.

    Args:
        values: At least one.
        share: Above 0, up to 1.
    """
    return sorted(values)[math.ceil(share * len(values)) - 1]


def utilisation(speed: float, flops_per_image: float, peak_flops: float) -> float:
    """MFU: share of the device's operations per second that the model's own operations take."""
    return speed * flops_per_image / peak_flops
