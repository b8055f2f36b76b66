"""The demo's second half: few labels, found by the pretrained encoder and by one from scratch."""

import dataclasses
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from sarwmix_jax.checkpoints.loading import Loaded, drawn_tensors, load_parameters
from sarwmix_jax.data.sources import open_records
from sarwmix_jax.evaluation.features import encode_with, labels_of
from sarwmix_jax.evaluation.predict import clusters_of, load_candidate, predict
from sarwmix_jax.evaluation.probes import Samples, logistic_probe
from sarwmix_jax.evaluation.scoring import baseline_predictions, statistic_of
from sarwmix_jax.metrics.intervals import Interval, difference_intervals, score_intervals
from sarwmix_jax.models.state import flatten_names, unflatten_names
from sarwmix_jax.processes import Terminated
from sarwmix_jax.settings.config import resolve
from sarwmix_jax.settings.recipes import load_config
from sarwmix_jax.settings.sections import FinetuningSettings, PretrainingSettings
from sarwmix_jax.training.loop import Progress, train

LABELLED = 128
"""Training scenes whose labels are used."""
SCORE = "ap_micro"
HEAD, FINETUNED, FROM_SCRATCH = "head", "finetuned", "from_scratch"
"""Folders of the finetuning runs."""
HEAD_RATE = 10.0
"""Learning rate of a head alone, relative to that of the whole model."""
PAIRS = {
    "probe of frozen features": ("pretrained encoder, probed", "random encoder, probed"),
    "finetuning": ("pretrained encoder, finetuned", "the same from scratch"),
}
"""What is compared with what."""


@dataclass(frozen=True)
class FewLabels:
    """What few labels gave.

    Attributes:
        labelled: Scenes with labels to train on.
        scored: Scenes to score.
        scores: Micro average precision with its interval over scenes, by what predicted.
        differences: Of the pairs in `PAIRS`, over the same resamples.
    """

    labelled: int
    scored: int
    scores: Mapping[str, Interval]
    differences: Mapping[str, Interval]

    @property
    def figures(self) -> dict[str, Any]:
        """For JSON."""
        return {"score": SCORE} | asdict(self)

    @property
    def lines(self) -> list[str]:
        """As the demo prints it."""
        head = f"land cover from {self.labelled} labelled scenes, {self.scored} others scored"
        named = {f"  {name}:": interval for name, interval in self.scores.items()}
        named |= {f"  gain by pretraining, {name}:": interval for name, interval in self.differences.items()}
        return [f"{head}: micro AP [95 % interval]", *(f"{name:48} {_text(value)}" for name, value in named.items())]


def compare_labels(settings: PretrainingSettings, workdir: Path) -> FewLabels:
    """Probes and finetunes the demo's encoder with few labels, beside one from random values and a plain baseline.

    The pretrained encoder is finetuned in two steps, the head alone and then everything, so that the first steps of an
    untrained head cannot undo the pretraining. From scratch there is nothing to preserve, and one step trains all.

    Args:
        settings: Those of the demo's pretraining.
        workdir: Its folder, which takes the finetuning runs too.
    """
    folder = settings.data.records[0]
    train_split = f"train[:{min(LABELLED, len(open_records(folder, 'train')))}]"
    sources = [open_records(folder, split) for split in (train_split, "validation", "test")]
    truths = [labels_of(source, "multilabel") for source in sources]
    pretrained = load_parameters(workdir)
    encoders = {"pretrained": pretrained, "random": _from_random(pretrained)}
    guesses = {f"{name} encoder, probed": _probed(loaded, sources, truths) for name, loaded in encoders.items()}
    check_finished(train(_finetuning(settings, train_split, workdir, head_alone=True), workdir / HEAD))
    for name, folder_name, start in zip(
        PAIRS["finetuning"], (FINETUNED, FROM_SCRATCH), (workdir / HEAD, None), strict=True
    ):
        check_finished(train(_finetuning(settings, train_split, start), workdir / folder_name))
        candidate = load_candidate(str(workdir / folder_name), name, best=None, patch_op=None, batch=32)
        guesses[name] = predict(candidate, sources[2], name).probabilities
    guesses |= baseline_predictions("multilabel", sources[0], sources[2], truths[2].shape[1])
    clusters = clusters_of(sources[2])
    statistics = {name: statistic_of("multilabel", guess, truths[2], clusters, 0.5) for name, guess in guesses.items()}
    return FewLabels(
        len(sources[0]),
        len(sources[2]),
        {name: score_intervals(statistic)[SCORE] for name, statistic in statistics.items()},
        {name: difference_intervals(statistics[one], statistics[other])[SCORE] for name, (one, other) in PAIRS.items()},
    )


def check_finished(progress: Progress) -> Progress:
    """A run that no signal stopped.

    Raises:
        KeyboardInterrupt: Ctrl-C stopped it.
        Terminated: Another signal stopped it.
    """
    if progress.interrupted == "SIGINT":
        raise KeyboardInterrupt
    if progress.interrupted:
        raise Terminated(progress.interrupted)
    return progress


def _from_random(pretrained: Loaded) -> Loaded:
    """The same model before any training."""
    drawn = drawn_tensors(pretrained.kind, pretrained.settings, None)
    trees = ({name: drawn[name] for name in flatten_names(tree)} for tree in (pretrained.params, pretrained.fixed))
    params, fixed = map(unflatten_names, trees)
    return dataclasses.replace(pretrained, params=params, fixed=fixed)


def _probed(loaded: Loaded, sources: list[Any], truths: list[np.ndarray]) -> np.ndarray:
    """Probabilities of the scenes to score by logistic regression on frozen features."""
    encode = encode_with(loaded)
    features = [encode(source, "encoding") for source in sources]
    samples, validation = (Samples(*pair) for pair in zip(features[:2], truths[:2], strict=True))
    return logistic_probe(samples, validation, features[2], truths[2].shape[1]).probabilities


def _finetuning(
    settings: PretrainingSettings, split: str, start: Path | None, *, head_alone: bool = False
) -> FinetuningSettings:
    """Settings of a short finetuning run: the same from pretraining and from scratch, no validation."""
    config = load_config("finetune_demo")
    for name, value in vars(settings.model).items():
        config.model[name] = value
    config.init_from = None if start is None else str(start)
    config.seed = settings.seed
    config.data.records, config.data.split = settings.data.records, split
    config.data.statistics = settings.data.statistics
    config.validation.split = None
    config.head.frozen_encoder = head_alone
    config.optimizer.base_lr *= HEAD_RATE if head_alone else 1.0
    return resolve(config, FinetuningSettings)


def _text(interval: Interval) -> str:
    if interval.low is None:
        return f"{interval.estimate:.3f} (no interval: {interval.reason})"
    return f"{interval.estimate:.3f} [{interval.low:.3f}, {interval.high:.3f}]"
