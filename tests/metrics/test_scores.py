import json

import numpy as np
import pytest
from sklearn import metrics as sklearn_metrics

from sarwmix_jax.errors import UserError
from sarwmix_jax.metrics.scores import flood_scores, multilabel_scores, sigmoid, single_label_scores, softmax
from tests.support import GOLDEN, golden

NAMES = [f"class {number}" for number in range(19)]
GOLDEN_NAMES = {"avr_prc": "ap", "f1": "f1", "prc": "precision"}


def multilabel_case(rng, samples, classes):
    """Probabilities with many ties, the last two classes without positives, one of them never predicted."""
    probabilities = (rng.integers(0, 9, (samples, classes)) / 8).astype(np.float32)
    targets = rng.random((samples, classes)) < 0.3
    targets[:, -2:] = False
    probabilities[:, -1] *= 0.5
    return probabilities, targets.astype(np.int8)


def single_label_case(rng, samples, classes):
    """The last class never occurs, the one before is never predicted."""
    logits = rng.normal(size=(samples, classes)).astype(np.float32)
    logits[:, -2:] = -9
    return softmax(logits), rng.integers(0, classes - 1, samples)


@pytest.mark.parametrize("case", ["plain", "missing_class", "ties", "empty_class"])
def test_golden(case):
    arrays, expected = golden("metrics"), json.loads((GOLDEN / "metrics.json").read_text())["expected"][case]
    scores = multilabel_scores(arrays[f"{case}_prob"], arrays[f"{case}_target"], NAMES)
    assert len(expected) == 6
    for name, value in expected.items():
        metric, average = name.rsplit("_", 1)
        assert scores.summary[f"{GOLDEN_NAMES[metric]}_{average}"] == pytest.approx(value, abs=1e-6), name
    assert scores.without_positives == {"missing_class": 1, "empty_class": 1}.get(case, 0)


@pytest.mark.parametrize("samples", [1, 2, 7, 200])
@pytest.mark.parametrize("threshold", [0.5, (0.1, 0.5, 0.25, 0.875, 0.5, 0.0)])
def test_multilabel_definitions(samples, threshold):
    probabilities, targets = multilabel_case(np.random.default_rng(samples), samples, 6)
    scores = multilabel_scores(probabilities, targets, NAMES[:6], threshold)
    predicted = probabilities > np.broadcast_to(threshold, 6)
    tp, fp = (predicted & (targets == 1)).sum(0), (predicted & (targets == 0)).sum(0)
    fn = targets.sum(0) - tp

    def ratio(top, bottom):
        return np.divide(top, bottom, out=np.zeros(np.shape(top)), where=np.asarray(bottom) > 0)

    s = scores.summary
    for average, (t, p, n) in {"macro": (tp, fp, fn), "micro": (tp.sum(), fp.sum(), fn.sum())}.items():
        assert s[f"f1_{average}"] == pytest.approx(ratio(2 * t, 2 * t + p + n).mean(), abs=1e-12)
        assert s[f"precision_{average}"] == pytest.approx(ratio(t, t + p).mean(), abs=1e-12)
        assert s[f"recall_{average}"] == pytest.approx(ratio(t, t + n).mean(), abs=1e-12)
        assert s[f"accuracy_{average}"] == pytest.approx((predicted == targets).mean(), abs=1e-12)
    with_positives = [
        sklearn_metrics.average_precision_score(targets[:, k], probabilities[:, k])
        for k in range(6)
        if targets[:, k].any()
    ]
    assert s["ap_macro"] == pytest.approx(sum(with_positives) / 6, abs=1e-12)
    assert scores.without_positives == 6 - len(with_positives) >= 2
    assert [row.support for row in scores.per_class] == targets.sum(0).tolist()
    assert [row.predicted for row in scores.per_class] == predicted.sum(0).tolist()
    assert np.mean([row.f1 for row in scores.per_class]) == pytest.approx(s["f1_macro"], abs=1e-12)


def test_a_probability_equal_to_the_threshold_predicts_nothing():
    targets = np.ones((3, 2), np.int8)
    for value in np.float32((0.5, 0.1)):
        at = multilabel_scores(np.full((3, 2), value), targets, NAMES[:2], float(value))
        above = multilabel_scores(np.full((3, 2), np.nextafter(value, np.float32(1))), targets, NAMES[:2], float(value))
        assert (at.summary["f1_macro"], above.summary["f1_macro"]) == (0.0, 1.0)


@pytest.mark.parametrize("samples", [1, 5, 300])
def test_single_label_equals_scikit_learn(samples):
    probabilities, labels = single_label_case(np.random.default_rng(samples), samples, 6)
    predicted = probabilities.argmax(1)
    scores = single_label_scores(probabilities, labels, NAMES[:6])
    s = scores.summary
    assert s["accuracy"] == sklearn_metrics.accuracy_score(labels, predicted)
    for average in ("macro", "micro"):
        for name in ("f1", "precision", "recall"):
            value = getattr(sklearn_metrics, f"{name}_score")(labels, predicted, average=average, zero_division=0)
            assert s[f"{name}_{average}"] == pytest.approx(value, abs=1e-12)
    assert np.sum(scores.confusion) == samples
    assert sum(row[k] for k, row in enumerate(scores.confusion)) == (predicted == labels).sum()
    for k, row in enumerate(scores.per_class):
        assert row.accuracy == pytest.approx(((predicted == k) == (labels == k)).mean(), abs=1e-12)
        assert (row.support, row.predicted) == ((labels == k).sum(), (predicted == k).sum())


