"""Where a run starts from: its own last checkpoint, the parameters of another one, or scratch; decided here alone."""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp

from sarwmix_jax.checkpoints.integrity import first_line
from sarwmix_jax.checkpoints.store import Checkpoints, complete_steps
from sarwmix_jax.errors import UserError
from sarwmix_jax.models.state import Tree, flatten_names, unflatten_names
from sarwmix_jax.settings.config import as_json, differences, stored_settings
from sarwmix_jax.settings.sections import PretrainingSettings, RunSettings

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
    "checkpoint.",
    "log.",
    "validation.every_epochs",
)
"""Settings that may change when a run is resumed: they decide when a run stops, saves and logs, and how it reads,
splits batches and multiplies, not what it computes (the mix group is stored in the checkpoint)."""


HEAD_DEVIATION = 2e-5
"""Standard deviation of a new head's weights on a pretrained encoder, as in the published system."""


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
    if not (steps := complete_steps(checkpoints)):
        return None
    with closing(Checkpoints(checkpoints, read_only=True)) as reader:
        for step in reversed(steps):
            try:
                found = reader.description(step)
                return Previous(step, found["kind"], found["settings"], found["progress"])
            except Exception as error:  # Orbax raises many kinds for damaged files
                reason = first_line(error)
    raise UserError(
        f"checkpoints in {checkpoints} are not those of a run that can be resumed ({reason}); use another workdir"
    )


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
    checkpoints: Checkpoints,
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
        restored = checkpoints.restore_latest(target)
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


@dataclass(frozen=True)
class Taken:
    """Which parameters were taken from another checkpoint, and which kept their initial values.

    Attributes:
        checkpoint: Value of `init_from`.
        at_step: Step of the checkpoint.
        at_epoch: Epochs of training behind the checkpoint; None where it does not state them.
        kind: Kind of the checkpoint.
        taken: Names of the parameters that were taken.
        kept: Names of the others, each with the reason.
        unused: Names that only the checkpoint has.
    """

    checkpoint: str
    at_step: int
    at_epoch: float | None
    kind: str
    taken: list[str]
    kept: dict[str, str]
    unused: list[str]

    @property
    def text(self) -> str:
        """The report in one line."""
        parts = [f"initialised from {self.checkpoint} (step {self.at_step}): took {len(self.taken)} parameters"]
        parts += [f"kept the drawn {name} ({reason})" for name, reason in list(self.kept.items())[:3]]
        if len(self.kept) > 3:
            parts.append(f"and {len(self.kept) - 3} more")
        if self.unused:
            parts.append(f"did not use {len(self.unused)}, such as {self.unused[0]}")
        return "; ".join(parts)

    def as_json(self) -> dict[str, Any]:
        """The report for the log."""
        return dataclasses.asdict(self) | {"taken": len(self.taken)}


def take_parameters(
    params: Tree, fixed: Tree, path: str, classes: Sequence[str] = (), seed: int = 0
) -> tuple[Tree, Tree, Taken]:
    """Replaces parameters and fixed tables by those of the checkpoint at `path` where name and shape agree.

    A head is taken only where the class names agree; else it is new, its weights near zero as in the published system.

    Raises:
        UserError: There is no checkpoint, or it does not hold every parameter of the encoder.
    """
    from sarwmix_jax.checkpoints.loading import load_parameters

    loaded = load_parameters(path)
    offered = flatten_names(loaded.params)
    if classes and tuple(loaded.description.get("class_names") or ()) != tuple(classes):
        offered = {name: value for name, value in offered.items() if not name.startswith("head/")}
        kernel = params["head"]["kernel"]
        new = HEAD_DEVIATION * jax.random.normal(jax.random.key(seed), kernel.shape, kernel.dtype)
        params = params | {"head": params["head"] | {"kernel": new}}
    wanted = flatten_names(params)
    reasons = {name: _reason_to_keep(offered.get(name), value) for name, value in wanted.items()}
    kept = {name: reason for name, reason in reasons.items() if reason}
    if lost := [name for name in kept if name.startswith("encoder/")]:
        raise UserError(
            f"--config.init_from {path}: the encoder is not loaded in full ({len(lost)} parameters, such as {lost[0]}: "
            f"{kept[lost[0]]}); use a checkpoint of the same model size and image side"
        )
    names = [name for name in wanted if name not in kept]
    reached = loaded.description.get("progress") or {"epoch": loaded.description["source"].get("epochs")}
    taken = Taken(path, loaded.step, reached.get("epoch"), loaded.kind, names, kept, sorted(set(offered) - set(wanted)))
    return _with_offered(params, offered), _with_offered(fixed, flatten_names(loaded.fixed)), taken


def _reason_to_keep(found: Any, drawn: Any) -> str | None:
    """Why an initial array is kept, or None where the one found fits."""
    if found is None:
        return "not in the checkpoint"
    return None if found.shape == drawn.shape else f"shape {list(found.shape)}, needed {list(drawn.shape)}"


def _with_offered(tree: Tree, offered: dict[str, Any]) -> Tree:
    """Replaces leaves of the tree by the offered arrays that fit."""
    named = flatten_names(tree).items()
    return unflatten_names(
        {n: v if _reason_to_keep(offered.get(n), v) else jnp.asarray(offered[n], v.dtype) for n, v in named}
    )
