"""Plausibility of values: can they be backscatter in dB, and of the polarisations that they are named after?

Records, scenes, a user's arrays and everything that is prepared are checked here, with the same thresholds. A finding
states what is wrong; the caller adds the place (file, record, argument) and the remedy.
"""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float

FLOOR_POWER = 1e-6
"""Lower power (left by noise removal where nothing scatters back) becomes this, -60 dB, as zeros do in the published
flood data."""
LOWEST_DB, HIGHEST_DB = -200.0, 60.0
"""Sentinel-1 stays inside (single values after noise removal reach -103 dB over sea; corner reflectors +35 dB); fill
values such as -9999 are far outside."""
LOWEST_POWER = -0.05
"""Noise removal leaves power slightly below zero, never further below."""
_RANGES = {"dB": (LOWEST_DB, HIGHEST_DB), "linear": (LOWEST_POWER, 10 ** (HIGHEST_DB / 10))}
BRIGHTEST_MEDIAN_DB = -3.0
"""No set of images of land or sea has a median above this in its darkest band; standardised values do."""
SWAPPED_DB = -1.0
"""Cross-polarised backscatter lies some 4 to 13 dB below its co-polarised partner on land and sea, and nowhere clearly
above it: where both are noise, as over a calm sea, the difference (co minus cross) goes to zero."""
FEW = 4
"""Up to this many images may all show one calm or bright place, so that the two bounds above do not apply to them."""
NOISE_DB, NOISE_ABOVE_DB = -22.0, 3.0
"""Sentinel-1's noise (noise-equivalent sigma0) lies below the first; of two bands of noise alone either may be the
higher one, by less than the second."""
BUILT_UP_DB = 3.0
"""A few images that are brighter than land and sea show buildings if the co-polarised band lies this far above the
other one; standardised bands do not."""
CROSS_AND_CO = (("VH", "VV"), ("HV", "HH"))
NOT_FINITE, LINEAR, NO_POWER, DECIBEL, SCALED, FILL, SWAPPED = (
    "not finite",
    "linear power",
    "no power",
    "dB",
    "scaled",
    "fill values",
    "swapped bands",
)
"""Kinds of implausible values."""
REMEDIES = {
    NOT_FINITE: "fill or leave out pixels without data",
    LINEAR: "convert it with 10*log10",
    NO_POWER: "calibrate it and convert it with 10*log10",
    DECIBEL: "give it as dB",
    SCALED: "give the values in dB",
    FILL: "mask nodata and check the unit",
    SWAPPED: "swap them",
}
"""What to do about each kind, where nothing more specific is known."""
_MOSTLY = 0.5
_HARDLY = 0.05


@dataclass(frozen=True)
class Finding:
    """Why values are implausible.

    Attributes:
        kind: One of the kinds of this module.
        reason: What was found, in words, with the numbers.
        image: Number of the implausible image; None for all of them together.
    """

    kind: str
    reason: str
    image: int | None = None

    @property
    def remedy(self) -> str:
        """What to do about it."""
        return REMEDIES[self.kind]


Images = Float[np.ndarray, "image band height width"]
Valid = Bool[np.ndarray, "image height width"]


def judge_db(images_db: Images, bands: tuple[str, ...], valid: Valid | None = None) -> Finding | None:
    """Why images cannot be backscatter in dB, or None where they can.

    A single tile may be bright or calm, so the brightness and the order of the bands are judged by medians over all
    images. One image of many is refused only where its values leave the range or its darkest band is not negative, and
    a set of few images only where neither a city nor calm water explains the values.

    Args:
        images_db: One or more images, samples of one set; finite everywhere, also where not valid.
        bands: Their polarisations.
        valid: Pixels to judge; all by default.
    """
    if (found := judge_finite(images_db, bands)) is not None:
        return found
    medians = []
    for number, image_db in enumerate(images_db):
        values_db = image_db.reshape(len(bands), -1) if valid is None else image_db[:, valid[number]]
        if values_db.size:
            medians.append(np.median(values_db, axis=1))
            found = _positive(values_db) if medians[-1].min() >= 0 else judge_range(values_db)
            if found is not None:
                return Finding(found.kind, found.reason, number)
    return _judge_set(np.array(medians), bands) if medians else None


def judge_finite(images_db: Images, bands: tuple[str, ...]) -> Finding | None:
    """The first image with values that are not finite, if any; arguments as for `judge_db`."""
    broken = ~np.isfinite(images_db)
    if not broken.any():
        return None
    image, band, *_ = map(int, np.argwhere(broken)[0])
    return Finding(NOT_FINITE, f"{broken.sum()} values that are not finite, first in {bands[band]}", image)


