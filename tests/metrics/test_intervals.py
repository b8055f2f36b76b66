import functools

import numpy as np
import pytest

from sarwmix_jax.errors import UserError
from sarwmix_jax.metrics.cluster_statistics import FloodStatistic, MultilabelStatistic, SingleLabelStatistic
from sarwmix_jax.metrics.intervals import cluster_weights, difference_intervals, expanded_levels, score_intervals
from sarwmix_jax.metrics.scores import flood_scores, multilabel_scores, sigmoid, single_label_scores, softmax

CLASSES = 4


def clustered(rng, clusters):
    """Predictions whose level and quality differ from cluster to cluster, as those of acquisitions do."""
    cluster = np.repeat(np.arange(clusters), rng.integers(5, 80, clusters))
    base = np.linspace(-0.3, -2.5, CLASSES)
    share = sigmoid(base + rng.normal(0, 0.8, (clusters, CLASSES))[cluster])
    targets = (rng.random(share.shape) < share).astype(np.int8)
    skill, shift = rng.normal(1.8, 0.7, (clusters, CLASSES))[cluster], rng.normal(0, 0.5, (clusters, 1))[cluster]
    return sigmoid(base + skill * (targets - 0.3) + shift + rng.normal(0, 1, share.shape)), targets, cluster


def test_weighting_is_repeating_samples():
    rng = np.random.default_rng(0)
    probabilities, targets, cluster = clustered(rng, 12)
    probabilities = np.round(probabilities * 8) / np.float32(8)  # ties
    targets[:, 3] = 0  # no positives
    thresholds = (0.5, 0.25, 0.375, 0.625)
    weights = np.vstack((np.ones(12), cluster_weights(12, 200, 1)[:6]))
    found = MultilabelStatistic(probabilities, targets, cluster, thresholds)(weights)
    logits = rng.normal(size=(len(cluster), 3)) + 2 * np.eye(3)[labels := rng.integers(0, 3, len(cluster))]
    single = SingleLabelStatistic(softmax(logits), labels, cluster)(weights)
    pairs = softmax(logits[:, :2])
    flood = FloodStatistic(pairs, labels % 2, cluster)(weights)
    for row, weight in enumerate(weights):
        again = np.repeat(np.arange(len(cluster)), weight[cluster].astype(int))
        expected = multilabel_scores(probabilities[again], targets[again], "abcd", thresholds).summary
        assert {name: value[row] for name, value in found.items()} == pytest.approx(expected, abs=1e-12)
        expected = single_label_scores(softmax(logits)[again], labels[again], "abc").summary
        assert {name: value[row] for name, value in single.items()} == pytest.approx(expected, abs=1e-12)
        expected = flood_scores(pairs[again], labels[again] % 2).summary
        assert {name: value[row] for name, value in flood.items()} == pytest.approx(expected, abs=1e-12)


def test_a_class_outside_a_resample_keeps_its_score():
    probabilities, targets, cluster = clustered(np.random.default_rng(0), 10)
    targets[cluster > 0, 3] = 0  # all its positives lie in cluster 0
    statistic = MultilabelStatistic(probabilities, targets, cluster)
    without = np.ones((1, 10))
    without[0, 0] = 0
    rest = multilabel_scores(probabilities[cluster > 0], targets[cluster > 0], "abcd")
    whole = multilabel_scores(probabilities, targets, "abcd")
    assert rest.per_class[3].ap == 0 < whole.per_class[3].ap
    for name in ("ap", "f1"):
        kept = rest.summary[f"{name}_macro"] + getattr(whole.per_class[3], name) / 4
        assert statistic(without)[f"{name}_macro"][0] == pytest.approx(kept, abs=1e-12)


def test_weights_are_resamples_and_keep_their_values():
    weights = cluster_weights(60, 2000, 5)
    assert (weights.sum(1) == 60).all()
    assert weights.mean(0) == pytest.approx(np.ones(60), abs=0.1)
    assert weights.var() == pytest.approx(59 / 60, abs=0.02)
    assert np.array_equal(weights, cluster_weights(60, 2000, 5))
    assert cluster_weights(5, 200, 0)[:3].tolist() == [[1, 1, 2, 0, 1], [0, 1, 2, 2, 0], [1, 2, 1, 0, 1]]


def test_intervals_hold_the_estimate_and_follow_the_seed():
    case = clustered(np.random.default_rng(3), 60)
    statistic = MultilabelStatistic(*case)
    found = score_intervals(statistic, seed=1)
    summary = multilabel_scores(*case[:2], "abcd").summary
    assert found.keys() == summary.keys()
    for name, interval in found.items():
        assert interval.estimate == pytest.approx(summary[name], abs=1e-12)
        assert interval.low < interval.estimate < interval.high
    assert score_intervals(statistic, seed=1) == found
    other = score_intervals(statistic, seed=2)
    for name, interval in found.items():
        assert other[name] != interval
        assert other[name].low == pytest.approx(interval.low, abs=0.1 * (interval.high - interval.low))


def test_levels_widen_with_few_clusters():
    assert expanded_levels(10**6) == pytest.approx((0.025, 0.975), abs=1e-5)
    assert expanded_levels(60) == pytest.approx((0.02180, 0.97820), abs=1e-5)
    assert expanded_levels(8)[0] == pytest.approx(0.00574, abs=1e-5)


