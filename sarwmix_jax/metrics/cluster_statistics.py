"""Scores for many weightings of the clusters at once.

A bootstrap over clusters (acquisitions or sequences) weights each sample by how often its cluster was drawn.
F1, precision, recall and accuracy of all weightings follow from the counts per cluster by one matrix product. Average
precision needs one sort, then the weighted number of samples above every positive: a sparse matrix (segments between
positives x clusters) times the weights, summed up from the top.
"""

from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import numpy as np
from jaxtyping import Float, Int, Shaped
from scipy.sparse import csr_array

from sarwmix_jax.errors import UserError
from sarwmix_jax.metrics.scores import (
    THRESHOLD,
    Labels,
    Probabilities,
    Targets,
    Thresholds,
    check_multilabel,
    check_single_label,
    class_thresholds,
)

Weights = Float[np.ndarray, "weighting cluster"]
Clusters = Shaped[np.ndarray, " sample"]
Values = dict[str, Float[np.ndarray, " weighting"]]
Estimates = dict[str, Float[np.ndarray, " 1"]]

CHUNK_VALUES = 2**22
"""Numbers in each of the four arrays that average precision needs at a time: 128 MB in all."""


@runtime_checkable
class ClusterStatistic(Protocol):
    """Scores of one set of predictions as a function of the clusters' weights."""

    @property
    def clusters(self) -> Int[np.ndarray, " sample"]:
        """Cluster number of every sample."""

    def __call__(self, weights: Weights) -> Values:
        """Scores by name, one value per weighting; with all weights 1 they equal those of `metrics.scores`."""


@dataclass(frozen=True)
class Counts:
    """Sums per cluster and class.

    Attributes:
        hits: Samples that have the class and are predicted to.
        predicted: Samples predicted to have it.
        support: Samples that have it.
        samples: Samples in the cluster.
    """

    hits: Float[np.ndarray, "cluster class"]
    predicted: Float[np.ndarray, "cluster class"]
    support: Float[np.ndarray, "cluster class"]
    samples: Float[np.ndarray, " cluster"]

    def weighted(self, weights: Weights) -> "Counts":
        """Sums per weighting instead of per cluster."""
        return Counts(weights @ self.hits, weights @ self.predicted, weights @ self.support, weights @ self.samples)

    def over_classes(self) -> "Counts":
        """Sums over all classes, as those of a single class."""
        hits, predicted, support = (part.sum(1, keepdims=True) for part in (self.hits, self.predicted, self.support))
        return Counts(hits, predicted, support, self.samples)

    def scores(self) -> dict[str, Float[np.ndarray, "weighting class"]]:
        """F1, precision and recall; zero where undefined."""
        return {
            "f1": _ratio(2 * self.hits, self.predicted + self.support),
            "precision": _ratio(self.hits, self.predicted),
            "recall": _ratio(self.hits, self.support),
        }


class MultilabelStatistic:
    """Macro and micro average precision, F1, precision, recall and accuracy."""

    def __init__(
        self,
        probabilities: Probabilities,
        targets: Targets,
        clusters: Clusters,
        thresholds: Thresholds = THRESHOLD,
        *,
        average_precision: bool = True,
    ):
        """Sorts and sums once.

        Args:
            probabilities: Sigmoid outputs.
            targets: 1 where the sample has the class, else 0.
            clusters: Name or number of every sample's cluster.
            thresholds: As in `metrics.multilabel_scores`.
            average_precision: Whether to compute it, by far the slowest part.

        Raises:
            UserError: Shapes do not match, there are no samples, or a value is out of range.
        """
        check_multilabel(probabilities, targets)
        self.clusters = cluster_numbers(clusters, len(targets))
        predicted = probabilities > class_thresholds(thresholds, probabilities.shape[1])
        self._counts = _count(targets == 1, predicted, self.clusters)
        self._classes = []
        if average_precision:
            self._classes = [
                _Ranking(probabilities[:, k], targets[:, k], self.clusters) for k in range(targets.shape[1])
            ]
            repeated = np.repeat(self.clusters, targets.shape[1])
            self._pairs = _Ranking(probabilities.ravel(), targets.ravel(), repeated)
        ones = np.ones((1, self._counts.samples.size))
        self._whole = self._per_class(self._counts.weighted(ones), ones)

    def __call__(self, weights: Weights) -> Values:
        """Scores by name, one value per weighting."""
        counts = self._counts.weighted(weights)
        kept = _keep_absent(self._per_class(counts, weights), self._whole, counts, self._counts)
        values = {f"{name}_macro": value.mean(1) for name, value in kept.items()}
        values |= {f"{name}_micro": value[:, 0] for name, value in counts.over_classes().scores().items()}
        wrong = counts.predicted + counts.support - 2 * counts.hits
        values["accuracy_macro"] = values["accuracy_micro"] = 1 - wrong.mean(1) / counts.samples
        if self._classes:
            values["ap_micro"] = self._pairs(weights)
        return values

    def _per_class(self, counts: Counts, weights: Weights) -> dict[str, Float[np.ndarray, "weighting class"]]:
        scores = counts.scores()
        if self._classes:
            scores["ap"] = np.stack([ranking(weights) for ranking in self._classes], 1)
        return scores


