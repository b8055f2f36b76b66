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


def take_parameters(params: dict[Any, Any], path: str) -> tuple[dict[Any, Any], Report]:
    """Parameters with those of the checkpoint at `path` where name and shape agree.

    Raises:
        UserError: there is no checkpoint, or nothing in it fits.
    """
    loaded = load_parameters(path)
    offered, wanted = flatten_names(loaded.params), flatten_names(params)
    result, taken, kept = {}, [], {}
    for name, value in wanted.items():
        found = offered.get(name)
        if found is not None and found.shape == value.shape:
            result[name] = jnp.asarray(found, value.dtype)
            taken.append(name)
            continue
        result[name] = value
        kept[name] = (
            "not in the checkpoint" if found is None else f"shape {list(found.shape)}, needed {list(value.shape)}"
        )
    if not taken:
        raise UserError(f"init_from {path}: no parameter of it fits this model; use a checkpoint of the same sizes")
    report = Report(path, loaded.step, taken, kept, sorted(set(offered) - set(wanted)))
    return unflatten_names(result), report
