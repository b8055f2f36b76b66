"""What a start finds in its work directory, and whether it may go on from there."""

import dataclasses
from pathlib import Path
from typing import Any

from sarwmix_jax.errors import UserError
from sarwmix_jax.settings import PretrainingSettings, as_json, differences
from sarwmix_jax.training.checkpoint_parts import complete_steps, first_line
from sarwmix_jax.training.checkpoints import Checkpoints

FREE = (
    "model.kernel",
    "data.threads",
    "data.workers",
    "data.prefetch",
    "data.resident",
    "batch.micro_batch",
    "model.recompute",
    "model.scan",
    "optimizer.stop_after_epochs",
    "optimizer.stop_after_steps",
    "checkpoint.",
    "log.",
)
"""Settings that may change between starts: they decide when a run stops, saves, logs and how it reads, cuts and
multiplies, not what it computes (the mix group is frozen in the checkpoint)."""


@dataclasses.dataclass(frozen=True)
class Previous:
    """The newest checkpoint whose description can be read."""

    step: int
    settings: dict[str, Any]
    mix_group: int


def previous_run(checkpoints: Path) -> Previous | None:
    """What the checkpoints of a work directory say about their run; `None` when there are none.

    Raises:
        UserError: there are checkpoints, but none says what it is, or they are not those of a run.
    """
    steps = complete_steps(checkpoints)
    if not steps:
        return None
    reader = Checkpoints(checkpoints, read_only=True)
    try:
        for step in reversed(steps):
            try:
                description = reader.description(step)
                return Previous(step, description["settings"], description["progress"]["mix_group"])
            except Exception as error:  # Orbax raises many kinds for damaged files
                reason = first_line(error)
    finally:
        reader.close()
    raise UserError(
        f"checkpoints in {checkpoints} are not those of a run that can go on ({reason}); use another workdir"
    )


def changes(previous: Previous, settings: PretrainingSettings) -> list[str]:
    """Settings that differ from the previous run's and change what is computed."""
    lines = differences(previous.settings, as_json(dataclasses.asdict(settings)))
    return [line for line in lines if not line.startswith(FREE)]


def check_same(previous: Previous | None, settings: PretrainingSettings, workdir: Path, *, override: bool) -> list[str]:
    """Refuse to go on with other settings, unless `override`; gives the differences.

    Raises:
        UserError: they differ; the line shows how.
    """
    found = [] if previous is None else changes(previous, settings)
    if found and not override:
        raise UserError(
            f"{workdir} holds a run with other settings ({'; '.join(found)}); "
            "use another workdir, the same settings, or --override to go on with the new ones"
        )
    return found
