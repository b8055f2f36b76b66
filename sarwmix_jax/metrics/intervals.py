"""95 % intervals of scores by resampling clusters: acquisitions or sequences, not patches or pairs.

Samples of one acquisition share speckle statistics, weather and place, so resampling single samples gives intervals
that are far too narrow. Here each replicate draws as many clusters as there are, with replacement.

Method: percentile bootstrap with the levels widened for the number of clusters ("expanded percentile",
T. Hesterberg, What Teachers Should Know About the Bootstrap, The American Statistician 69(4), 2015): a resample's
variance is too small by (n - 1)/n, and its tails are those of a normal distribution rather than of t with n - 1
degrees of freedom. In simulations with 60 clusters the plain percentile interval covered the truth in 92.7 % (macro F1)
and 93.4 % (accuracy) of cases, this one in 93.6 % and 93.8 %; bias correction with acceleration (BCa) and
reversed percentiles ("basic") covered less often than this one, above all for macro means with rare classes.

Cost at the default 2,000 replicates, 120,000 samples and 19 classes: below a second for F1, precision, recall and
accuracy; about one minute for average precision on one core.
"""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float
from scipy.stats import norm, t

from sarwmix_jax.errors import UserError
from sarwmix_jax.metrics.cluster_statistics import ClusterStatistic, Estimates, Values, Weights
from sarwmix_jax.progress import progress

LEVEL = 0.95
REPLICATES = 2000
FEWEST_REPLICATES = 200
CHUNK = 100
"""Replicates at a time: a split of 120,000 samples takes about 3 s for them on one core."""
FEWEST_CLUSTERS = 8
"""In simulations 8 clusters gave 92.5 to 94.7 % coverage, 5 gave 89.3 to 92.5 %, 3 gave 70.8 to 75.8 %."""


@dataclass(frozen=True)
class Interval:
    """A score with its 95 % interval, or the reason why there is none.

    Attributes:
        estimate: The score on the whole split.
        low: Lower end, or None.
        high: Upper end, or None.
        reason: Why there is no interval, or None.
    """

    estimate: float
    low: float | None
    high: float | None
    reason: str | None = None


def score_intervals(statistic: ClusterStatistic, *, replicates: int = REPLICATES, seed: int = 0) -> dict[str, Interval]:
    """Intervals of all scores of one set of predictions.

    Args:
        statistic: Scores by weights of clusters, such as `cluster_statistics.MultilabelStatistic`.
        replicates: Resamples; with 2,000 the ends vary by about 2 % of the interval's width from seed to seed.
        seed: From 0 to 2^32 - 1; the same seed gives the same intervals.

    Raises:
        UserError: There are too few replicates.
    """
    count = _clusters(statistic)
    whole = statistic(np.ones((1, count)))
    if count < FEWEST_CLUSTERS:
        return _none(whole, count)
    return _intervals(whole, _resampled(statistic, cluster_weights(count, replicates, seed)), count)


def difference_intervals(
    first: ClusterStatistic, second: ClusterStatistic, *, replicates: int = REPLICATES, seed: int = 0
) -> dict[str, Interval]:
    """Intervals of the first scores minus the second, on the same samples and the same resamples.

    The errors of two predictions of the same samples are correlated, so this interval is narrower than those of the
    two scores suggest: a difference is significant when its interval does not contain 0.

    Args:
        first: Scores of one set of predictions.
        second: Scores of the other, over the same samples in the same order.
        replicates: Resamples.
        seed: From 0 to 2^32 - 1.

    Raises:
        UserError: The clusters or the names of the scores differ, or there are too few replicates.
    """
    if not np.array_equal(first.clusters, second.clusters):
        raise UserError(
            "the two sets of predictions differ in samples or clusters: give the same samples in the same order"
        )
    count = _clusters(first)
    ones = np.ones((1, count))
    whole = _minus(first(ones), second(ones))
    if count < FEWEST_CLUSTERS:
        return _none(whole, count)
    weights = cluster_weights(count, replicates, seed)
    return _intervals(whole, _minus(_resampled(first, weights), _resampled(second, weights)), count)


def _resampled(statistic: ClusterStatistic, weights: Weights) -> Values:
    """The scores of every resample, some resamples at a time."""
    parts = []
    with progress("bootstrap", len(weights), "replicates") as advance:
        for first in range(0, len(weights), CHUNK):
            parts.append(statistic(weights[first : first + CHUNK]))
            advance(len(weights[first : first + CHUNK]))
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}


def cluster_weights(clusters: int, replicates: int, seed: int) -> Weights:
    """How often each cluster is drawn in each replicate; rows add up to the number of clusters.

    Raises:
        UserError: There are too few replicates, or the seed is out of range.
    """
    if replicates < FEWEST_REPLICATES:
        raise UserError(f"{replicates} bootstrap replicates: use at least {FEWEST_REPLICATES}, better {REPLICATES}")
    if not 0 <= seed < 2**32:
        raise UserError(f"seed {seed}: it must be from 0 to {2**32 - 1}")
    # NumPy guarantees the values of raw words alone over its versions.
    words = np.random.Philox(np.random.SeedSequence(seed)).random_raw(replicates * clusters)
    drawn = (words % clusters).astype(np.int64).reshape(replicates, clusters)
    cells = drawn + clusters * np.arange(replicates)[:, None]
    return np.bincount(cells.ravel(), minlength=cells.size).reshape(cells.shape).astype(np.float64)


def expanded_levels(clusters: int) -> Float[np.ndarray, " 2"]:
    """The two quantiles of the replicates that are the ends of the interval."""
    tails = np.array([(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return norm.cdf(np.sqrt(clusters / (clusters - 1)) * t.ppf(tails, clusters - 1))


def _intervals(whole: Estimates, resampled: Values, clusters: int) -> dict[str, Interval]:
    found = {}
    for name, values in resampled.items():
        estimate = float(whole[name][0])
        if np.ptp(values) < 1e-12:
            found[name] = Interval(estimate, None, None, "all resamples give the same score")
        else:
            low, high = np.quantile(values, expanded_levels(clusters))
            found[name] = Interval(estimate, float(low), float(high))
    return found


def _none(whole: Estimates, clusters: int) -> dict[str, Interval]:
    reason = f"{clusters} cluster{'s' * (clusters > 1)}: resampling needs at least {FEWEST_CLUSTERS}"
    return {name: Interval(float(value[0]), None, None, reason) for name, value in whole.items()}


def _clusters(statistic: ClusterStatistic) -> int:
    return int(statistic.clusters.max()) + 1


def _minus(first: Values, second: Values) -> Values:
    if first.keys() != second.keys():
        raise UserError(f"scores {sorted(first)} and {sorted(second)} are not of the same task")
    return {name: value - second[name] for name, value in first.items()}
