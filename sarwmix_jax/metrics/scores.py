"""Scores of the predictions of a whole split: multi-label, single-label and flood.

The definitions are those of torchmetrics (MultilabelAveragePrecision, MultilabelF1Score, MulticlassF1Score, ...),
computed by scikit-learn. Scores are never averaged over batches: gather the predictions of every sample first.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Integer
from scipy.special import expit
from scipy.special import softmax as scipy_softmax
from sklearn.metrics import average_precision_score, confusion_matrix, precision_recall_fscore_support

from sarwmix_jax.errors import UserError

Probabilities = Float[np.ndarray, "sample class"]
Targets = Integer[np.ndarray, "sample class"]
Labels = Integer[np.ndarray, " sample"]
Thresholds = float | Sequence[float] | Float[np.ndarray, " class"]

THRESHOLD = 0.5
"""A class is predicted where its probability is greater than this."""


@dataclass(frozen=True)
class ClassScores:
    """Scores of one class.

    Attributes:
        name: Class name.
        support: Samples that have the class.
        predicted: Samples for which it is predicted.
        ap: Average precision; 0 without positives, None for single-label tasks.
        f1: F1; 0 where undefined, like precision and recall.
        precision: Share of the predicted samples that have the class.
        recall: Share of the samples with the class that are predicted.
        accuracy: Share of samples whose prediction is right.
        threshold: The class is predicted above this probability; None where the most probable class is predicted.
    """

    name: str
    support: int
    predicted: int
    ap: float | None
    f1: float
    precision: float
    recall: float
    accuracy: float
    threshold: float | None


@dataclass(frozen=True)
class Scores:
    """Scores of predictions on a split.

    Attributes:
        task: `multilabel`, `single_label` or `flood`.
        samples: Samples in the split.
        summary: Scores by name, such as `ap_macro`.
        per_class: Scores of every class, in output order.
        without_positives: Number of classes that no sample of the split has.
        confusion: Samples by true class (row) and predicted class; None for multi-label tasks.
    """

    task: str
    samples: int
    summary: dict[str, float]
    per_class: tuple[ClassScores, ...]
    without_positives: int
    confusion: tuple[tuple[int, ...], ...] | None


def sigmoid(logits: Float[np.ndarray, "sample class"]) -> Probabilities:
    """Independent probability of every class, float32.

    Raises:
        UserError: A logit is NaN or infinite.
    """
    return expit(_finite(logits, "logits").astype(np.float32))


def softmax(logits: Float[np.ndarray, "sample class"]) -> Probabilities:
    """Probabilities of classes that exclude each other, float32.

    Raises:
        UserError: A logit is NaN or infinite.
    """
    return scipy_softmax(_finite(logits, "logits").astype(np.float32), axis=1)


def multilabel_scores(
    probabilities: Probabilities,
    targets: Targets,
    names: Sequence[str],
    thresholds: Thresholds = THRESHOLD,
) -> Scores:
    """Macro and micro average precision, F1, precision, recall and accuracy, and the same per class.

    A class without positives counts as average precision 0 in the macro mean; `without_positives` counts such classes.

    Args:
        probabilities: Sigmoid outputs, float32.
        targets: 1 where the sample has the class, else 0.
        names: Class names in output order.
        thresholds: A class is predicted where its probability is greater; one for all classes or one per class.

    Raises:
        UserError: Shapes or names do not match, there are no samples, or a value is out of range.
    """
    check_multilabel(probabilities, targets, names)
    limits = class_thresholds(thresholds, probabilities.shape[1])
    predicted = probabilities > limits
    ap = np.array([_average_precision(targets[:, k], probabilities[:, k]) for k in range(len(names))])
    agree = (predicted == targets).mean(axis=0)
    summary = {"ap_macro": float(ap.mean()), "ap_micro": _average_precision(targets.ravel(), probabilities.ravel())}
    for average in ("macro", "micro"):
        summary |= _f1_precision_recall(targets, predicted, average)
    summary |= {"accuracy_macro": float(agree.mean()), "accuracy_micro": float((predicted == targets).mean())}
    precision, recall, f1, support = precision_recall_fscore_support(targets, predicted, average=None, zero_division=0)
    counts = predicted.sum(axis=0)
    columns = support.tolist(), counts.tolist(), ap.tolist(), f1.tolist(), precision.tolist(), recall.tolist()
    per_class = tuple(ClassScores(*row) for row in zip(names, *columns, agree.tolist(), limits.tolist(), strict=True))
    return Scores("multilabel", len(targets), summary, per_class, int((support == 0).sum()), None)


def single_label_scores(probabilities: Probabilities, labels: Labels, names: Sequence[str]) -> Scores:
    """Top-1 accuracy, macro and micro F1, precision and recall, and the confusion matrix.

    Macro means are over the classes that occur in labels or predictions, as in torchmetrics and scikit-learn.

    Args:
        probabilities: Softmax outputs, float32.
        labels: Class number of every sample.
        names: Class names in output order.

    Raises:
        UserError: Shapes or names do not match, there are no samples, or a value is out of range.
    """
    check_single_label(probabilities, labels, names)
    predicted = probabilities.argmax(axis=1)
    summary = {"accuracy": float((predicted == labels).mean())}
    for average in ("macro", "micro"):
        summary |= _f1_precision_recall(labels, predicted, average)
    return _exclusive("single_label", predicted, labels, names, summary)


def flood_scores(
    probabilities: Float[np.ndarray, "pair 2"], labels: Labels, names: Sequence[str] = ("no flood", "flood")
) -> Scores:
    """Accuracy in percent, and precision, recall and F1 of the class flood (zero where undefined).

    Args:
        probabilities: Softmax outputs of no flood and flood, float32.
        labels: 1 where the second date is flooded.
        names: Names of the two classes.

    Raises:
        UserError: Shapes do not match, there are no pairs, or a value is out of range.
    """
    check_single_label(probabilities, labels, names)
    if len(names) != 2:
        raise UserError(f"flood scores of {len(names)} classes: there are two, no flood and flood")
    predicted = probabilities.argmax(axis=1)
    precision, recall, f1, _ = precision_recall_fscore_support(labels, predicted, average="binary", zero_division=0)
    summary = {"accuracy_percent": 100 * float((predicted == labels).mean())}
    summary |= {"precision": float(precision), "recall": float(recall), "f1": float(f1)}
    return _exclusive("flood", predicted, labels, names, summary)


def _exclusive(task: str, predicted: Labels, labels: Labels, names: Sequence[str], summary: dict[str, float]) -> Scores:
    """Per-class part of tasks whose classes exclude each other."""
    order = np.arange(len(names))
    precision, recall, f1, support = precision_recall_fscore_support(
        labels, predicted, labels=order, average=None, zero_division=0
    )
    matrix = confusion_matrix(labels, predicted, labels=order)
    counts = matrix.sum(axis=0)
    agree = 1 - (counts + support - 2 * matrix.diagonal()) / len(labels)
    nothing = [None] * len(names)
    columns = support.tolist(), counts.tolist(), nothing, f1.tolist(), precision.tolist(), recall.tolist()
    per_class = tuple(ClassScores(*row) for row in zip(names, *columns, agree.tolist(), nothing, strict=True))
    confusion = tuple(tuple(int(count) for count in row) for row in matrix)
    return Scores(task, len(labels), summary, per_class, int((support == 0).sum()), confusion)


def _f1_precision_recall(truth: np.ndarray, predicted: np.ndarray, average: str) -> dict[str, float]:
    precision, recall, f1, _ = precision_recall_fscore_support(truth, predicted, average=average, zero_division=0)
    values = {"f1": f1, "precision": precision, "recall": recall}
    return {f"{name}_{average}": float(value) for name, value in values.items()}


def _average_precision(targets: np.ndarray, probabilities: np.ndarray) -> float:
    return float(average_precision_score(targets, probabilities)) if targets.any() else 0.0


def class_thresholds(thresholds: Thresholds, classes: int) -> Float[np.ndarray, " class"]:
    """One threshold per class, float64 (so that a comparison with float32 probabilities does not round).

    Raises:
        UserError: There is neither one threshold nor one per class, or one is not in [0, 1].
    """
    limits = np.asarray(thresholds, np.float64)
    if limits.shape not in ((), (classes,)):
        raise UserError(f"thresholds of shape {limits.shape} for {classes} classes: give one, or one for each class")
    if not ((limits >= 0) & (limits <= 1)).all():
        raise UserError(f"thresholds {limits.tolist()}: each must be in [0, 1]")
    return np.broadcast_to(limits, (classes,))


def check_multilabel(probabilities: Probabilities, targets: Targets, names: Sequence[str] | None = None) -> None:
    """Refuses multi-label predictions and targets that do not match.

    Raises:
        UserError: Shapes or names do not match, there are no samples, or a value is out of range.
    """
    _check_probabilities(probabilities, names)
    if targets.shape != probabilities.shape:
        raise UserError(f"targets have shape {targets.shape}, probabilities {probabilities.shape}: they must be equal")
    if not np.isin(targets, (0, 1)).all():
        raise UserError("targets must be 0 or 1: give one column per class, 1 where the sample has it")


def check_single_label(probabilities: Probabilities, labels: Labels, names: Sequence[str] | None = None) -> None:
    """Refuses single-label predictions and labels that do not match.

    Raises:
        UserError: Shapes or names do not match, there are no samples, or a value is out of range.
    """
    _check_probabilities(probabilities, names)
    if labels.shape != probabilities.shape[:1]:
        raise UserError(
            f"labels have shape {labels.shape}, probabilities {probabilities.shape}: give one class number per sample"
        )
    if not np.isin(labels, np.arange(probabilities.shape[1])).all():
        raise UserError(f"labels must be class numbers from 0 to {probabilities.shape[1] - 1}")
    total = probabilities.sum(axis=1, dtype=np.float64)
    if np.abs(total - 1).max() > 1e-3:
        raise UserError(
            f"probabilities of a sample add up to {total[np.abs(total - 1).argmax()]:.4g}, not 1: give softmax outputs"
        )


def _check_probabilities(probabilities: Probabilities, names: Sequence[str] | None) -> None:
    if probabilities.ndim != 2 or probabilities.shape[0] < 1 or probabilities.shape[1] < 2:
        raise UserError(
            f"probabilities have shape {probabilities.shape}: give one row per sample, at least one, "
            "and one column per class, at least two"
        )
    if names is not None and len(names) != probabilities.shape[1]:
        raise UserError(f"{len(names)} class names for {probabilities.shape[1]} columns of probabilities")
    _finite(probabilities, "probabilities")
    if probabilities.min() < 0 or probabilities.max() > 1:
        raise UserError(
            f"probabilities from {probabilities.min():.4g} to {probabilities.max():.4g}: "
            "they must be in [0, 1]; apply sigmoid or softmax to logits first"
        )


def _finite(values: np.ndarray, what: str) -> np.ndarray:
    bad = ~np.isfinite(values)
    if bad.any():
        first = np.argwhere(bad)[0].tolist()
        raise UserError(f"{bad.sum()} of {bad.size} {what} are NaN or infinite, the first at {first}: check the model")
    return values
