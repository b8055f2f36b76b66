"""Calibration of probabilities: calibration error, temperature, and thresholds per class.

Temperature and thresholds are fitted on the validation split and then applied to the test split; scores on the split
that they were fitted on are too high.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int
from scipy.optimize import minimize_scalar
from scipy.special import log_softmax
from sklearn.metrics import precision_recall_curve

from sarwmix_jax.errors import UserError
from sarwmix_jax.metrics.scores import (
    THRESHOLD,
    Labels,
    Probabilities,
    Targets,
    check_multilabel,
    check_single_label,
    sigmoid,
    softmax,
)

BINS = 15
TEMPERATURES = (0.05, 20.0)
"""Range in which a temperature is searched; finetuned networks need 1 to 5."""

Logits = Float[np.ndarray, "sample class"]


@dataclass(frozen=True)
class Reliability:
    """Predicted probability against observed frequency, in bins of equal width.

    Attributes:
        edges: Edges of the bins, from 0 to 1; a bin includes its lower edge.
        counts: Predictions in every bin.
        stated: Mean predicted probability of every bin, NaN where the bin is empty.
        observed: Share of the bin's predictions that are true, NaN where the bin is empty.
        error: Expected calibration error: mean of |observed - stated| over all predictions.
    """

    edges: Float[np.ndarray, " edge"]
    counts: Int[np.ndarray, " bin"]
    stated: Float[np.ndarray, " bin"]
    observed: Float[np.ndarray, " bin"]
    error: float


@dataclass(frozen=True)
class Temperature:
    """A temperature by which logits are divided.

    Attributes:
        value: The temperature; above 1 it lowers the confidence.
        loss_before: Cross entropy on the fitted samples at temperature 1.
        loss_after: The same at `value`.
    """

    value: float
    loss_before: float
    loss_after: float


def multilabel_reliability(probabilities: Probabilities, targets: Targets, bins: int = BINS) -> Reliability:
    """Reliability over all (sample, class) pairs.

    Raises:
        UserError: Shapes do not match, there are no samples, a value is out of range, or `bins` is below 1.
    """
    check_multilabel(probabilities, targets)
    return _reliability(probabilities.ravel(), targets.ravel(), bins)


def top_class_reliability(probabilities: Probabilities, labels: Labels, bins: int = BINS) -> Reliability:
    """Reliability of the most probable class of every sample.

    Raises:
        UserError: Shapes do not match, there are no samples, a value is out of range, or `bins` is below 1.
    """
    check_single_label(probabilities, labels)
    return _reliability(probabilities.max(axis=1), probabilities.argmax(axis=1) == labels, bins)


def _reliability(probabilities: np.ndarray, hits: np.ndarray, bins: int) -> Reliability:
    if bins < 1:
        raise UserError(f"{bins} bins: use at least 1")
    values = probabilities.astype(np.float64)
    place = np.minimum((values * bins).astype(int), bins - 1)
    counts = np.bincount(place, minlength=bins)
    sums = (np.bincount(place, weights=weights, minlength=bins) for weights in (values, hits.astype(np.float64)))
    empty = np.where(counts == 0, np.nan, counts)
    stated, observed = (total / empty for total in sums)
    error = float(np.nansum(np.abs(observed - stated) * counts) / counts.sum())
    return Reliability(np.linspace(0, 1, bins + 1), counts, stated, observed, error)


def multilabel_temperature(logits: Logits, targets: Targets) -> Temperature:
    """Temperature with the lowest binary cross entropy over all (sample, class) pairs.

    Args:
        logits: Outputs of the classifier on validation.
        targets: 1 where the sample has the class, else 0.

    Raises:
        UserError: Shapes do not match, a logit is not finite, or the best temperature is not within
            `TEMPERATURES`.
    """
    check_multilabel(sigmoid(logits), targets)
    exact, signs = logits.astype(np.float64), 1 - 2.0 * targets
    return _fit(lambda temperature: float(np.logaddexp(0, signs * exact / temperature).mean()))


def single_label_temperature(logits: Logits, labels: Labels) -> Temperature:
    """Temperature with the lowest cross entropy of samples with one class each, such as flood pairs.

    Args:
        logits: Outputs of the classifier on validation.
        labels: Class number of every sample.

    Raises:
        UserError: Shapes do not match, a logit is not finite, or the best temperature is not within
            `TEMPERATURES`.
    """
    check_single_label(softmax(logits), labels)
    exact, rows = logits.astype(np.float64), np.arange(len(labels))
    return _fit(lambda temperature: float(-log_softmax(exact / temperature, axis=1)[rows, labels].mean()))


def _fit(loss: Callable[[float], float]) -> Temperature:
    low, high = np.log(TEMPERATURES)
    found = minimize_scalar(
        lambda log: loss(np.exp(log)), bounds=(low, high), method="bounded", options={"xatol": 1e-6}
    )
    if min(found.x - low, high - found.x) < 1e-3:
        raise UserError(
            f"the best temperature is not within {TEMPERATURES[0]:g} to {TEMPERATURES[1]:g}: the logits separate the "
            "validation samples perfectly or not at all; use more samples, or no temperature"
        )
    return Temperature(float(np.exp(found.x)), loss(1.0), float(found.fun))


def best_thresholds(probabilities: Probabilities, targets: Targets) -> Float[np.ndarray, " class"]:
    """Threshold per class with the highest F1: halfway between the last predicted probability and the next lower one.

    A class without positives, or whose probabilities are all 0, keeps 0.5.

    Args:
        probabilities: Sigmoid outputs on validation.
        targets: 1 where the sample has the class, else 0.

    Raises:
        UserError: Shapes do not match, there are no samples, or a value is out of range.
    """
    check_multilabel(probabilities, targets)
    found = np.full(probabilities.shape[1], THRESHOLD)
    for number in np.flatnonzero(targets.any(axis=0)):
        precision, recall, scores = precision_recall_curve(targets[:, number], probabilities[:, number])
        total = precision + recall
        f1 = np.divide(2 * precision * recall, total, out=np.zeros_like(total), where=total > 0)[:-1]
        f1[scores == 0] = -1  # nothing is below 0, so these cannot be predicted
        best = int(f1.argmax())
        below = float(scores[best - 1]) if best else 0.0
        if scores[best] > 0:
            found[number] = (float(scores[best]) + below) / 2
    return found
