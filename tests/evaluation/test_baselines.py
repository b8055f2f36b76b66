import numpy as np
import pytest

from sarwmix_jax.errors import UserError
from sarwmix_jax.evaluation.baselines import (
    STATISTICS,
    ChangeThreshold,
    image_statistics,
    linear_baseline,
    majority_class,
    mean_change_db,
    prevalence,
)
from sarwmix_jax.evaluation.probes import Samples
from sarwmix_jax.metrics.scores import flood_scores, multilabel_scores

RNG = np.random.default_rng(0)
IMAGES_DB = RNG.normal(-15, 4, (6, 2, 20, 30)).astype(np.float32)


def test_eight_statistics_per_image():
    found = image_statistics(IMAGES_DB)
    assert found.shape == (6, 8) and found.dtype == np.float32
    assert STATISTICS[0] == "VH mean, dB" and STATISTICS[7] == "VV 95th percentile, dB"
    band = IMAGES_DB[3, 1].astype(np.float64)
    assert found[3, 4:] == pytest.approx((band.mean(), band.std(), *np.percentile(band, (5, 95))), abs=1e-5)


def test_nodata_changes_nothing():
    padded = np.pad(IMAGES_DB, ((0, 0), (0, 0), (3, 0), (0, 5)), constant_values=np.nan)
    valid = np.isfinite(padded[:, 0])
    padded[0, :, 0, 0] = -60
    assert image_statistics(padded, valid) == pytest.approx(image_statistics(IMAGES_DB), abs=1e-5)
    pairs = np.stack((padded, padded[::-1] + 1), 1)
    whole = mean_change_db(np.stack((IMAGES_DB, IMAGES_DB[::-1] + 1), 1))
    assert mean_change_db(pairs, valid) == pytest.approx(whole, abs=1e-5)
    assert mean_change_db(np.stack((IMAGES_DB, IMAGES_DB - 2.5), 1)) == pytest.approx(np.full(6, 2.5), abs=1e-5)


def test_prevalence_and_majority():
    targets = np.array([[1, 0, 0], [1, 1, 0], [1, 0, 0], [0, 1, 0]])
    assert prevalence(targets, 3, 2).tolist() == [[0.75, 0.5, 0.0]] * 2
    labels = np.array([2, 0, 2, 2])
    assert prevalence(labels, 4, 1).tolist() == [[0.25, 0, 0.75, 0]]
    assert majority_class(labels, 4, 3).tolist() == [[0, 0, 1, 0]] * 3
    scores = multilabel_scores(prevalence(targets, 3, 4), targets, "abc")
    assert scores.summary["ap_macro"] == pytest.approx(1.25 / 3)  # a constant's AP is the class's share


def test_linear_baseline_finds_what_the_statistics_hold():
    images = np.random.default_rng(1).normal(-15, 1, (200, 2, 8, 8)).astype(np.float32)
    targets = np.random.default_rng(2).integers(0, 2, (200, 3))
    images[:, 0] += 4 * targets[:, 0, None, None]  # bright in VH
    images[:, 1] *= 1 + 0.2 * targets[:, 1, None, None]  # dark and rough in VV
    features = image_statistics(images)
    found = linear_baseline(Samples(features[:100], targets[:100]), features[100:], 3)
    scores = multilabel_scores(found, targets[100:], "abc")
    assert [row.ap > 0.95 for row in scores.per_class] == [True, True, False]
    single = linear_baseline(Samples(features[:100], targets[:100, 0]), features[100:], 2)
    assert (single.argmax(1) == targets[100:, 0]).mean() > 0.95


def test_change_threshold_is_the_most_accurate_one():
    labels = np.random.default_rng(3).integers(0, 2, 300)
    change = np.round(np.random.default_rng(4).gamma(4, 0.5, 300) + 0.8 * labels, 1)  # ties
    rule = ChangeThreshold(change, labels)
    scores = flood_scores(rule(change), labels)
    best = max(((change > t) == labels).mean() for t in np.arange(-0.05, 9, 0.1))
    assert scores.summary["accuracy_percent"] == pytest.approx(100 * best)
    assert 0.5 < rule.threshold_db < 4
    order = np.argsort(change, kind="stable")
    assert (np.diff(rule(change)[order, 1]) >= 0).all()


@pytest.mark.parametrize(("label", "threshold"), [(0, np.inf), (1, -np.inf)])
def test_change_threshold_with_one_class_only(label, threshold):
    rule = ChangeThreshold(np.array([1.0, 2.0, 2.0]), np.full(3, label))
    assert rule.threshold_db == threshold
    assert (rule(np.array([0.0, 9.0])).argmax(1) == label).all()


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: image_statistics(IMAGES_DB[:, :1]), r"give \(image, VH and VV, height, width\)"),
        (lambda: image_statistics(IMAGES_DB, np.zeros((6, 20, 30), bool)), "image 0 has no valid pixel"),
        (lambda: image_statistics(IMAGES_DB, np.ones((6, 20, 20), bool)), "they must be equal"),
        (lambda: image_statistics(np.where(IMAGES_DB > -5, np.inf, IMAGES_DB)), "valid pixels that are NaN"),
        (lambda: mean_change_db(IMAGES_DB), "give \\(pair, 2 dates"),
        (lambda: mean_change_db(np.full((2, 2, 2, 4, 4), np.nan)), "pair 0 has valid pixels that are NaN"),
        (lambda: prevalence(np.zeros((0, 3), int), 3, 2), "give at least one row"),
        (lambda: prevalence(np.array([0, 3]), 3, 2), "training labels must be from 0 to 2"),
        (lambda: ChangeThreshold(np.array([1.0, 2.0]), np.array([0, 2])), "must be from 0 to 1"),
        (lambda: ChangeThreshold(np.array([1.0, np.nan]), np.array([0, 1])), "the first is sample 1"),
    ],
)
def test_faults(call, message):
    with pytest.raises(UserError, match=message):
        call()
