"""Scores, clusters for intervals, and baselines, for each task."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from sarwmix_jax.data.subsets import Subset
from sarwmix_jax.evaluation import baselines, probes
from sarwmix_jax.evaluation.predict import read_in_chunks
from sarwmix_jax.metrics.cluster_statistics import FloodStatistic, MultilabelStatistic, SingleLabelStatistic
from sarwmix_jax.metrics.scores import Scores, flood_scores, multilabel_scores, single_label_scores

LINEAR_SAMPLES = 20_000
"""Largest number of training samples of the linear baseline; they are evenly spaced."""


def unit_of(task: str, clusters: np.ndarray) -> str:
    """Number and kind of the clusters that intervals resample, as text."""
    return f"{len(np.unique(clusters)):,} {'sequences' if task == 'flood' else 'acquisitions'}"


def scores_of(task: str, guess: np.ndarray, true: np.ndarray, classes: Sequence[str], thresholds: Any) -> Scores:
    """Scores of a task."""
    if task == "multilabel":
        return multilabel_scores(guess, true, classes, thresholds)
    return (flood_scores if task == "flood" else single_label_scores)(guess, true, classes)


def statistic_of(task: str, guess: np.ndarray, true: np.ndarray, clusters: np.ndarray, thresholds: Any) -> Any:
    """The statistic from which intervals of a task's scores are computed."""
    if task == "multilabel":
        return MultilabelStatistic(guess, true, clusters, thresholds)
    return (FloodStatistic if task == "flood" else SingleLabelStatistic)(guess, true, clusters)


def baseline_predictions(task: str, fit_source: Any, source: Any, classes: int) -> dict[str, np.ndarray]:
    """Probabilities of the test samples by baselines without learned features."""
    if task == "flood":
        train, test = (changes_of(each) for each in (fit_source, source))
        change = baselines.ChangeThreshold(*train)
        size = f"above {change.threshold_db:.2f} dB" if np.isfinite(change.threshold_db) else "without a threshold"
        return {
            "majority class": baselines.majority_class(train[1], classes, len(source)),
            f"mean |difference| {size}": change(test[0]),
        }
    rows = np.unique(np.linspace(0, len(fit_source) - 1, min(LINEAR_SAMPLES, len(fit_source))).astype(int))
    train_samples = image_statistics_of(Subset(fit_source, rows), task)
    return {
        "class prevalence": baselines.prevalence(train_samples.truth, classes, len(source)),
        "linear model on eight VV/VH statistics": baselines.linear_baseline(
            train_samples, image_statistics_of(source, task).features, classes
        ),
    }


def image_statistics_of(source: Any, task: str) -> probes.Samples:
    """Eight plain statistics of every image, with its labels."""
    columns = ["image", "labels", *(["valid_pixels"] if source.contract.has_valid_pixels else [])]
    parts = [
        (
            baselines.image_statistics(batch["image"].astype(np.float32), batch.get("valid_pixels")),
            batch["labels"],
        )
        for batch in read_in_chunks(source, columns, "reading image statistics")
    ]
    labels = np.concatenate([labels for _, labels in parts])
    if task == "single_label":
        labels = labels.argmax(axis=1)
    return probes.Samples(np.concatenate([features for features, _ in parts]), labels)


def changes_of(source: Any) -> tuple[np.ndarray, np.ndarray]:
    """Mean |difference| in dB of every pair, with its label."""
    columns = ["image", "label", *(["valid_pixels"] if source.contract.has_valid_pixels else [])]
    changes, labels = [], []
    for batch in read_in_chunks(source, columns, "reading mean changes", chunk=16):
        dates = batch.get("valid_pixels")
        valid = None if dates is None else dates[:, 0] & dates[:, 1]
        changes.append(baselines.mean_change_db(batch["image"].astype(np.float32), valid))
        labels.append(batch["label"])
    return np.concatenate(changes), np.concatenate(labels)
