"""Speeds, ratios and shares on given numbers."""

import pytest

from benchmarks import targets
from benchmarks.arithmetic import Round, images_per_second, percentile, speed_ratio, utilisation


def rounds(*speeds, wave=1, first=0):
    """Rounds of 10 steps at these steps a second."""
    return [Round(wave, first + number, 10, 10 / speed) for number, speed in enumerate(speeds)]


def test_speed_is_the_median_over_rounds():
    assert images_per_second(rounds(2.0, 100.0, 3.0), batch=256) == pytest.approx(768)


def test_ratio_pairs_rounds_that_took_turns():
    # The machine becomes slower over time, both alike: each pair still says 2.
    assert speed_ratio(rounds(8.0, 4.0, 2.0), rounds(4.0, 2.0, 1.0)) == pytest.approx(2.0)
    assert speed_ratio(rounds(8.0, 4.0, 2.0), rounds(4.0, 2.0)) == pytest.approx(2.0)


def test_no_ratio_across_waves():
    assert speed_ratio(rounds(8.0, wave=1), rounds(4.0, wave=2)) is None
    assert speed_ratio([*rounds(8.0, wave=1), *rounds(6.0, wave=2)], rounds(4.0, wave=2)) == pytest.approx(1.5)


def test_a_first_look_counts_only_without_rounds_in_turn():
    look = rounds(9.0, wave=0)
    assert images_per_second(look, batch=2) == pytest.approx(18)
    assert images_per_second([*look, *rounds(4.0)], batch=2) == pytest.approx(8)
    assert speed_ratio(look, rounds(3.0, wave=0)) is None


@pytest.mark.parametrize(("share", "value"), [(0.5, 2.0), (0.9, 4.0), (0.75, 3.0), (1.0, 4.0), (0.01, 1.0)])
def test_percentile(share, value):
    assert percentile([4.0, 1.0, 3.0, 2.0], share) == value


def test_mfu_of_the_must_target():
    # 6,000 images/s of base are 27 % of 790 TFLOP/s.
    assert utilisation(6000, 35.48e9, 790e12) == pytest.approx(0.269, abs=1e-3)


@pytest.mark.parametrize(
    ("value", "words"),
    [(5999, "100% of must"), (3000, "50% of must"), (6000, "must"), (8100, "good"), (1e4, "stretch")],
)
def test_verdict(value, words):
    assert targets.verdict(value, targets.SPEED["pretrain"]) == words


def test_verdict_skips_a_level_that_was_not_set():
    assert targets.verdict(1.2, targets.RATIO["strong"]) == "must"
    assert targets.verdict(1.3, targets.RATIO["strong"]) == "stretch"
