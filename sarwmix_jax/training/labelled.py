"""Input of a finetuning run: labelled samples, a fraction of them, held-out samples, and class weights."""

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
from sarwmix_jax.progress import show
from sarwmix_jax.settings.sections import FinetuningSettings
from sarwmix_jax.tasks.flood import Flood
from sarwmix_jax.tasks.gradients import open_all
from sarwmix_jax.tasks.labelled import LabelledTask
from sarwmix_jax.tasks.multilabel import Multilabel, SingleLabel, class_numbers

TASKS: dict[str, type[LabelledTask]] = {"multilabel": Multilabel, "single_label": SingleLabel, "flood": Flood}

HELD_OUT = "held_out"
"""This value of `validation.split` holds out whole acquisitions or sequences of the training split."""

Samples = tuple[tuple[Any, ...], tuple[Any, ...], Callable[..., Any]]
"""By record set the samples to train on and the held-out ones; and a function (settings, statistics) -> task."""


def labelled_samples(settings: FinetuningSettings) -> Samples:
    """Samples of a finetuning run, and its task with classes and class weights.

    Raises:
        UserError: See `gradients.open_all`; or there are no labels, the classes of the sets differ, a sample does not
            have exactly one class where classes exclude each other, or a class has no samples to compute its weight.
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
            raise UserError("the record sets differ in their classes or in the order of these; prepare them alike")
        make = partial(kind, classes=classes)
    if kind is SingleLabel:  # samples with several classes would be trained on silently
        for source in (*training, *held_out):
            class_numbers(truth_of((source,), kind.target))
    training = fraction_of(training, settings, kind.target)
    if settings.head.class_weights == "balanced":
        make = partial(make, class_weights=balanced(truth_of(training, kind.target), settings.task))
    return training, held_out, make


def write_samples(
    workdir: Path, folders: Sequence[str], training: Sequence[Any], held_out: Sequence[Any], *, replace: bool
) -> None:
    """Write the names of the samples to train and to validate on, sorted, by folder of the record set.

    The first process writes them to `samples.json`, whole or not at all.

    Args:
        workdir: Folder of the run.
        folders: Folder of every record set.
        training: Samples to train on, by record set.
        held_out: Samples to validate on, by record set; empty where there are none.
        replace: Whether to replace the file of an earlier start; reading the names takes a while.
    """
    path = workdir / "samples.json"
    if jax.process_index() != 0 or (not replace and _kept(path)):
        return
    parts = {"training": training, "held_out": held_out or [None] * len(folders)}
    names = {
        folder: {part: _names(found[number]) for part, found in parts.items()} for number, folder in enumerate(folders)
    }
    write_file(path, json.dumps(names, indent=2) + "\n")


def _kept(path: Path) -> bool:
    """Whether the file of an earlier start can be read."""
    try:
        json.loads(path.read_bytes())
    except FileNotFoundError:
        return False
    except ValueError:
        show(f"{path} is damaged; it is written again")
        return False
    return True


def _names(source: Any | None) -> list[str]:
    return [] if source is None else sorted(map(source.name_of, range(len(source))))


def truth_of(sources: tuple[Any, ...], target: str, chunk: int = 512) -> np.ndarray:
    """Labels of all samples as stored."""
    found = [
        source.read_batch(np.arange(first, min(first + chunk, len(source))), (target,))[target]
        for source in sources
        for first in range(0, len(source), chunk)
    ]
    return np.concatenate(found)


def fraction_of(sources: tuple[Any, ...], settings: FinetuningSettings, target: str) -> tuple[Any, ...]:
    """The fraction of labelled samples of every record set, as set."""
    data = settings.data
    if data.label_fraction == 1.0:
        return sources
    return tuple(
        Subset(source, label_fraction(truth_of((source,), target), data.label_fraction, data.fraction_seed))
        for source in sources
    )


def balanced(truth: np.ndarray, task: str) -> tuple[float, ...]:
    """Class weights with which rare classes count as much as common ones.

    Multi-label: weight of the positives of a class, the number of samples without the class over that of samples with
    it. Otherwise: number of samples / (number of classes * samples of the class), so that the mean weight is 1.

    Raises:
        UserError: A class has no samples (or, multi-label, all samples).
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
