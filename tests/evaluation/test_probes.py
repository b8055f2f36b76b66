import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression
from sklearn.preprocessing import StandardScaler

from sarwmix_jax.errors import UserError
from sarwmix_jax.evaluation.probes import LogisticClassifier, Samples, logistic_probe, neighbour_probe
from sarwmix_jax.metrics.scores import multilabel_scores, single_label_scores


def clouds(seed, samples, classes=4, width=12, noise=0.5):
    """Class numbers, and features around one direction per class, of very different scales."""
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, classes, samples)
    directions = np.random.default_rng(99).normal(size=(classes, width))
    features = directions[labels] + noise * rng.normal(size=(samples, width))
    return Samples((features * np.geomspace(0.5, 2, width)).astype(np.float32), labels)


def two_each(seed, samples):
    """Multi-label: a sample's features are the sum of its classes' directions; class 4 never occurs."""
    rng = np.random.default_rng(seed)
    targets = (rng.random((samples, 5)) < 0.4).astype(np.int8)
    targets[:, 4] = 0
    directions = np.random.default_rng(99).normal(size=(5, 12))
    return Samples((targets @ directions + 0.5 * rng.normal(size=(samples, 12))).astype(np.float32), targets)


@pytest.mark.parametrize("probe", [logistic_probe, neighbour_probe])
def test_probes_learn_single_and_multi_label(probe):
    train, validation, test = (clouds(seed, 300) for seed in range(3))
    found = probe(train, validation, test.features, 4)
    assert single_label_scores(found.probabilities, test.truth, "abcd").summary["accuracy"] > 0.95
    train, validation, test = (two_each(seed, 300) for seed in range(3))
    found = probe(train, validation, test.features, 5)
    scores = multilabel_scores(found.probabilities, test.truth, "abcde")
    assert np.mean([row.ap for row in scores.per_class[:4]]) > 0.9
    assert (found.probabilities[:, 4] == 0).all()
    assert found.probabilities.dtype == np.float32
    assert found.validation[found.chosen] == max(found.validation.values())
    assert found.unconverged == 0


def test_logistic_equals_scikit_learn_from_a_cold_start():
    train, test = clouds(0, 200), clouds(1, 50)
    found = LogisticClassifier(train, 6).fit(1e-3).fit(0.1)(test.features)  # two classes without samples
    scaler = StandardScaler().fit(train.features)
    model = LogisticRegression(C=0.1, max_iter=1000).fit(scaler.transform(train.features), train.truth)
    assert found[:, :4] == pytest.approx(model.predict_proba(scaler.transform(test.features)), abs=2e-3)
    assert (found[:, 4:] == 0).all()


def test_validation_chooses():
    train, noisy = clouds(0, 60, noise=2), clouds(5, 300, noise=2)
    found = logistic_probe(train, noisy, noisy.features, 4, grid=(1e-4, 0.1))
    assert found.chosen == 0.1
    assert found.validation[0.1] > found.validation[1e-4] + 0.2
    found = neighbour_probe(train, noisy, noisy.features, 4, numbers=(59, 5, 61))
    assert set(found.validation) == {5.0, 59.0}  # 61 are more than there are
    assert found.chosen == 5.0


def test_votes_by_hand():
    train = Samples(np.float32([[1, 0], [0, 2], [-3, 0]]), np.array([[1, 0], [0, 1], [1, 1]]))
    found = neighbour_probe(train, train, np.float32([[5, 5], [1, 0]]), 2, numbers=(2,)).probabilities
    far = np.exp(-1 / 0.07)
    assert found == pytest.approx(np.array([[0.5, 0.5], [1 / (1 + far), far / (1 + far)]]), abs=1e-6)


def test_stopping_early_is_counted(monkeypatch):
    monkeypatch.setattr("sarwmix_jax.evaluation.probes.MAX_ITERATIONS", 2)
    train = clouds(0, 100)
    assert logistic_probe(train, train, train.features, 4, grid=(1.0, 100.0)).unconverged == 2


GOOD = clouds(0, 20)


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize(
    ("features", "truth", "test_features", "message"),
    [
        (GOOD.features, GOOD.truth[1:], GOOD.features, r"training labels have shape \(19,\) for 20 samples"),
        (GOOD.features, GOOD.truth + 4, GOOD.features, "training labels must be from 0 to 3"),
        (GOOD.features * np.nan, GOOD.truth, GOOD.features, "of 20 samples are NaN or infinite, the first is"),
        (GOOD.features[:0], GOOD.truth[:0], GOOD.features, "give at least one row"),
        (GOOD.features, GOOD.truth, GOOD.features[:, 1:], r"test features have shape \(20, 11\)"),
        (GOOD.features, np.zeros((20, 4), int), GOOD.features, "a probe needs positives"),
    ],
)
@pytest.mark.parametrize("probe", [logistic_probe, neighbour_probe])
def test_faults(probe, features, truth, test_features, message):
    with pytest.raises(UserError, match=message):
        probe(Samples(features, truth), GOOD, test_features, 4)


def test_empty_settings():
    with pytest.raises(UserError, match="the grid of C is empty"):
        logistic_probe(GOOD, GOOD, GOOD.features, 4, grid=())
    with pytest.raises(UserError, match=r"\[50\] neighbours of 20 training samples"):
        neighbour_probe(GOOD, GOOD, GOOD.features, 4, numbers=(50,))
