"""Which checkpoint of a run is the best: the three published rules, lowest validation loss, and flood accuracy.

A rule replaces its best checkpoint only by a strictly better one, so of equal ones the first is kept. What a rule
keeps is plain JSON and part of a run's state, so that a resumed run continues with it.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from sarwmix_jax.errors import UserError

Metrics = Mapping[str, float]
State = Mapping[str, Mapping[str, Any]]
"""By rule: the `epoch` of the best and its `metrics`."""

WEIGHTS = {"f1_macro": 1.3, "f1_micro": 1.1, "ap_macro": 1.2, "precision_macro": 1.2}
SUMMED = ("f1_macro", "f1_micro", "ap_macro", "ap_micro", "precision_macro", "precision_micro")


def weighted(metrics: Metrics) -> float:
    """The published weighted sum, which favours macro means."""
    return sum(weight * metrics[name] for name, weight in WEIGHTS.items())


def plain_sum(metrics: Metrics) -> float:
    """Sum of macro and micro F1, average precision and precision."""
    return sum(metrics[name] for name in SUMMED)


def has_most_best(new: Metrics, best: Metrics) -> bool:
    """Whether `new` is better or equal in more of the metrics of `SUMMED` than `best` is.

    Equal numbers are decided by how many of the better ones are macro means, then in the same way by the worse ones.
    """
    return _wins(new, best) > _wins(best, new)


def _wins(side: Metrics, other: Metrics) -> tuple[int, int, int, int]:
    won = [name for name in SUMMED if side[name] >= other[name]]
    lost = [name for name in SUMMED if name not in won]
    return len(won), _macros(won), len(lost), _macros(lost)


def _macros(names: Sequence[str]) -> int:
    return sum(name.endswith("_macro") for name in names)


RULES: dict[str, tuple[Callable[[Metrics, Metrics], bool], tuple[str, ...]]] = {
    "weighted": (lambda new, best: weighted(new) > weighted(best), tuple(WEIGHTS)),
    "sum": (lambda new, best: plain_sum(new) > plain_sum(best), SUMMED),
    "most_best": (has_most_best, SUMMED),
    "lowest_loss": (lambda new, best: new["loss"] < best["loss"], ("loss",)),
    "top1": (lambda new, best: new["accuracy"] > best["accuracy"], ("accuracy",)),
    "accuracy": (lambda new, best: new["accuracy_percent"] > best["accuracy_percent"], ("accuracy_percent",)),
}
"""By rule: whether new metrics replace the best ones, and the metrics that the rule reads."""

MULTILABEL_RULES = ("weighted", "sum", "most_best", "lowest_loss")
FLOOD_RULES = ("accuracy", "lowest_loss")


def select(state: State, metrics: Metrics, epoch: float, rules: Sequence[str]) -> tuple[dict[str, Any], list[str]]:
    """Compares an epoch with the best ones so far.

    Args:
        state: Best epochs so far, empty at the start of a run; not changed.
        metrics: Scores of the epoch on the selection split, by name as in `metrics.Scores.summary`, and `loss`.
        epoch: Epochs done, fractions included.
        rules: Names from `RULES`.

    Returns:
        The new state, which JSON can hold, and the rules by which this epoch is the best.

    Raises:
        UserError: A rule is unknown, or a metric it reads is missing or not finite.
    """
    found, replaced = {rule: dict(best) for rule, best in state.items()}, []
    for rule in rules:
        if rule not in RULES:
            raise UserError(f"selection rule {rule!r} is unknown; use one of {', '.join(RULES)}")
        better, read = RULES[rule]
        for name in read:
            if not math.isfinite(metrics.get(name, math.nan)):
                given = metrics.get(name, "missing")
                raise UserError(f"epoch {epoch}: {name} is {given}; selection rule {rule!r} needs a finite value")
        if rule not in found or better(metrics, found[rule]["metrics"]):
            found[rule] = {"epoch": epoch, "metrics": {name: float(value) for name, value in metrics.items()}}
            replaced.append(rule)
    return found, replaced
