"""What a finetuning run reads: labelled samples to train on, a fraction of them, those held out, and class weights."""

import json
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import jax
import numpy as np

from sarwmix_jax.data.subsets import Subset, hold_out, label_fraction
from sarwmix_jax.errors import UserError
from sarwmix_jax.preparation.writer import write_file
from sarwmix_jax.settings.sections import FinetuningSettings
from sarwmix_jax.tasks.flood import Flood
from sarwmix_jax.tasks.gradients import open_all
from sarwmix_jax.tasks.labelled import LabelledTask
from sarwmix_jax.tasks.multilabel import Multilabel, SingleLabel, class_numbers

TASKS: dict[str, type[LabelledTask]] = {"multilabel": Multilabel, "single_label": SingleLabel, "flood": Flood}

HELD_OUT = "held_out"
"""`validation.split` by this name holds whole acquisitions or sequences of the training split out."""

Samples = tuple[tuple[Any, ...], tuple[Any, ...], Callable[..., Any]]
"""Samples to train on of every record set, those held out, and what makes the task of settings and statistics."""


def labelled_samples(settings: FinetuningSettings) -> Samples:
    """Samples of a finetuning run, and its task with classes and class weights.

    Raises:
        UserError: See `gradients.open_all`; or there are no labels, sets of other classes, a sample without exactly
            one class where classes exclude each other, or a class without a sample where class weights are asked for.
    """
    kind: Any = TASKS[settings.task]
    training = open_all(kind.open, settings, settings.data.split)
    held_out: tuple[Any, ...] = ()
    if settings.validation.split == HELD_OUT:
        parts = [hold_out(source, settings.validation.share, settings.seed) for source in training]
        training, held_out = tuple(kept for kept, _ in parts), tuple(held for _, held in parts)
    elif settings.validation.split is not None:
        held_out = open_all(kind.open, settings, settings.validation.split)
    make: Callable[..., Any] = kind
    if kind is not Flood:
        classes = training[0].contract.classes
        if any(source.contract.classes != classes for source in (*training, *held_out)):
            raise UserError("the record sets have other classes, or in another order; prepare them alike to mix them")
        make = partial(kind, classes=classes)
    if kind is SingleLabel:  # a sample of several classes would train, on something else
        for source in (*training, *held_out):
            class_numbers(truth_of((source,), kind.target))
    training = fraction_of(training, settings, kind.target)
    if settings.head.class_weights == "balanced":
        make = partial(make, class_weights=balanced(truth_of(training, kind.target), settings.task))
    return training, held_out, make


def write_samples(
    workdir: Path, folders: Sequence[str], training: Sequence[Any], held_out: Sequence[Any], *, anew: bool
) -> None:
    """Write down which samples a run trains on and which it validates on, by folder of the record set, names sorted.

    They go into `samples.json`, whole or not at all, from the first process alone.

    Args:
        workdir: Folder of the run.
        folders: Folder of every record set.
        training: Their samples to train on.
        held_out: Those to validate on; empty where there are none.
        anew: Whether to write over those of an earlier start; reading the names takes a while.
    """
    path = workdir / "samples.json"
    if jax.process_index() != 0 or (path.exists() and not anew):
        return
    parts = {"training": training, "held_out": held_out or [()] * len(folders)}
    names = {
        folder: {part: sorted(map(found[number].name_of, range(len(found[number])))) for part, found in parts.items()}
        for number, folder in enumerate(folders)
    }
    write_file(path, json.dumps(names, indent=2) + "\n")


def truth_of(sources: tuple[Any, ...], target: str, chunk: int = 512) -> np.ndarray:
    """Labels of all samples, as the sources store them."""
    found = [
        source.read_batch(np.arange(first, min(first + chunk, len(source))), (target,))[target]
        for source in sources
        for first in range(0, len(source), chunk)
    ]
    return np.concatenate(found)


def fraction_of(sources: tuple[Any, ...], settings: FinetuningSettings, target: str) -> tuple[Any, ...]:
    """The labelled fraction of every record set that the settings ask for."""
    data = settings.data
    if data.label_fraction == 1.0:
        return sources
    return tuple(
        Subset(source, label_fraction(truth_of((source,), target), data.label_fraction, data.fraction_seed))
        for source in sources
    )


def balanced(truth: np.ndarray, task: str) -> tuple[float, ...]:
    """Class weights under which rare classes count as much as common ones.

    Multi-label: of the positives of a class, its samples without over those with it. Else: samples over classes times
    those of the class, so that the mean weight of a sample is 1.

    Raises:
        UserError: A class has no sample (or, multi-label, every sample).
    """
    if task == "multilabel":
        counts = truth.sum(axis=0, dtype=np.int64)
        weights = (len(truth) - counts) / np.maximum(counts, 1)
    else:
        numbers = class_numbers(truth) if truth.ndim == 2 else truth
        counts = np.bincount(numbers, minlength=truth.shape[1] if truth.ndim == 2 else 2)
        weights = len(truth) / (len(counts) * np.maximum(counts, 1))
    if (counts == 0).any() or (weights == 0).any():
        number = int(np.argmax((counts == 0) | (weights == 0)))
        raise UserError(
            f"class {number} has {counts[number]} of {len(truth)} training samples, so it has no weight; "
            "use --config.head.class_weights=none"
        )
    return tuple(float(weight) for weight in weights)
