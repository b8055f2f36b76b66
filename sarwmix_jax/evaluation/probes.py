"""Probes of frozen features: logistic regression, and nearest neighbours by cosine similarity.

Both are fitted on training features, with one setting chosen on validation features, and predict probabilities of
test samples, so that `metrics` applies. Multi-label targets have one column per class, single-label targets are class
numbers. Nothing is fitted again on training and validation features together.

The logistic regression standardises features with training statistics and has one regularisation for all classes.
The neighbours vote with weights exp(similarity / 0.07), after Wu et al., "Unsupervised Feature Learning via
Non-Parametric Instance Discrimination", CVPR 2018.

Time on two cores for 5,000 training samples with 1,024 features and 19 classes: 40 seconds for logistic regression with
all eight values of C, growing with the number of samples; below a second for the neighbours of 2,000 samples.
"""

import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Integer
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import average_precision_score
from sklearn.neighbors import NearestNeighbors
from sklearn.preprocessing import StandardScaler

from sarwmix_jax.errors import UserError
from sarwmix_jax.metrics.scores import Probabilities
from sarwmix_jax.progress import progress, track

Features = Float[np.ndarray, "sample feature"]
Truth = Integer[np.ndarray, " sample"] | Integer[np.ndarray, "sample class"]

INVERSE_REGULARISATION = tuple(10.0**power for power in range(-5, 3))
NEIGHBOURS = (5, 10, 20, 50, 100)
VOTE_TEMPERATURE = 0.07
MAX_ITERATIONS = 1000


@dataclass(frozen=True)
class Samples:
    """Features with their labels.

    Attributes:
        features: One row per sample, float32.
        truth: Targets (sample, class), or class numbers (sample).
    """

    features: Features
    truth: Truth


@dataclass(frozen=True)
class Probed:
    """Result of a probe.

    Attributes:
        probabilities: Probabilities of the test samples, float32.
        chosen: C or the number of neighbours that was best on validation, the smallest of equally good ones.
        validation: Score by C or number of neighbours: macro average precision over the classes with positives
            (multi-label), or top-1 accuracy (single-label).
        unconverged: Fits that stopped at the iteration limit, over all values of C.
    """

    probabilities: Probabilities
    chosen: float
    validation: dict[float, float]
    unconverged: int = 0


class LogisticClassifier:
    """Logistic regression on standardised features: one model per class for targets, or a multinomial one."""

    def __init__(self, train: Samples, classes: int):
        """Standardises once; `fit` may then be called with several C in turn, each starting from the previous fit.

        Args:
            train: Samples of the fit.
            classes: Number of classes. A class that all or no training samples have gets probability 1 or 0.
        """
        self.unconverged = 0
        self._scaler = StandardScaler().fit(train.features)
        self._inputs = self._scaler.transform(train.features)
        self._classes = classes
        self._columns = list(train.truth.T) if train.truth.ndim == 2 else [train.truth]
        self._exclusive = train.truth.ndim == 1
        self._models = [LogisticRegression(max_iter=MAX_ITERATIONS, warm_start=True) for _ in self._columns]

    def fit(self, c: float) -> "LogisticClassifier":
        """Fits with inverse regularisation `c` on features with variance 1."""
        pairs = list(zip(self._models, self._columns, strict=True))
        for model, column in track(pairs, f"fitting logistic regression, C {c:g}", unit="classes"):
            if column.min() < column.max():
                with warnings.catch_warnings():
                    warnings.simplefilter("ignore", ConvergenceWarning)  # counted instead
                    model.set_params(C=c).fit(self._inputs, column)
                self.unconverged += int(model.n_iter_.max() >= MAX_ITERATIONS)
        return self

    def __call__(self, features: Features) -> Probabilities:
        """Probabilities of every class, float32."""
        inputs = self._scaler.transform(features)
        found = np.zeros((len(features), self._classes), np.float32)
        for number, (model, column) in enumerate(zip(self._models, self._columns, strict=True)):
            if column.min() == column.max():
                found[:, column[0] if self._exclusive else number] = 1 if self._exclusive else column[0]
            elif self._exclusive:
                found[:, model.classes_] = model.predict_proba(inputs)
            else:
                found[:, number] = model.predict_proba(inputs)[:, 1]
        return found