def judge_range(values_db: Float[np.ndarray, "..."]) -> Finding | None:
    """Why values cannot be dB, judged by their extremes alone: fast enough for every record.

    Values that are not finite are not judged here: what stores the values refuses them.
    """
    if not values_db.size:
        return None
    low, high = float(values_db.min()), float(values_db.max())
    if low >= 0:
        return _positive(values_db)
    if -np.inf < low < LOWEST_DB or HIGHEST_DB < high < np.inf:
        return Finding(FILL, f"values from {low:.4g} to {high:.4g} are not backscatter in dB")
    return None


def first_outside(values: Float[np.ndarray, "band height width"], unit: str | None) -> tuple[int, ...] | None:
    """Position of the first value that cannot be backscatter in a unit (`dB`, `linear`; None: in neither), or None.

    Infinite values are outside. Pixels that are NaN in a band are not checked.
    """
    ranges = list(_RANGES.values()) if unit is None else [_RANGES[unit]]
    low, high = min(low for low, _ in ranges), max(high for _, high in ranges)
    # The extremes are fast to find, and enough where nothing is NaN.
    if values.min() >= low and values.max() <= high:
        return None
    places = np.argwhere(((values < low) | (values > high)) & ~np.isnan(values).any(axis=0))
    return tuple(map(int, places[0])) if len(places) else None


def judge_power(images_power: Images, bands: tuple[str, ...], valid: Valid | None = None) -> Finding | None:
    """Why images cannot be linear power, or None where they can; arguments as for `judge_db`."""
    seen = images_power if valid is None else images_power[np.broadcast_to(valid[:, None], images_power.shape)]
    if seen.size and (share := float((seen < 0).mean())) > _MOSTLY:
        return Finding(DECIBEL, f"{share:.0%} of the values are negative: dB, not linear power")
    found = judge_db(power_to_db(images_power), bands, valid)
    if found is None or found.kind == SWAPPED:
        return found
    reason = f"median {np.median(seen):.3g} is not linear power, but an amplitude or a digital number"
    return Finding(NO_POWER, reason, found.image)


def power_to_db(power: Float[np.ndarray, "..."]) -> Float[np.ndarray, "..."]:
    """Converts linear power to dB, with `FLOOR_POWER` as the lowest power; NaN stays NaN."""
    return 10 * np.log10(np.maximum(power, FLOOR_POWER))


def _positive(values: np.ndarray) -> Finding:
    """What mostly positive values probably are, as they are not dB."""
    low, high, median = float(values.min()), float(values.max()), float(np.median(values))
    negative = float((values < 0).mean())
    text = f"values from {low:.3g} to {high:.3g}, {negative:.0%} of them negative"
    if negative > _HARDLY:
        return Finding(SCALED, f"{text} (median {median:.3g}): standardised or scaled, not dB")
    if median > 10 ** (BRIGHTEST_MEDIAN_DB / 10):
        return Finding(NO_POWER, f"{text} (median {median:.3g}): amplitudes or digital numbers, not dB")
    return Finding(LINEAR, f"{text} (median {median:.3g}): linear power, not dB")


def _judge_set(medians_db: Float[np.ndarray, "image band"], bands: tuple[str, ...]) -> Finding | None:
    together = np.median(medians_db, axis=0)
    darkest = int(together.argmin())
    of, few = f"median of {len(medians_db)} images", len(medians_db) <= FEW
    pairs = [(bands.index(cross), bands.index(co)) for cross, co in CROSS_AND_CO if cross in bands and co in bands]
    built_up = few and any(together[co] - together[cross] > BUILT_UP_DB for cross, co in pairs)
    if together[darkest] > BRIGHTEST_MEDIAN_DB and not built_up:
        reason = (
            f"{bands[darkest]} has {together[darkest]:.2f} dB ({of}), which no land or sea has: standardised or scaled"
        )
        return Finding(SCALED, f"{reason}, not dB")
    for cross, co in pairs:
        above = float(np.median(medians_db[:, cross] - medians_db[:, co]))
        if above > (NOISE_ABOVE_DB if few and together[cross] < NOISE_DB else -SWAPPED_DB):
            reason = f"{bands[cross]} lies {above:.1f} dB above {bands[co]} ({of}), but is always below"
            return Finding(SWAPPED, f"{reason}: the bands are swapped")
    return None
