import numpy as np
import pytest

from sarwmix_jax.errors import UserError
from sarwmix_jax.metrics.calibration import (
    best_thresholds,
    multilabel_reliability,
    multilabel_temperature,
    single_label_temperature,
    top_class_reliability,
)
from sarwmix_jax.metrics.scores import multilabel_scores, sigmoid, softmax


def overconfident_multilabel(samples, factor=2.5):
    """Labels drawn with the probabilities of logits, and the logits times a factor."""
    rng = np.random.default_rng(0)
    logits = rng.normal(-0.5, 1.5, (samples, 5))
    return logits * factor, (rng.random(logits.shape) < sigmoid(logits)).astype(np.int8)


def overconfident_single_label(samples, factor=2.5):
    rng = np.random.default_rng(0)
    logits = rng.normal(0, 1.5, (samples, 5))
    return logits * factor, (softmax(logits).cumsum(1) < rng.random((samples, 1))).sum(1).clip(max=4)


def test_reliability_by_hand():
    probabilities = np.float32([[0.05, 0.15], [0.15, 1.0], [0.55, 0.0]])
    targets = np.array([[0, 1], [0, 1], [1, 0]])
    found = multilabel_reliability(probabilities, targets, bins=10)
    assert found.counts.tolist() == [2, 2, 0, 0, 0, 1, 0, 0, 0, 1]
    assert found.edges == pytest.approx(np.arange(11) / 10)
    assert found.stated[[0, 1, 5, 9]] == pytest.approx((0.025, 0.15, 0.55, 1.0), abs=1e-7)
    assert found.observed[[0, 1, 5, 9]] == pytest.approx((0, 0.5, 1, 1))
    assert np.isnan(found.observed[2])
    assert found.error == pytest.approx((2 * 0.025 + 2 * 0.35 + 0.45 + 0) / 6, abs=1e-7)
    single = top_class_reliability(np.float32([[0.72, 0.28], [0.22, 0.78], [0.5, 0.5]]), np.array([0, 0, 1]), bins=10)
    assert single.counts.tolist() == [0, 0, 0, 0, 0, 1, 0, 2, 0, 0]
    assert single.error == pytest.approx((2 * abs(0.5 - 0.75) + 0.5) / 3, abs=1e-6)


def test_temperature_undoes_a_known_factor():
    logits, targets = overconfident_multilabel(20_000)
    found = multilabel_temperature(logits, targets)
    assert found.value == pytest.approx(2.5, rel=0.03)
    assert found.loss_after < found.loss_before - 0.05
    before = multilabel_reliability(sigmoid(logits), targets).error
    after = multilabel_reliability(sigmoid(logits / found.value), targets).error
    assert before > 0.08 > 0.01 > after
    logits, labels = overconfident_single_label(20_000)
    found = single_label_temperature(logits, labels)
    assert found.value == pytest.approx(2.5, rel=0.03)
    before = top_class_reliability(softmax(logits), labels).error
    after = top_class_reliability(softmax(logits / found.value), labels).error
    assert before > 0.12 > 0.02 > after


def test_temperature_is_at_the_minimum():
    logits, targets = overconfident_multilabel(500)
    found = multilabel_temperature(logits, targets)
    for other in (0.99, 1.01):
        p = sigmoid(logits / (found.value * other)).astype(np.float64).clip(1e-12, 1 - 1e-9)
        assert -np.where(targets, np.log(p), np.log1p(-p)).mean() > found.loss_after


def test_thresholds_are_the_best_of_all():
    rng = np.random.default_rng(1)
    probabilities = (rng.integers(0, 30, (80, 4)) / 30).astype(np.float32)
    targets = (rng.random((80, 4)) < 0.15 + 0.5 * probabilities).astype(np.int8)
    targets[:, 3] = 0
    found = best_thresholds(probabilities, targets)
    assert found[3] == 0.5
    reached = multilabel_scores(probabilities, targets, "abcd", found)
    tried = [multilabel_scores(probabilities, targets, "abcd", t / 60) for t in range(61)]
    for k in range(4):
        assert reached.per_class[k].f1 == pytest.approx(max(scores.per_class[k].f1 for scores in tried), abs=1e-12)
    assert reached.summary["f1_macro"] > multilabel_scores(probabilities, targets, "abcd").summary["f1_macro"]


def test_thresholds_where_probabilities_are_zero_or_neighbours():
    probabilities = np.zeros((3, 2), np.float32)
    probabilities[:2, 1] = np.float32(0.5), np.nextafter(np.float32(0.5), np.float32(1))
    targets = np.array([[1, 0], [1, 1], [1, 0]])
    found = best_thresholds(probabilities, targets)
    assert found[0] == 0.5
    assert multilabel_scores(probabilities, targets, "ab", found).per_class[1].f1 == 1.0


@pytest.mark.usefixtures("unchecked")
def test_faults():
    logits, targets = overconfident_multilabel(50)
    with pytest.raises(UserError, match="targets have shape"):
        multilabel_temperature(logits, targets[1:])
    with pytest.raises(UserError, match="logits are NaN"):
        multilabel_temperature(logits * np.nan, targets)
    with pytest.raises(UserError, match="separate the validation samples perfectly or not at all"):
        multilabel_temperature(9.0 * (2 * targets - 1), targets)
    with pytest.raises(UserError, match="perfectly or not at all"):
        single_label_temperature(np.tile([0.0, 1.0, 0, 0, 0], (50, 1)), np.zeros(50, int))
    with pytest.raises(UserError, match="labels must be class numbers"):
        single_label_temperature(logits, np.full(50, 5))
    with pytest.raises(UserError, match="0 bins"):
        multilabel_reliability(sigmoid(logits), targets, bins=0)
    with pytest.raises(UserError, match="probabilities have shape"):
        best_thresholds(sigmoid(logits)[:0], targets[:0])