class SingleLabelStatistic:
    """Top-1 accuracy, and macro and micro F1, precision and recall."""

    def __init__(self, probabilities: Probabilities, labels: Labels, clusters: Clusters):
        """Sums once.

        Args:
            probabilities: Softmax outputs.
            labels: Class number of every sample.
            clusters: Name or number of every sample's cluster.

        Raises:
            UserError: Shapes do not match, there are no samples, or a value is out of range.
        """
        check_single_label(probabilities, labels)
        self.clusters = cluster_numbers(clusters, len(labels))
        order = np.arange(probabilities.shape[1])
        self._counts = _count(labels[:, None] == order, probabilities.argmax(1)[:, None] == order, self.clusters)
        self._whole = self._counts.weighted(np.ones((1, self._counts.samples.size)))

    def __call__(self, weights: Weights) -> Values:
        """Scores by name, one value per weighting."""
        counts = self._counts.weighted(weights)
        occurs = (self._whole.predicted + self._whole.support)[0] > 0
        kept = _keep_absent(counts.scores(), self._whole.scores(), counts, self._counts)
        values = {f"{name}_macro": value[:, occurs].mean(1) for name, value in kept.items()}
        values |= {f"{name}_micro": value[:, 0] for name, value in counts.over_classes().scores().items()}
        return values | {"accuracy": values["f1_micro"]}


class FloodStatistic(SingleLabelStatistic):
    """Accuracy in percent, and precision, recall and F1 of the class flood."""

    def __call__(self, weights: Weights) -> Values:
        """Scores by name, one value per weighting."""
        counts = self._counts.weighted(weights)
        values = {name: value[:, 1] for name, value in counts.scores().items()}
        return {"accuracy_percent": 100 * counts.hits.sum(1) / counts.samples} | values


class _Ranking:
    """Average precision of one class (or of all sample-class pairs) as a function of the clusters' weights."""

    def __init__(self, scores: np.ndarray, targets: np.ndarray, clusters: Int[np.ndarray, " sample"]):
        order = np.argsort(-scores, kind="stable")
        sorted_scores, positive, cluster = scores[order], targets[order] == 1, clusters[order]
        tie = np.concatenate(([0], np.cumsum(np.diff(sorted_scores) != 0)))
        ends = np.unique(tie[positive])  # precision is needed only at scores of positives
        segment = np.searchsorted(ends, tie)
        inside = segment < len(ends)
        shape = (len(ends), int(clusters.max()) + 1)
        self._all = _tally(segment[inside], cluster[inside], shape)
        self._positive = _tally(segment[positive], cluster[positive], shape)

    def __call__(self, weights: Weights) -> Float[np.ndarray, " weighting"]:
        segments = self._all.shape[0]
        if segments == 0:
            return np.zeros(len(weights))
        size = max(1, CHUNK_VALUES // segments)
        return np.concatenate([self._chunk(weights[first : first + size]) for first in range(0, len(weights), size)])

    def _chunk(self, weights: Weights) -> Float[np.ndarray, " weighting"]:
        transposed = np.ascontiguousarray(weights.T)
        above = np.cumsum(self._all @ transposed, axis=0)
        gained = self._positive @ transposed
        found = np.cumsum(gained, axis=0)
        return _ratio((gained * _ratio(found, above)).sum(0), found[-1])


def cluster_numbers(clusters: Clusters, samples: int) -> Int[np.ndarray, " sample"]:
    """Number of every sample's cluster, from 0.

    Raises:
        UserError: There is not exactly one cluster per sample.
    """
    if clusters.shape != (samples,):
        raise UserError(
            f"clusters have shape {clusters.shape}: give one acquisition or sequence per sample ({samples})"
        )
    return np.unique(clusters, return_inverse=True)[1]


def _tally(rows: np.ndarray, columns: np.ndarray, shape: tuple[int, int]) -> csr_array:
    return csr_array((np.ones(len(rows)), (rows, columns)), shape=shape)


def _count(truth: np.ndarray, predicted: np.ndarray, clusters: Int[np.ndarray, " sample"]) -> Counts:
    membership = _tally(clusters, np.arange(len(clusters)), (int(clusters.max()) + 1, len(clusters)))
    hits, chosen, support = (membership @ part.astype(np.float64) for part in (truth & predicted, predicted, truth))
    return Counts(hits, chosen, support, np.bincount(clusters).astype(np.float64))


def _keep_absent(scores: dict, whole: dict, counts: Counts, of_clusters: Counts) -> dict:
    """Gives a class without positives in a weighting its score on the whole split.

    Its score of 0 there would mean that the class was not drawn, not that it is predicted badly.
    """
    absent = (counts.support == 0) & (of_clusters.support.sum(0) > 0)
    return {name: np.where(absent, whole[name], value) for name, value in scores.items()}


def _ratio(top: np.ndarray, bottom: np.ndarray) -> np.ndarray:
    return np.divide(top, bottom, out=np.zeros_like(top), where=bottom > 0)
