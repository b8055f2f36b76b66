"""Where a run starts from: its own last checkpoint, the parameters of another one, or scratch; decided here alone."""

import json
import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import jax
import numpy as np
from jax.experimental import multihost_utils

from sarwmix_jax.checkpoints.integrity import complete_steps, first_line
from sarwmix_jax.checkpoints.reading import Reader, Restored
from sarwmix_jax.checkpoints.taking import take_parameters
from sarwmix_jax.errors import UserError
from sarwmix_jax.models.state import Tree
from sarwmix_jax.settings.config import as_json, differences, stored_settings
from sarwmix_jax.settings.sections import PretrainingSettings, RunSettings

log = logging.getLogger(__name__)
T = TypeVar("T")

FREE = (
    "model.kernel",
    "model.kernels",
    "data.threads",
    "data.workers",
    "data.prefetch",
    "data.resident",
    "batch.micro_batch",
    "batch.odd_group",
    "model.recompute",
    "model.scan",
    "optimizer.stop_after_epochs",
    "optimizer.stop_after_steps",
    "optimizer.on_divergence",
    "optimizer.max_skipped",
    "optimizer.shard_state",
    "checkpoint.",
    "log.",
    "validation.every_epochs",
)
"""Settings that may change when a run is resumed: they decide when a run stops, saves and logs, and how it reads,
splits batches and multiplies, not what it computes (the mix group is stored in the checkpoint)."""


@dataclass(frozen=True)
class Previous:
    """Description of a run, from its newest checkpoint whose description can be read."""

    step: int
    kind: str
    settings: dict[str, Any]
    progress: dict[str, Any]


def previous_run(checkpoints: Path) -> Previous | None:
    """Description of the run whose checkpoints are in a work directory; None when there are none.

    Raises:
        UserError: There are checkpoints, but no description can be read, or they are not those of a run.
    """

    def read(step: int) -> Previous:
        found = Reader(checkpoints).description(step)
        return Previous(step, found["kind"], found["settings"], found["progress"])

    previous, reasons = newest(checkpoints, read)
    if previous is None and reasons:
        raise UserError(
            f"checkpoints in {checkpoints} are not those of a run that can be resumed ({reasons.popitem()[1]}); "
            "use another workdir"
        )
    return previous


def restore_latest(checkpoints: Reader, target: Mapping[str, Any]) -> Restored | None:
    """Read the newest checkpoint that can be read (see `newest`); the reasons to pass over others are logged.

    Args:
        checkpoints: Those of the run.
        target: See `find_start`.

    Raises:
        UserError: There are checkpoints, but none can be read.
    """
    found, reasons = newest(checkpoints.directory, lambda step: checkpoints.restore(target, step))
    for step, reason in reasons.items():
        log.warning("checkpoint at step %d cannot be used: %s", step, reason)
    if found is None and reasons:
        raise UserError(f"none of the checkpoints in {checkpoints.directory} can be used; the oldest: {reason}")
    return found


def newest(directory: Path, read: Callable[[int], T]) -> tuple[T | None, dict[int, str]]:
    """What `read` gives for the newest checkpoint for which it raises an error in no process of the run.

    Else None; and why newer ones were passed over, by step, newest first. Process 0 lists the checkpoints.
    """
    reasons: dict[int, str] = {}
    for step in reversed(json.loads(_of_all(json.dumps(complete_steps(directory)))[0])):
        found, reason = None, ""
        try:
            found = read(step)
        except Exception as error:  # Orbax raises many kinds for damaged files
            reason = first_line(error)
        if not any(texts := _of_all(reason)):
            return found, reasons
        number = next(number for number, text in enumerate(texts) if text)
        reasons[step] = f"process {number}: {texts[number]}" if len(texts) > 1 else texts[number]
    return None, reasons


def _of_all(text: str) -> list[str]:
    """The texts of all processes of the run, in which each calls this."""
    if jax.process_count() == 1:
        return [text]
    own = np.frombuffer(text.encode(errors="replace"), np.uint8)
    sizes = multihost_utils.process_allgather(np.int32(own.size)).ravel()
    rows = multihost_utils.process_allgather(np.pad(own, (0, max(*sizes, 1) - own.size)))
    return [bytes(row[:size]).decode() for row, size in zip(rows, sizes, strict=True)]


def changes(previous: Previous, settings: RunSettings) -> list[str]:
    """Settings that differ from those of the previous run and change what is computed.

    Raises:
        UserError: The previous run is of another kind, or its settings cannot be read.
    """
    if (previous.kind == "pretraining") != isinstance(settings, PretrainingSettings):
        raise UserError(f"its run is of kind {previous.kind}")
    lines = differences(as_json(stored_settings(previous.settings, type(settings))), as_json(settings))
    return [line for line in lines if not line.startswith(FREE)]


def check_same(previous: Previous | None, settings: RunSettings, workdir: Path, *, override: bool) -> list[str]:
    """Refuse to resume a run with other settings, unless `override`; returns the differences.

    Raises:
        UserError: Settings differ; the line shows which.
    """
    if previous is None:
        return []
    try:
        found = changes(previous, settings)
    except UserError as error:
        raise UserError(f"{workdir} holds another run ({error}); use another workdir") from None
    if found and not override:
        raise UserError(
            f"{workdir} holds a run with other settings ({'; '.join(found)}); "
            "use another workdir, the same settings, or --override to continue with the new ones"
        )
    return found


@dataclass(frozen=True)
class Start:
    """Where a run starts.

    Attributes:
        state: `params`, `fixed` and, of a resumed run, `opt_state`.
        step: Optimiser steps done.
        progress: The run's progress as stored in its checkpoint.
        report: What was done, for the log: a line, and plain values.
    """

    state: dict[str, Any]
    step: int = 0
    progress: Mapping[str, Any] = field(default_factory=dict)
    report: tuple[str, dict[str, Any]] | None = None


def find_start(
    checkpoints: Reader,
    target: Mapping[str, Any],
    settings: RunSettings,
    draw: Callable[[], tuple[Tree, Tree]],
    classes: Sequence[str] = (),
    step: int | None = None,
) -> Start | None:
    """The run's newest usable checkpoint; else drawn parameters with those of `init_from`; None for scratch.

    Args:
        checkpoints: Those of the run.
        target: Shapes, dtypes and shardings of `params`, `fixed` and `opt_state`, with one entry per block.
        settings: Settings of the run: `init_from` names another checkpoint.
        draw: Initialises parameters and fixed tables.
        classes: Class names of the run, if it has any.
        step: This checkpoint and no other, for a run that is repeated; 0: as if there were none.

    Raises:
        UserError: No checkpoint of the run can be read, or the one of `init_from` does not fit.
        ValueError: The checkpoint of `step` cannot be read.
    """
    if step is None:
        restored = restore_latest(checkpoints, target)
    else:
        restored = checkpoints.restore(target, step) if step else None
    if restored:
        place = checkpoints.directory / str(restored.step)
        report = (f"continuing at step {restored.step} from {place}", {"from": "own checkpoint"})
        return Start(restored.state, restored.step, restored.description["progress"], report)
    if settings.init_from is None:
        return None
    params, fixed, taken = take_parameters(*draw(), settings.init_from, classes, settings.seed)
    return Start({"params": params, "fixed": fixed}, report=(taken.text, taken.as_json()))
