import itertools

import numpy as np
import pytest

from sarwmix_jax.data.subsets import label_fraction
from sarwmix_jax.errors import UserError

FRACTIONS = (0.01, 0.1, 0.125, 0.25, 0.5, 1.0)


def multilabel(samples=4000):
    """Nineteen correlated classes from a few samples to two fifths of all."""
    rng = np.random.default_rng(0)
    scores = rng.normal(size=(samples, 3)) @ rng.normal(size=(3, 19)) + rng.normal(size=(samples, 19))
    return np.stack(
        [scores[:, k] > np.quantile(scores[:, k], 1 - share) for k, share in enumerate(np.geomspace(0.003, 0.4, 19))], 1
    ).astype(np.int8)


@pytest.mark.parametrize(
    "labels", [multilabel(), np.random.default_rng(1).integers(0, 7, 999)], ids=["multi", "single"]
)
def test_smaller_fractions_lie_within_larger_ones(labels):
    chosen = [label_fraction(labels, fraction, 3) for fraction in FRACTIONS]
    for smaller, larger in itertools.pairwise(chosen):
        assert set(smaller) < set(larger)
    assert [len(c) for c in chosen] == [round(fraction * len(labels)) for fraction in FRACTIONS]
    assert chosen[-1].tolist() == list(range(len(labels)))
    assert all((np.diff(c) > 0).all() for c in chosen)
    assert not np.array_equal(label_fraction(labels, 0.25, 4), chosen[3])


@pytest.mark.parametrize(("fraction", "closer"), [(0.125, 0.35), (0.25, 0.35), (0.5, 0.35), (0.1, 0.45)])
def test_class_shares_stay_closer_than_by_chance(fraction, closer):
    labels = multilabel()
    expected = fraction * labels.sum(0)
    off = np.array([label_fraction(labels, fraction, seed) for seed in range(30)])
    off = np.array([labels[rows].sum(0) - expected for rows in off])
    by_chance = np.sqrt(expected * (1 - fraction))
    assert (np.sqrt((off**2).mean(0)) / by_chance).mean() < closer
    assert abs(off.mean(0) / by_chance).max() < 0.35
    assert abs(off[:, 0]).max() <= 2  # the rarest class, 12 samples, is one stretch of the list


def test_single_label_shares_are_exact_to_one_sample():
    labels = np.repeat(np.arange(10), np.arange(40, 50))
    for seed in range(20):
        counts = np.bincount(labels[label_fraction(labels, 0.25, seed)], minlength=10)
        assert abs(counts - np.arange(40, 50) / 4).max() < 2


def test_every_sample_is_chosen_as_often():
    labels = multilabel(400)
    times = np.zeros(400)
    for seed in range(400):
        times[label_fraction(labels, 0.25, seed)] += 1
    assert times.mean() == 100
    assert times.std() == pytest.approx(np.sqrt(400 * 0.25 * 0.75), rel=0.25)


def test_choice_keeps_its_values():
    labels, first = np.arange(40) % 3, [3, 4, 5, 10, 17, 18, 27, 28, 32, 39]
    assert label_fraction(labels, 0.25, 0).tolist() == first
    assert label_fraction(labels.astype(np.int32), 0.25, 0).tolist() == first


def test_faults():
    labels = np.zeros(10, int)
    for fraction in (0, -0.5, 1.5, float("nan")):
        with pytest.raises(UserError, match="above 0 and at most 1"):
            label_fraction(labels, fraction, 0)
    with pytest.raises(UserError, match=r"0.01 of 10 samples leaves none"):
        label_fraction(labels, 0.01, 0)
    with pytest.raises(UserError, match="seed -1"):
        label_fraction(labels, 0.5, -1)
