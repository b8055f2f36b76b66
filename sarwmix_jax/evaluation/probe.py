"""Quality of frozen features: logistic regression and nearest neighbours, compared with plain baselines."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from sarwmix_jax.checkpoints.loading import load_parameters
from sarwmix_jax.data.sources import check_contract, open_records
from sarwmix_jax.data.subsets import Subset, label_fraction
from sarwmix_jax.evaluation import probes
from sarwmix_jax.evaluation.features import encode_with, labels_of
from sarwmix_jax.evaluation.predict import clusters_of
from sarwmix_jax.evaluation.reconstruction import short_names
from sarwmix_jax.evaluation.results import Result, markdown_table, result_json, write_files
from sarwmix_jax.evaluation.scoring import baseline_predictions, scores_of, statistic_of, unit_of
from sarwmix_jax.metrics.intervals import REPLICATES, score_intervals


def probe(
    checkpoints: Sequence[str],
    records: str,
    out: Path,
    *,
    task: str = "multilabel",
    splits: tuple[str, str, str] = ("train", "validation", "test"),
    fraction: float = 1.0,
    seed: int = 0,
    replicates: int = REPLICATES,
) -> str:
    """Probe the frozen features of several checkpoints; returns the Markdown table.

    Args:
        checkpoints: Runs, checkpoints or converted folders, of any kind.
        records: Folder of a record set with labels.
        out: Folder for `probe.md` and one JSON file per result.
        task: `multilabel` or `single_label`.
        splits: Splits to fit on, to choose C and the number of neighbours on, and to score.
        fraction: Share of the training labels that is used.
        seed: Seed of this share and of the intervals.
        replicates: Bootstrap replicates of the intervals.

    Raises:
        UserError: A checkpoint or the records cannot be used.
    """
    sources: list[Any] = [open_records(records, split) for split in splits]
    check_contract(sources[0])
    if fraction < 1:
        sources[0] = Subset(sources[0], label_fraction(labels_of(sources[0], task), fraction, seed))
    truths = [labels_of(source, task) for source in sources]
    write_files(out, {})  # refuses a folder that cannot be written to, before anything takes time
    classes, clusters = sources[0].contract.classes, clusters_of(sources[2])
    note = f"{len(sources[0]):,} training samples of {splits[0]}, settings chosen on {splits[1]}"
    results = []
    for name, guess in all_guesses(checkpoints, sources, truths, splits, task).items():
        statistic = statistic_of(task, guess, truths[2], clusters, 0.5)
        intervals = score_intervals(statistic, replicates=replicates, seed=seed)
        scores, unit = scores_of(task, guess, truths[2], classes, 0.5), unit_of(task, clusters)
        results.append(Result(name, sources[2].contract.name, splits[2], scores, intervals, unit, notes=[note]))
    table = markdown_table(results)
    texts = {f"{_file(result.name)}.json": result_json(result) for result in results}
    write_files(out, {"probe.md": table, **texts})
    return table


def all_guesses(
    checkpoints: Sequence[str], sources: Sequence[Any], truths: Sequence[np.ndarray], splits: Sequence[str], task: str
) -> dict[str, np.ndarray]:
    """Probabilities of the scored samples, by the name of each probe of every checkpoint and of each baseline."""
    classes = len(sources[0].contract.classes)
    guesses: dict[str, np.ndarray] = {}
    for name, path in zip(short_names(checkpoints), checkpoints, strict=True):
        encode = encode_with(load_parameters(path))
        features = [
            encode(source, f"encoding {split} with {name}") for source, split in zip(sources, splits, strict=True)
        ]
        train, validation = (probes.Samples(f, t) for f, t in zip(features[:2], truths[:2], strict=True))
        guesses |= probed(name, train, validation, features[2], classes)
    return guesses | baseline_predictions(task, sources[0], sources[2], classes)


def probed(
    name: str, train: probes.Samples, validation: probes.Samples, features: Any, classes: int
) -> dict[str, np.ndarray]:
    """Probabilities of the test samples by both probes; a probe's name includes its chosen setting."""
    logistic = probes.logistic_probe(train, validation, features, classes)
    neighbours = probes.neighbour_probe(train, validation, features, classes)
    return {
        f"{name}, logistic regression (C {logistic.chosen:g})": logistic.probabilities,
        f"{name}, {neighbours.chosen:.0f} nearest neighbours": neighbours.probabilities,
    }


def _file(name: str) -> str:
    return "".join(letter if letter.isalnum() else "_" for letter in name)
