"""The published AdamW state of a pretraining run, by parameter names of this package."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from sarwmix_jax.conversion.recognition import FLOATING, Recognised, is_finite
from sarwmix_jax.conversion.table import FIXED, LAYOUTS, Entry, entries
from sarwmix_jax.errors import UserError


@dataclass(frozen=True)
class Moments:
    """AdamW's state: number of steps, and first and second moments by parameter name."""

    count: int
    first: dict[str, np.ndarray]
    second: dict[str, np.ndarray]


def parameter_order(model: Iterable[Entry]) -> list[list[Entry]]:
    """Trained tensors in the two groups of the published optimiser: without weight decay, then with."""
    trained = [entry for entry in model if entry.name not in FIXED]
    plain = [entry for entry in trained if len(entry.shape.split()) == 1 or entry.published.endswith(".bias")]
    return [plain, [entry for entry in trained if entry not in plain]]


def convert_moments(optimizer: Mapping[Any, Any], found: Recognised) -> Moments:
    """Convert the optimiser state of a pretraining file.

    Args:
        optimizer: The file's `optimizer` entry, as plain data.
        found: The model to which it belongs.

    Raises:
        UserError: The file is not a pretraining file, or the state does not fit the parameters.
    """
    if found.kind != "pretraining":
        raise UserError(f"--with-optimizer: only pretraining can be continued; the file is of kind {found.kind}")
    groups = parameter_order(entries(found.extent))
    every, start = groups[0] + groups[1], len(groups[0])
    numbers, given = list(range(len(every))), optimizer.get("param_groups")
    if not isinstance(given, list) or [_members(group) for group in given] != [numbers[:start], numbers[start:]]:
        raise UserError(
            f"--with-optimizer: groups of {start} parameters without and {len(groups[1])} with weight decay are "
            "needed; the file has others"
        )
    state = optimizer.get("state")
    if not isinstance(state, dict) or set(state) != set(numbers):
        raise UserError(f"--with-optimizer: the state is not that of {len(every)} parameters")
    counts = {_count(state[number], entry) for number, entry in enumerate(every)}
    if len(counts) != 1:
        raise UserError("--with-optimizer: the parameters have taken different numbers of steps")
    return Moments(counts.pop(), *(_all(state, every, key, found) for key in ("exp_avg", "exp_avg_sq")))


def _members(group: Any) -> list[int] | None:
    """Parameter numbers of a group, or None if it has none."""
    numbers = group.get("params") if isinstance(group, dict) else None
    return numbers if isinstance(numbers, list) and all(type(number) is int for number in numbers) else None


def _count(state: Any, entry: Entry) -> int:
    step = state.get("step") if isinstance(state, dict) else None
    if isinstance(step, np.ndarray) and step.size == 1:
        step = step.item()
    if isinstance(step, bool) or not isinstance(step, int | float) or not 0 <= step < 1 << 31 or step != int(step):
        raise UserError(f"--with-optimizer: the state of {entry.published} has no whole number of steps")
    return int(step)


def _all(state: Mapping[int, Any], every: list[Entry], key: str, found: Recognised) -> dict[str, np.ndarray]:
    moments = {}
    for number, entry in enumerate(every):
        array, problem = state[number].get(key), None
        if not isinstance(array, np.ndarray) or array.shape != found.shape(entry):
            problem = "does not have the parameter's shape"
        elif array.dtype.name not in FLOATING:
            problem = f"is not floating-point but {array.dtype.name}"
        elif not is_finite(array):
            problem = "is not finite"
        elif key == "exp_avg_sq" and array.min() < 0:
            problem = "has negative values, which a mean of squares cannot have"
        if problem:
            raise UserError(f"--with-optimizer: {key} of {entry.published} {problem}; leave the option out")
        moments[entry.name] = LAYOUTS[entry.layout].from_published(array)
    return moments
