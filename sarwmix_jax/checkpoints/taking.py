"""Parameters that a new run takes from another checkpoint."""

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp

from sarwmix_jax.checkpoints.loading import load_parameters
from sarwmix_jax.errors import UserError
from sarwmix_jax.models.state import Tree, flatten_names, unflatten_names

HEAD_DEVIATION = 2e-5
"""Standard deviation of a new head's weights on a pretrained encoder, as in the published system."""


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
