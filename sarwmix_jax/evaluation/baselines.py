"""Baselines without a network: prevalence, plain image statistics, mean change in dB.

They predict probabilities, so that `metrics` applies to them as to a model.
"""

import numpy as np
from jaxtyping import Bool, Float, Integer

from sarwmix_jax.errors import UserError
from sarwmix_jax.evaluation.probes import LogisticClassifier, Samples, Truth, check_features, check_samples
from sarwmix_jax.facts.bands import BANDS
from sarwmix_jax.metrics.scores import Labels, Probabilities

STATISTICS = tuple(
    f"{band} {name}, dB" for band in BANDS for name in ("mean", "deviation", "5th percentile", "95th percentile")
)
"""The values of `image_statistics`, in order."""

Images = Float[np.ndarray, "image band height width"]
Valid = Bool[np.ndarray, "image height width"]


def image_statistics(images_db: Images, valid: Valid | None = None) -> Float[np.ndarray, "image statistic"]:
    """Mean, standard deviation, 5th and 95th percentile of each band in dB, float32, in the order of `STATISTICS`.

    Args:
        images_db: Backscatter in dB, bands VH and VV; give one batch at a time to limit memory.
        valid: Pixels with data; by default all.

    Raises:
        UserError: The shapes do not match, an image has no valid pixel, or a valid pixel is not finite.
    """
    if images_db.ndim != 4 or images_db.shape[1] != len(BANDS):
        raise UserError(f"images have shape {images_db.shape}: give (image, {' and '.join(BANDS)}, height, width)")
    mask = _mask(valid, images_db[:, 0].shape)
    pixels = np.where(mask[:, None], images_db, np.nan).astype(np.float64).reshape(*images_db.shape[:2], -1)
    wrong = np.flatnonzero((mask[:, None] & ~np.isfinite(images_db)).any(axis=(1, 2, 3)))
    if len(wrong):
        raise UserError(f"image {wrong[0]} has valid pixels that are NaN or infinite: mark them as not valid")
    low, high = np.nanpercentile(pixels, (5, 95), axis=-1)
    columns = np.nanmean(pixels, axis=-1), np.nanstd(pixels, axis=-1), low, high
    return np.stack(columns, axis=-1).reshape(len(pixels), len(STATISTICS)).astype(np.float32)


def mean_change_db(
    pairs_db: Float[np.ndarray, "pair date band height width"], valid: Valid | None = None
) -> Float[np.ndarray, " pair"]:
    """Mean |difference| between the two dates over both bands and all valid pixels, in dB.

    Args:
        pairs_db: Backscatter in dB of two dates on the same grid.
        valid: Pixels with data at both dates; by default all.

    Raises:
        UserError: The shapes do not match, a pair has no valid pixel, or a valid pixel is not finite.
    """
    if pairs_db.ndim != 5 or pairs_db.shape[1] != 2:
        raise UserError(f"pairs have shape {pairs_db.shape}: give (pair, 2 dates, band, height, width)")
    mask = _mask(valid, pairs_db[:, 0, 0].shape)
    change = np.abs(pairs_db[:, 1].astype(np.float64) - pairs_db[:, 0]).mean(axis=1)
    found = change.mean(axis=(1, 2), where=mask)
    if not np.isfinite(found).all():
        first = np.flatnonzero(~np.isfinite(found))[0]
        raise UserError(f"pair {first} has valid pixels that are NaN or infinite: mark them as not valid")
    return found


def prevalence(train_truth: Truth, classes: int, samples: int) -> Float[np.ndarray, "{samples} {classes}"]:
    """Each class's share in the training split as its probability for every sample, float32.

    Args:
        train_truth: Targets (sample, class), or class numbers (sample).
        classes: Number of classes.
        samples: Number of rows.

    Raises:
        UserError: There are no training samples, or a label is out of range.
    """
    check_samples(Samples(np.zeros((len(train_truth), 1)), train_truth), classes, "training")
    shares = (
        train_truth.mean(0) if train_truth.ndim == 2 else np.bincount(train_truth, minlength=classes) / len(train_truth)
    )
    return np.tile(shares.astype(np.float32), (samples, 1))


def linear_baseline(train: Samples, features: Float[np.ndarray, "sample statistic"], classes: int) -> Probabilities:
    """Logistic regression on standardised image statistics: one problem per class, or multinomial for class numbers.

    Args:
        train: Statistics of training images (see `image_statistics`) and their labels.
        features: Statistics of the images to predict.
        classes: Number of classes.

    Raises:
        UserError: Shapes do not match, a value is not finite, or there are no samples.
    """
    check_samples(train, classes, "training")
    check_features(features, train.features.shape[1], "test")
    return LogisticClassifier(train, classes).fit(1.0)(features)


def majority_class(train_labels: Labels, classes: int, pairs: int) -> Float[np.ndarray, "{pairs} {classes}"]:
    """Probability 1 for the most frequent training class, the first one of equally frequent ones.

    Raises:
        UserError: There are no training samples, or a label is out of range.
    """
    shares = prevalence(train_labels, classes, pairs)
    return np.eye(classes, dtype=np.float32)[shares.argmax(axis=1)]


class ChangeThreshold:
    """Flood where the mean |difference| in dB exceeds the threshold with the highest training accuracy.

    Attributes:
        threshold_db: Halfway between two neighbouring training values, the smallest of equally good ones; infinite
            where the accuracy is highest without any flood.
    """

    def __init__(self, train_change_db: Float[np.ndarray, " pair"], train_labels: Integer[np.ndarray, " pair"]):
        """Finds the threshold.

        Args:
            train_change_db: `mean_change_db` of training pairs.
            train_labels: 1 where the second date is flooded.

        Raises:
            UserError: Shapes do not match, a value is not finite, or a label is not 0 or 1.
        """
        check_samples(Samples(train_change_db[:, None], train_labels), 2, "training")
        values, place = np.unique(train_change_db.astype(np.float64), return_inverse=True)
        dry, flooded = (np.bincount(place[train_labels == label], minlength=len(values)) for label in (0, 1))
        # Right with a threshold just below a value: dry pairs with lower values, flooded ones from this value on.
        right = np.append(0, dry.cumsum()) + np.append(flooded[::-1].cumsum()[::-1], 0)
        between = np.concatenate(([-np.inf], (values[1:] + values[:-1]) / 2, [np.inf]))
        self.threshold_db = float(between[right.argmax()])
        self._spread_db = float(train_change_db.std()) or 1.0

    def __call__(self, change_db: Float[np.ndarray, " pair"]) -> Float[np.ndarray, "pair 2"]:
        """Probabilities of no flood and flood, float32: a logistic curve through 0.5 at the threshold.

        The width of the curve is the standard deviation of the training values; it ranks pairs, but is not calibrated.
        """
        z = np.clip((change_db.astype(np.float64) - self.threshold_db) / self._spread_db, -10, 10)
        flood = 1 / (1 + np.exp(-z))
        return np.stack((1 - flood, flood), axis=1).astype(np.float32)


def _mask(valid: Valid | None, shape: tuple[int, ...]) -> Valid:
    mask = np.ones(shape, bool) if valid is None else valid
    if mask.shape != shape:
        raise UserError(f"valid pixels have shape {mask.shape}, images {shape}: they must be equal")
    empty = np.flatnonzero(~mask.any(axis=(1, 2)))
    if len(empty):
        raise UserError(f"image {empty[0]} has no valid pixel: leave it out")
    return mask
