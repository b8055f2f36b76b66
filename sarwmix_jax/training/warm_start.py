"""Start a new run from the parameters of another checkpoint, and say what was taken."""

from dataclasses import dataclass
from typing import Any

import jax.numpy as jnp

from sarwmix_jax.errors import UserError
from sarwmix_jax.models.state import flatten_names, unflatten_names
from sarwmix_jax.training.checkpoints import load_parameters


@dataclass(frozen=True)
class Report:
    """Which parameters came from the checkpoint, and which kept their drawn values.

    Attributes:
        checkpoint: what `init_from` named.
        step: the checkpoint's step.
        taken: names of parameters that were taken.
        kept: the others, each with the reason.
        unused: names that only the checkpoint has.
    """

    checkpoint: str
    step: int
    taken: list[str]
    kept: dict[str, str]
    unused: list[str]

    @property
    def text(self) -> str:
        """The report in one line."""
        parts = [f"initialised from {self.checkpoint} (step {self.step}): took {len(self.taken)} parameters"]
        parts += [f"kept the drawn {name} ({reason})" for name, reason in list(self.kept.items())[:3]]
        if len(self.kept) > 3:
            parts.append(f"and {len(self.kept) - 3} more")
        if self.unused:
            parts.append(f"did not use {len(self.unused)}, such as {self.unused[0]}")
        return "; ".join(parts)

    def as_json(self) -> dict[str, Any]:
        """The report for the log."""
        return {
            "checkpoint": self.checkpoint,
            "at_step": self.step,
            "taken": len(self.taken),
            "kept": self.kept,
            "unused": self.unused,
        }


def take_parameters(
    params: dict[Any, Any], fixed: dict[Any, Any], path: str
) -> tuple[dict[Any, Any], dict[Any, Any], Report]:
    """Parameters and fixed tables with those of the checkpoint at `path` where name and shape agree.

    Raises:
        UserError: there is no checkpoint, or it does not hold every parameter of the encoder.
    """
    loaded = load_parameters(path)
    offered, wanted = flatten_names(loaded.params), flatten_names(params)
    reasons = {name: reason_to_keep(offered.get(name), value) for name, value in wanted.items()}
    kept = {name: reason for name, reason in reasons.items() if reason}
    if lost := [name for name in kept if name.startswith("encoder/")]:
        raise UserError(
            f"init_from {path}: the encoder is not loaded in full ({len(lost)} parameters, such as {lost[0]}: "
            f"{kept[lost[0]]}); use a checkpoint of the same sizes and image side"
        )
    taken = [name for name in wanted if name not in kept]
    report = Report(path, loaded.step, taken, kept, sorted(set(offered) - set(wanted)))
    return with_offered(params, offered), with_offered(fixed, flatten_names(loaded.fixed)), report


def reason_to_keep(found: Any, drawn: Any) -> str | None:
    """Why a drawn array stays, or None where the one found fits."""
    if found is None:
        return "not in the checkpoint"
    return None if found.shape == drawn.shape else f"shape {list(found.shape)}, needed {list(drawn.shape)}"


def with_offered(tree: dict[Any, Any], offered: dict[str, Any]) -> dict[Any, Any]:
    """The tree with the offered arrays that fit."""
    named = flatten_names(tree).items()
    return unflatten_names(
        {n: v if reason_to_keep(offered.get(n), v) else jnp.asarray(offered[n], v.dtype) for n, v in named}
    )
