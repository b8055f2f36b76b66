"""The work of a study's steps: each trains or measures, and gives its scores as rows."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from flax import nnx

from sarwmix_jax.checkpoints.loading import Loaded, load_parameters
from sarwmix_jax.checkpoints.store import describe
from sarwmix_jax.data.sources import open_records
from sarwmix_jax.data.subsets import Subset, label_fraction
from sarwmix_jax.errors import UserError
from sarwmix_jax.evaluation.features import encode_with, labels_of
from sarwmix_jax.evaluation.predict import load_candidate, predict
from sarwmix_jax.evaluation.probes import Samples, logistic_probe
from sarwmix_jax.evaluation.scoring import baseline_predictions, scores_of
from sarwmix_jax.models.state import split_model, unstack_blocks
from sarwmix_jax.preparation.synthetic import write_synthetic_records
from sarwmix_jax.settings.sections import RunSettings
from sarwmix_jax.settings.study import StudySettings
from sarwmix_jax.studies.plan import Step, finetuning_stages, pretraining_settings, records_of, start_of
from sarwmix_jax.training.loop import train
from sarwmix_jax.training.run import set_up

Row = dict[str, Any]
"""One score: what it measures (`measured`), `score`, `value`, and where it stands in the grid."""
SCENE_SEED = 0
"""Seed of the synthetic scenes: all seeds of a study share them."""


class Stopped(Exception):
    """A signal stopped a run, which is saved; the argument is the name of the signal."""


def do_step(study: StudySettings, out: Path, step: Step) -> list[Row]:
    """Do a step, or go on with it where it was stopped; returns its rows.

    Raises:
        UserError: A setting, the records or a checkpoint cannot be used.
        Stopped: A signal stopped its run.
    """
    work: dict[str, Callable[[StudySettings, Path, Step], Iterator[Row]]] = {
        "scenes": write_scenes,
        "pretrain": pretrain,
        "reconstruct": reconstruct,
        "finetune": finetune,
        "probe": probe,
        "baseline": baseline,
    }
    place = {"initialisation": step.start, "recipe": step.recipe, "seed": step.seed, "fraction": step.fraction}
    return [place | row for row in work[step.kind](study, out, step)]


def write_scenes(study: StudySettings, out: Path, step: Step) -> Iterator[Row]:
    """Write the synthetic scenes; an unfinished set is continued."""
    counts = dict(zip(("train", "validation", "test"), study.scenes, strict=True))
    folder = records_of(study, out)
    write_synthetic_records(folder, **counts, seed=SCENE_SEED, landscape=study.landscape, workers=2)
    yield from ()


def pretrain(study: StudySettings, out: Path, step: Step) -> Iterator[Row]:
    """Pretrain one variant with one seed."""
    assert step.start is not None and step.seed is not None
    run(pretraining_settings(study, out, step.start, step.seed), out / step.name)
    yield from ()


def run(settings: RunSettings, workdir: Path) -> None:
    """Run to the end, or go on with a run.

    Raises:
        UserError: Settings or records cannot be used, or the loss is not finite.
        Stopped: A signal stopped the run, which is saved.
    """
    progress = train(settings, workdir)
    if progress.interrupted:
        raise Stopped(progress.interrupted)


def finetune(study: StudySettings, out: Path, step: Step) -> Iterator[Row]:
    """Finetune, and score the result on validation and test."""
    assert step.fraction is not None and step.seed is not None
    task = finetuning_stages(study, out, step)[0].task
    samples = len(labelled(study, out, task, step.fraction, step.seed))
    stages = finetuning_stages(study, out, step, samples)
    for number, settings in enumerate(stages):
        workdir = out / step.name / f"stage{number}"
        run(settings, workdir)
    candidate = load_candidate(str(workdir), step.name, best=study.best, patch_op=None, batch=32)
    for split in (study.validation, study.test):
        source = open_records(records_of(study, out), split)
        found = predict(candidate, source, f"predicting {split}")
        row = {"measured": "finetuned", "split": split, "samples": samples}
        yield from scored(row, task, found.probabilities, found.truth, source)


def scored(row: Row, task: str, guess: np.ndarray, truth: np.ndarray, source: Any) -> Iterator[Row]:
    """The row with each score of predictions."""
    for score, value in scores_of(task, guess, truth, source.contract.classes, 0.5).summary.items():
        yield row | {"score": score, "value": value}


def labelled(study: StudySettings, out: Path, task: str, fraction: float, seed: int) -> Any:
    """Labelled training samples of a fraction; the same as in a finetuning run.

    Raises:
        UserError: The study's task is not one of single images.
    """
    if task == "flood":
        raise UserError("a study's finetuning is multilabel or single_label; pairs of dates are not supported")
    source = open_records(records_of(study, out), study.train)
    if fraction == 1:
        return source
    # classes as stored, one column each, as in a finetuning run
    return Subset(source, label_fraction(labels_of(source, "multilabel"), fraction, seed))


def probe(study: StudySettings, out: Path, step: Step) -> Iterator[Row]:
    """Score frozen features by logistic regression on every fraction of the labels."""
    assert step.seed is not None
    settings = finetuning_stages(study, out, step)[0]
    start, task, folder = settings.init_from, settings.task, records_of(study, out)
    encode = encode_with(random_encoder(settings) if start is None else load_parameters(start))
    sources = {split: open_records(folder, split) for split in (study.train, study.validation, study.test)}
    features = {split: encode(source, f"encoding {split}") for split, source in sources.items()}
    truths = {split: labels_of(source, task) for split, source in sources.items()}
    validation = Samples(features[study.validation], truths[study.validation])
    for fraction in study.fractions:
        chosen = labelled(study, out, task, fraction, step.seed)
        rows = chosen.numbers if isinstance(chosen, Subset) else slice(None)
        train_samples = Samples(features[study.train][rows], truths[study.train][rows])
        classes = sources[study.test].contract.classes
        guess = logistic_probe(train_samples, validation, features[study.test], len(classes)).probabilities
        row = {"measured": "probe", "split": study.test, "samples": len(chosen), "fraction": fraction}
        yield from scored(row, task, guess, truths[study.test], sources[study.test])


def random_encoder(settings: RunSettings) -> Loaded:
    """The encoder as a finetuning run from random parameters starts with it."""
    task = set_up(settings).task
    make, *arguments = task.model
    params, fixed = unstack_blocks(split_model(make(*arguments, rngs=nnx.Rngs(settings.seed)))[1:])
    model, name = task.settings.model, settings.data.statistics
    return Loaded(params, fixed, describe(task.kind, model, task.statistics, name, **task.description), 0)


def baseline(study: StudySettings, out: Path, step: Step) -> Iterator[Row]:
    """Score predictions without learned features on every fraction of the labels."""
    assert step.seed is not None
    task = finetuning_stages(study, out, step)[0].task
    source = open_records(records_of(study, out), study.test)
    truth, classes = labels_of(source, task), len(source.contract.classes)
    for fraction in study.fractions:
        chosen = labelled(study, out, task, fraction, step.seed)
        for name, guess in baseline_predictions(task, chosen, source, classes).items():
            row = {"measured": "baseline", "split": study.test, "samples": len(chosen), "fraction": fraction}
            yield from scored(row | {"initialisation": name}, task, guess, truth, source)


def reconstruct(study: StudySettings, out: Path, step: Step) -> Iterator[Row]:
    """Errors over hidden cells of the test split in dark and bright areas; masks are those of seed 0 for all."""
    from sarwmix_jax.studies.reconstruction import rows_by_brightness

    assert step.seed is not None
    start = start_of(study, out, step.start or "", step.seed)
    assert start is not None
    source = open_records(records_of(study, out), study.test)
    for row in rows_by_brightness(start, source, study.examined):
        yield row | {"measured": "reconstruction", "split": study.test, "samples": min(study.examined, len(source))}