def logistic_probe(
    train: Samples,
    validation: Samples,
    test_features: Features,
    classes: int,
    grid: Sequence[float] = INVERSE_REGULARISATION,
) -> Probed:
    """Logistic regression with C, the inverse of its L2 regularisation, chosen on validation.

    Args:
        train: Samples of the fit.
        validation: Samples on which C is chosen.
        test_features: Features whose probabilities are predicted.
        classes: Number of classes.
        grid: Values of C.

    Raises:
        UserError: Shapes do not match, a feature is not finite, or there are no samples.
    """
    check_samples(train, classes, "training")
    check_samples(validation, classes, "validation")
    check_features(test_features, train.features.shape[1], "test")
    classifier, scores, best = LogisticClassifier(train, classes), {}, None
    for c in track(sorted(grid), "fitting logistic regression", unit="values of C"):
        scores[c] = _score(classifier.fit(c)(validation.features), validation.truth)
        if best is None or scores[c] > scores[best]:
            best, probabilities = c, classifier(test_features)
    if best is None:
        raise UserError("the grid of C is empty: give at least one value")
    return Probed(probabilities, best, scores, classifier.unconverged)


def neighbour_probe(
    train: Samples,
    validation: Samples,
    test_features: Features,
    classes: int,
    numbers: Sequence[int] = NEIGHBOURS,
) -> Probed:
    """Vote of the nearest training samples by cosine similarity, their number chosen on validation.

    Args:
        train: Samples that vote.
        validation: Samples on which the number of neighbours is chosen.
        test_features: Features whose probabilities are predicted.
        classes: Number of classes.
        numbers: Numbers of neighbours; those above the number of training samples are left out.

    Raises:
        UserError: Shapes do not match, a feature is not finite, there are no samples, or no number is usable.
    """
    check_samples(train, classes, "training")
    check_samples(validation, classes, "validation")
    check_features(test_features, train.features.shape[1], "test")
    usable = sorted(k for k in numbers if 1 <= k <= len(train.features))
    if not usable:
        raise UserError(
            f"{list(numbers)} neighbours of {len(train.features)} training samples: give a number between "
            f"1 and {len(train.features)}"
        )
    index = NearestNeighbors(n_neighbors=usable[-1], metric="cosine", algorithm="brute").fit(train.features)
    votes = train.truth if train.truth.ndim == 2 else np.eye(classes, dtype=np.int8)[train.truth]
    held_out, scores = _vote(index, votes, validation.features), {}
    for k in usable:
        scores[float(k)] = _score(held_out(k), validation.truth)
    chosen = max(scores, key=scores.__getitem__)
    return Probed(_vote(index, votes, test_features)(int(chosen)), chosen, scores)


def _vote(
    index: NearestNeighbors, votes: Integer[np.ndarray, "neighbour class"], features: Features
) -> Callable[[int], Probabilities]:
    """Probabilities by number of neighbours."""
    with progress(f"finding the nearest neighbours of {len(features):,} samples"):
        distances, rows = index.kneighbors(features)
    weights = np.exp((distances[:, :1] - distances) / VOTE_TEMPERATURE)  # of the nearest 1: never all 0

    def probabilities(k: int) -> Probabilities:
        total = np.zeros((len(features), votes.shape[1]))
        for place in range(k):
            total += weights[:, place, None] * votes[rows[:, place]]
        return (total / weights[:, :k].sum(1, keepdims=True)).clip(0, 1).astype(np.float32)

    return probabilities


def _score(probabilities: Probabilities, truth: Truth) -> float:
    if truth.ndim == 1:
        return float((probabilities.argmax(1) == truth).mean())
    present = np.flatnonzero(truth.any(0))
    return float(np.mean([average_precision_score(truth[:, k], probabilities[:, k]) for k in present]))


def check_samples(samples: Samples, classes: int, what: str) -> None:
    """Refuses features and labels that do not match.

    Raises:
        UserError: Shapes do not match, a feature is not finite, there are no samples, or a label is out of range.
    """
    features, truth = samples.features, samples.truth
    check_features(features, features.shape[-1], what)
    if truth.shape not in ((len(features),), (len(features), classes)):
        raise UserError(
            f"{what} labels have shape {truth.shape} for {len(features)} samples and {classes} classes: give class "
            "numbers, or one column per class"
        )
    allowed = range(classes) if truth.ndim == 1 else (0, 1)
    if not np.isin(truth, list(allowed)).all():
        raise UserError(f"{what} labels must be from 0 to {allowed[-1]}")
    if truth.ndim == 2 and not truth.any():
        raise UserError(f"no {what} sample has any class: a probe needs positives")


def check_features(features: Features, width: int, what: str) -> None:
    """Refuses features that are not finite or have another width.

    Raises:
        UserError: They are not finite, have another width, or there are none.
    """
    if features.ndim != 2 or len(features) == 0 or features.shape[1] != width:
        raise UserError(
            f"{what} features have shape {features.shape}: give at least one row, and as many columns as in training"
        )
    if not np.isfinite(features).all():
        bad = np.flatnonzero(~np.isfinite(features).all(axis=1))
        raise UserError(f"{what} features of {len(bad)} samples are NaN or infinite, the first is sample {bad[0]}")
