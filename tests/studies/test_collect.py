"""Selection of recipes and spread over seeds, on given rows."""

import pytest

from sarwmix_jax.studies.collect import Spread, select_recipes
from tests.studies.studies import study


def validated(recipe, values, start="a", fraction=0.5, split="validation"):
    row = {"measured": "finetuned", "initialisation": start, "fraction": fraction, "split": split, "score": "ap_macro"}
    return [row | {"recipe": recipe, "seed": seed, "value": value} for seed, value in values.items()]


TRIES = study(tries=("low optimizer.base_lr=0.001", "high optimizer.base_lr=0.01"), variants=("a",))


def test_validation_selects_one_recipe_for_each_initialisation_and_fraction():
    rows = [
        *validated("low", {0: 0.5, 1: 0.6, 2: 0.7}),
        *validated("high", {0: 0.9, 1: 0.55, 2: 0.5}),  # the best seed, but not the best median
        *validated("high", {0: 0.9, 1: 0.9, 2: 0.9}, split="test"),  # has no part in it
        *validated("low", {0: 0.4}, start="random"),
        *validated("high", {0: 0.5}, start="random"),
    ]
    assert select_recipes(TRIES, rows) == {("a", 0.5): "low", ("random", 0.5): "high"}


def test_recipes_are_compared_on_the_same_seeds():
    rows = [*validated("low", {0: 0.5, 1: 0.9}), *validated("high", {0: 0.6})]
    assert select_recipes(TRIES, rows) == {("a", 0.5): "high"}
    equal = [*validated("high", {0: 0.6}), *validated("low", {0: 0.6})]
    assert select_recipes(TRIES, equal) == {("a", 0.5): "low"}  # the first in the study


def test_spread_is_median_and_range_and_gains_are_taken_seed_by_seed():
    one, other = Spread({0: 0.1, 1: 0.5, 2: 0.3}), Spread({0: 0.0, 1: 0.6, 3: 9.0})
    assert (one.median, one.low, one.high) == (0.3, 0.1, 0.5)
    assert one.text() == "0.300 [0.100, 0.500]"
    gain = one.gain(other)
    assert gain is not None and gain.by_seed == pytest.approx({0: 0.1, 1: -0.1})
    assert gain.text(sign="+") == "+0.000 [-0.100, +0.100]"
    assert one.gain(Spread({7: 1.0})) is None
