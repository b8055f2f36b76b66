"""The one answer to "can these values be backscatter in dB, of the polarisations they are called?".

Records, scenes, arrays of a user and everything that is prepared are judged here, by the same thresholds. A judgement
says what was found; who asks adds the place (file, record, argument) and the remedy.
"""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float

FLOOR_POWER = 1e-6
"""Lower power (what noise removal left of nothing) becomes this, -60 dB, as zeros in the published flood data do."""
LOWEST_DB, HIGHEST_DB = -200.0, 60.0
"""Sentinel-1 stays inside (single values after noise removal reach -103 dB over sea; corner reflectors +35 dB), fill
values such as -9999 far outside."""
LOWEST_POWER = -0.05
"""Noise removal leaves power slightly below zero, never further below."""
_RANGES = {"dB": (LOWEST_DB, HIGHEST_DB), "linear": (LOWEST_POWER, 10 ** (HIGHEST_DB / 10))}
BRIGHTEST_MEDIAN_DB = -3.0
"""No set of images of land or sea has a median above this in its darkest band; standardised values do."""
SWAPPED_DB = -1.0
"""Cross-polarised backscatter lies some 4 to 13 dB below its co-polarised partner on land and sea, and nowhere clearly
above it: where both are noise, as over a calm sea, the difference (co minus cross) goes to zero."""
FEW = 4
"""Up to so many images may all show one calm or bright place, so that the two bounds above do not hold for them."""
NOISE_DB, NOISE_ABOVE_DB = -22.0, 3.0
"""Sentinel-1's noise (noise-equivalent sigma0) lies below this; between two bands of noise alone either may be the
higher one, by less than this."""
BUILT_UP_DB = 3.0
"""Where a few images are brighter than land and sea, they are of buildings if the co-polarised band lies this far above
the other, as standardised bands do not."""
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
"""What to do about each kind, where nothing more exact is known."""
_MOSTLY = 0.5
_HARDLY = 0.05


@dataclass(frozen=True)
class Finding:
    """Why values are implausible.

    Attributes:
        kind: One of the kinds of this module.
        reason: What was found, in words, with the numbers.
        image: Number of the image in question; None when all of them together are.
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
    """What speaks against images in dB, if anything.

    A single tile may be bright or calm, so a band's brightness and the order of the bands are judged by medians over
    all images: one among many is refused only where its values leave the range or its darkest band is not negative, and
    a few by themselves only where neither a city nor calm water explains them.

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
    """What speaks against values in dB, by their lowest and highest alone: quick enough for every record.

    Values that are not finite are left to whoever stores them.
    """
    if not values_db.size:
        return None
    low, high = float(values_db.min()), float(values_db.max())
    if low >= 0:
        return _positive(values_db)
    if -np.inf < low < LOWEST_DB or HIGHEST_DB < high < np.inf:
        return Finding(FILL, f"values from {low:.4g} to {high:.4g} are no backscatter in dB")
    return None


def first_outside(values: Float[np.ndarray, "band height width"], unit: str | None) -> tuple[int, ...] | None:
    """Where the first value is that is no backscatter in a unit (`dB`, `linear`; None: in neither), if there is one.

    Infinite values are outside. Pixels that are NaN in a band are not looked at.
    """
    ranges = list(_RANGES.values()) if unit is None else [_RANGES[unit]]
    low, high = min(low for low, _ in ranges), max(high for _, high in ranges)
    # A look at the extremes is quick, and enough where nothing is NaN.
    if values.min() >= low and values.max() <= high:
        return None
    places = np.argwhere(((values < low) | (values > high)) & ~np.isnan(values).any(axis=0))
    return tuple(map(int, places[0])) if len(places) else None


def judge_power(images_power: Images, bands: tuple[str, ...], valid: Valid | None = None) -> Finding | None:
    """What speaks against images in linear power, if anything; arguments as for `judge_db`."""
    seen = images_power if valid is None else images_power[np.broadcast_to(valid[:, None], images_power.shape)]
    if seen.size and (share := float((seen < 0).mean())) > _MOSTLY:
        return Finding(DECIBEL, f"{share:.0%} of the values are negative: dB, not linear power")
    found = judge_db(power_to_db(images_power), bands, valid)
    if found is None or found.kind == SWAPPED:
        return found
    reason = f"median {np.median(seen):.3g} is no linear power, but an amplitude or digital numbers"
    return Finding(NO_POWER, reason, found.image)


def power_to_db(power: Float[np.ndarray, "..."]) -> Float[np.ndarray, "..."]:
    """Backscatter in dB of linear power, not below that of `FLOOR_POWER`; NaN stays NaN."""
    return 10 * np.log10(np.maximum(power, FLOOR_POWER))


def _positive(values: np.ndarray) -> Finding:
    """What mostly positive values are, if not dB."""
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