def test_resampling_clusters_gives_wider_intervals_than_samples():
    probabilities, targets, cluster = clustered(np.random.default_rng(3), 60)
    wide = score_intervals(MultilabelStatistic(probabilities, targets, cluster, average_precision=False))
    alone = np.arange(len(cluster))
    narrow = score_intervals(MultilabelStatistic(probabilities, targets, alone, average_precision=False))
    assert wide["f1_micro"].high - wide["f1_micro"].low > 1.8 * (narrow["f1_micro"].high - narrow["f1_micro"].low)


def test_paired_difference():
    probabilities, targets, cluster = clustered(np.random.default_rng(4), 60)
    names = np.array([f"S1A_{number}" for number in cluster])
    first = MultilabelStatistic(probabilities, targets, names)
    noise = np.random.default_rng(0).normal(0, 0.02, probabilities.shape)
    second = MultilabelStatistic(np.clip(probabilities + noise, 0, 1), targets, names)
    paired, single = difference_intervals(first, second), score_intervals(first)
    swapped = difference_intervals(second, first)
    for name, interval in paired.items():
        assert interval.high - interval.low < 0.7 * (single[name].high - single[name].low)
        assert swapped[name].low == pytest.approx(-interval.high, abs=1e-9)
    assert paired["ap_macro"].low > 0  # noise can only lower the ranking
    same = difference_intervals(first, first)["f1_macro"]
    assert (same.estimate, same.low, same.reason) == (0.0, None, "all resamples give the same score")


def test_no_interval_where_clusters_are_too_few():
    probabilities, targets, cluster = clustered(np.random.default_rng(0), 10)
    summary = multilabel_scores(probabilities, targets, "abcd").summary
    for count, words in ((1, "1 cluster: resampling needs at least 8"), (7, "7 clusters: resampling needs")):
        found = score_intervals(MultilabelStatistic(probabilities, targets, cluster % count))
        for name, interval in found.items():
            assert (interval.low, interval.high) == (None, None)
            assert interval.estimate == pytest.approx(summary[name], abs=1e-12)
            assert words in interval.reason


@pytest.mark.usefixtures("unchecked")
def test_faults():
    probabilities, targets, cluster = clustered(np.random.default_rng(0), 10)
    statistic = MultilabelStatistic(probabilities, targets, cluster, average_precision=False)
    with pytest.raises(UserError, match="give one acquisition or sequence per sample"):
        MultilabelStatistic(probabilities, targets, cluster[1:])
    with pytest.raises(UserError, match="100 bootstrap replicates: use at least 200"):
        score_intervals(statistic, replicates=100)
    with pytest.raises(UserError, match="seed -1"):
        score_intervals(statistic, seed=-1)
    with pytest.raises(UserError, match="differ in samples or clusters"):
        difference_intervals(statistic, MultilabelStatistic(probabilities, targets, cluster[::-1]))
    with pytest.raises(UserError, match="not of the same task"):
        difference_intervals(statistic, SingleLabelStatistic(softmax(probabilities), targets[:, 0], cluster))


@functools.cache
def population(clusters, average_precision):
    """Scores of a population so large that its own error is far below the intervals' widths."""
    statistic = MultilabelStatistic(*clustered(np.random.default_rng(1), clusters), average_precision=average_precision)
    return {name: value[0] for name, value in statistic(np.ones((1, clusters))).items()}


def coverage(names, simulations, *, population_clusters, average_precision):
    truth = population(population_clusters, average_precision)
    inside = dict.fromkeys(names, 0)
    for number in range(simulations):
        case = clustered(np.random.default_rng((7, number)), 60)
        statistic = MultilabelStatistic(*case, average_precision=average_precision)
        found = score_intervals(statistic, replicates=1000, seed=number)
        for name in names:
            inside[name] += found[name].low <= truth[name] <= found[name].high
    return {name: 100 * count / simulations for name, count in inside.items()}


@pytest.mark.slow
def test_coverage_of_accuracy_and_f1():
    names = ("accuracy_micro", "f1_micro", "f1_macro")
    found = coverage(names, 1000, population_clusters=40_000, average_precision=False)
    assert all(92 <= percent <= 97 for percent in found.values()), found


@pytest.mark.slow
def test_coverage_of_average_precision():
    found = coverage(("ap_macro", "ap_micro"), 300, population_clusters=20_000, average_precision=True)
    assert all(92 <= percent <= 97 for percent in found.values()), found


@pytest.mark.slow
def test_coverage_of_paired_differences():
    def pair(seed, clusters):
        probabilities, targets, cluster = clustered(np.random.default_rng(seed), clusters)
        noise = np.random.default_rng((8, int(np.sum(seed)))).normal(0, 0.1, probabilities.shape)
        sides = probabilities, np.clip(probabilities + noise, 0, 1)
        return [MultilabelStatistic(side, targets, cluster, average_precision=False) for side in sides]

    first, second = pair(1, 40_000)
    ones = np.ones((1, 40_000))
    names = ("accuracy_micro", "f1_micro", "f1_macro")
    truth = {name: first(ones)[name][0] - second(ones)[name][0] for name in names}
    inside = dict.fromkeys(names, 0)
    for number in range(1000):
        found = difference_intervals(*pair((7, number), 60), replicates=1000, seed=number)
        for name in names:
            inside[name] += found[name].low <= truth[name] <= found[name].high
    assert all(920 <= count <= 970 for count in inside.values()), inside
