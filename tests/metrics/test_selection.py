import json

import pytest

from sarwmix_jax.errors import UserError
from sarwmix_jax.metrics.selection import (
    FLOOD_RULES,
    MULTILABEL_RULES,
    SUMMED,
    has_most_best,
    plain_sum,
    select,
    weighted,
)
from tests.support import GOLDEN


def scores(**changes):
    return dict.fromkeys(SUMMED, 0.5) | {"loss": 1.0} | changes


def test_golden_most_best():
    cases = json.loads((GOLDEN / "metrics.json").read_text())["mbr_cases"]
    assert len(cases) == 60
    for new, best, expected in cases:
        sides = [{k.replace("prec", "precision"): v for k, v in side.items()} for side in (new, best)]
        assert has_most_best(*sides) is expected


def test_sums_by_hand():
    metrics = dict(zip(SUMMED, (0.1, 0.2, 0.3, 0.4, 0.5, 0.6), strict=True))
    assert weighted(metrics) == pytest.approx(1.3 * 0.1 + 1.1 * 0.2 + 1.2 * 0.3 + 1.2 * 0.5, abs=1e-12)
    assert plain_sum(metrics) == pytest.approx(2.1, abs=1e-12)


def test_rules_pick_different_epochs():
    epochs = [
        scores(f1_macro=0.6, loss=0.9),
        scores(precision_micro=0.55, ap_micro=0.56, loss=0.8),  # more sum, less weighted
        scores(f1_micro=0.51, ap_micro=0.51, precision_micro=0.51, precision_macro=0.51, loss=0.95),
    ]
    state = {}
    for epoch, metrics in enumerate(epochs):
        state, replaced = select(state, metrics, epoch, MULTILABEL_RULES)
        if epoch == 0:
            assert replaced == list(MULTILABEL_RULES)
    assert {rule: best["epoch"] for rule, best in state.items()} == {
        "weighted": 0,
        "sum": 1,
        "most_best": 2,
        "lowest_loss": 1,
    }


def test_equals_do_not_replace_and_a_resumed_run_keeps_its_bests():
    rules = (*MULTILABEL_RULES, *FLOOD_RULES)
    metrics = scores(accuracy_percent=90.0)
    state, _ = select({}, metrics, 3, rules)
    state = json.loads(json.dumps(state))
    again, replaced = select(state, metrics, 4, rules)
    assert (again, replaced) == (state, [])
    for change, rule in (({"loss": 0.99}, "lowest_loss"), ({"accuracy_percent": 90.1}, "accuracy")):
        again, replaced = select(state, metrics | change, 4, rules)
        assert replaced == [rule]
        assert again[rule] == {"epoch": 4, "metrics": metrics | change}
        assert state[rule]["epoch"] == 3


@pytest.mark.parametrize(
    ("metrics", "rules", "message"),
    [
        (scores(loss=float("nan")), ("lowest_loss",), "epoch 7: loss is nan; selection rule 'lowest_loss' needs"),
        ({"loss": 1.0}, ("sum",), "f1_macro is missing"),
        (scores(), ("best",), "selection rule 'best' is unknown; use one of weighted, sum"),
    ],
)
def test_faults(metrics, rules, message):
    with pytest.raises(UserError, match=message):
        select({}, metrics, 7, rules)