def test_flood_by_hand():
    flood = np.float32((0.9, 0.8, 0.7, 0.2, 0.5))  # the last is a tie: no flood
    scores = flood_scores(np.stack((1 - flood, flood), 1), np.array((1, 1, 0, 1, 1)))
    expected = {"accuracy_percent": 40.0, "precision": 2 / 3, "recall": 0.5, "f1": 4 / 7}
    assert scores.summary == pytest.approx(expected, abs=1e-12)
    assert scores.confusion == ((0, 1), (2, 2))
    none = flood_scores(np.float32([[0.9, 0.1]] * 4), np.zeros(4, int))
    assert none.summary == {"accuracy_percent": 100.0, "precision": 0.0, "recall": 0.0, "f1": 0.0}


def test_probabilities_are_float32_and_logits_finite():
    logits = np.array([[-200.0, 0.0, 200.0], [np.log(3), 0.0, 0.0]])
    assert sigmoid(logits).dtype == softmax(logits).dtype == np.float32
    assert sigmoid(logits)[1] == pytest.approx((0.75, 0.5, 0.5), abs=1e-7)
    assert softmax(logits)[1] == pytest.approx((0.6, 0.2, 0.2), abs=1e-7)
    logits[1, 2] = np.nan
    for function in (sigmoid, softmax):
        with pytest.raises(UserError, match=r"1 of 6 logits are NaN or infinite, the first at \[1, 2\]"):
            function(logits)


P, T, L = np.float32([[0.25, 0.75], [0.5, 0.5]]), np.eye(2, dtype=np.int8), np.array([0, 1])


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize(
    ("function", "arguments", "message"),
    [
        (multilabel_scores, (P, T[:1], "ab"), r"targets have shape \(1, 2\), probabilities \(2, 2\)"),
        (multilabel_scores, (P, 2 * T, "ab"), "targets must be 0 or 1"),
        (multilabel_scores, (P, T, "abc"), "3 class names for 2 columns"),
        (multilabel_scores, (P * 3, T, "ab"), "apply sigmoid or softmax to logits first"),
        (multilabel_scores, (P * np.nan, T, "ab"), "4 of 4 probabilities are NaN"),
        (multilabel_scores, (P[:0], T[:0], "ab"), "one row per sample, at least one"),
        (multilabel_scores, (P[:, :1], T[:, :1], "a"), "one column per class, at least two"),
        (multilabel_scores, (P, T, "ab", (0.5, 0.5, 0.5)), "give one, or one for each class"),
        (multilabel_scores, (P, T, "ab", 50), r"each must be in \[0, 1\]"),
        (single_label_scores, (P, T, "ab"), "give one class number per sample"),
        (single_label_scores, (P, L + 1, "ab"), "class numbers from 0 to 1"),
        (single_label_scores, (P * 0.5, L, "ab"), "add up to 0.5, not 1"),
        (flood_scores, (np.float32([[0.2, 0.3, 0.5]] * 2), L, "abc"), "flood scores of 3 classes"),
    ],
)
def test_faults(function, arguments, message):
    with pytest.raises(UserError, match=message):
        function(*arguments)


@pytest.mark.torch
@pytest.mark.filterwarnings("ignore:No positive samples")
@pytest.mark.parametrize("samples", [1, 9, 300])
def test_multilabel_equals_torchmetrics(samples):
    torch = pytest.importorskip("torch")
    classification = pytest.importorskip("torchmetrics.classification")
    probabilities, targets = multilabel_case(np.random.default_rng(samples), samples, 6)
    scores = multilabel_scores(probabilities, targets, NAMES[:6])
    pair = torch.from_numpy(probabilities), torch.from_numpy(targets).long()
    kinds = {"f1": "F1Score", "precision": "Precision", "recall": "Recall", "accuracy": "Accuracy"}
    for average in ("macro", "micro"):
        for name, kind in (kinds | {"ap": "AveragePrecision"}).items():
            value = getattr(classification, f"Multilabel{kind}")(num_labels=6, average=average)(*pair)
            assert scores.summary[f"{name}_{average}"] == pytest.approx(value.item(), abs=1e-6), name


@pytest.mark.torch
def test_single_label_equals_torchmetrics():
    torch = pytest.importorskip("torch")
    classification = pytest.importorskip("torchmetrics.classification")
    probabilities, labels = single_label_case(np.random.default_rng(0), 200, 6)
    pair = torch.from_numpy(probabilities), torch.from_numpy(labels)
    scores = single_label_scores(probabilities, labels, NAMES[:6])
    for average in ("macro", "micro"):
        for name, kind in {"f1": "F1Score", "precision": "Precision", "recall": "Recall"}.items():
            value = getattr(classification, f"Multiclass{kind}")(num_classes=6, average=average)(*pair)
            assert scores.summary[f"{name}_{average}"] == pytest.approx(value.item(), abs=1e-6), name
