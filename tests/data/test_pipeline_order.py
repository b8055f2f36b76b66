import itertools

import numpy as np
import pytest

from sarwmix_jax.data.held_out import held_out_order
from sarwmix_jax.data.pipeline import steps_per_epoch, training_order
from sarwmix_jax.errors import UserError


def epochs(order, steps: int, count: int) -> list[np.ndarray]:
    return [np.concatenate([order(e * steps + s) for s in range(steps)]) for e in range(count)]


def test_each_epoch_is_floor_n_over_b_batches_of_distinct_records_in_a_fresh_order():
    records, batch = 103, 10
    order = training_order([records], None, batch, seed=5)
    seen = epochs(order, steps_per_epoch(records, batch), 20)
    for epoch in seen:
        assert len(epoch) == len(set(epoch.tolist())) == 100
        assert 0 <= epoch.min() and epoch.max() < records
    for first, second in itertools.pairwise(seen):
        assert np.mean(first == second) < 0.1
    left_over = [frozenset(range(records)) - set(epoch.tolist()) for epoch in seen]
    assert all(len(rest) == 3 for rest in left_over)
    assert len(set(left_over)) > 15  # the records that are skipped change
    assert set(np.concatenate(seen).tolist()) == set(range(records))


def test_batches_that_divide_the_records_cover_all_of_them():
    order = training_order([96], None, 8, seed=0)
    for epoch in epochs(order, 12, 3):
        assert sorted(epoch.tolist()) == list(range(96))


def test_the_order_is_as_spread_as_chance():
    """Positions of a record over 400 epochs are uniform: chi-square over ten bins within 5 sigma of its mean."""
    order = training_order([50], None, 50, seed=11)
    positions = np.stack([np.argsort(order(epoch)) for epoch in range(400)])
    for record in range(50):
        counts = np.bincount(positions[:, record] // 5, minlength=10)
        assert np.square(counts - 40).sum() / 40 < 9 + 5 * np.sqrt(18)


def test_the_seed_decides_and_neighbouring_seeds_are_not_shifted_copies():
    first = epochs(training_order([64], None, 64, seed=1), 1, 4)
    again = epochs(training_order([64], None, 64, seed=1), 1, 4)
    other = epochs(training_order([64], None, 64, seed=2), 1, 4)
    np.testing.assert_array_equal(first, again)
    for epoch in first:
        for another in other:
            assert np.mean(epoch == another) < 0.2


def test_mixing_keeps_the_shares_in_every_batch_and_runs_through_each_set():
    lengths, batch = [40, 200], 16
    order = training_order(lengths, [0.25, 0.75], batch, seed=3)
    steps = [order(step) for step in range(60)]
    for numbers in steps:
        assert np.sum(numbers < 40) == 4
    small = np.concatenate([numbers[numbers < 40] for numbers in steps])
    large = np.concatenate([numbers[numbers >= 40] for numbers in steps])
    # Within a batch the order is random, so passes end at batch borders: ten batches are one pass of the small set.
    for start in range(0, 240, 40):
        assert sorted(small[start : start + 40].tolist()) == list(range(40))
    assert len(set(large[:192].tolist())) == 192
    assert large.max() < 240


def test_mixing_pairs_every_set_with_every_other():
    """Mirrored positions exchange patches in training: partners must come from both sets."""
    order = training_order([100, 100], [1.0, 1.0], 8, seed=0)
    mixed = np.concatenate([(order(s) < 100) != (order(s) < 100)[::-1] for s in range(200)])
    assert 0.5 < mixed.mean() < 0.64  # 4 of 8: by chance 4/7


@pytest.mark.parametrize(
    "weights, batch, shares",
    [([3, 1], 8, (6, 2)), ([1, 1, 1], 8, (3, 3, 2)), ([0.7, 0.2, 0.1], 2048, (1434, 409, 205)), ([1, 9], 5, (1, 4))],
)
def test_shares_add_up_to_the_batch(weights, batch, shares):
    assert training_order([10_000] * len(weights), weights, batch, 0).shares == shares


def test_the_order_of_a_seed_never_changes():
    """Runs are resumed by step number alone, also after an upgrade of NumPy."""
    assert training_order([12], None, 4, seed=7)(0).tolist() == [7, 9, 10, 11]


@pytest.mark.parametrize(
    "arguments, message",
    [
        (
            ([5], None, 8, 0),
            "5 records are fewer than one global batch of 8; use a smaller batch, such as --config.batch."
            "global_batch=4, or more records",
        ),
        (([5], None, 0, 0), "global batch 0: it must be at least 1"),
        (([50], None, 8, -1), "seed -1: it must be from 0 to 4294967295"),
        (([50, 50], None, 8, 0), "2 record sets, 0 weights"),
        (([50], [1.0, 1.0], 8, 0), "1 record sets, 2 weights"),
        (([50, 50], [1.0], 8, 0), "2 record sets, 1 weights: give one weight for each"),
        (([50, 50], [1.0, 0.0], 8, 0), "each must be a positive number"),
        (([50, 50], [1.0, float("nan")], 8, 0), "each must be a positive number"),
        (([50, 50], [100.0, 1.0], 8, 0), "leave a record set without a place in a batch of 8"),
    ],
)
def test_mistakes_are_named(arguments, message):
    with pytest.raises(UserError, match=message):
        training_order(*arguments)


def partners(numbers, group):
    """Records beside those that they mix with."""
    numbers = np.asarray(numbers)
    return numbers, numbers.reshape(-1, group)[:, ::-1].reshape(-1)


@pytest.mark.parametrize("group", range(2, 33, 2))
def test_no_held_out_record_meets_itself_or_its_copy(group):
    for count in range(2, 71):
        order = held_out_order(count, group)
        own, partner = partners(order, group)
        assert order[:count].tolist() == list(range(count)) and len(order) == -(-count // group) * group
        assert (own != partner).all()


def test_a_single_held_out_record_is_refused():
    with pytest.raises(UserError, match="1 record cannot be evaluated: images mix with each other; give at least 2"):
        held_out_order(1, 8)
    assert held_out_order(1, 1).tolist() == [0]


@pytest.mark.parametrize("group", [2, 4, 6, 8, 16, 32])
def test_no_training_record_meets_itself_or_its_copy_in_one_set(group):
    for count in range(group, 71, 3):
        order = training_order([count], None, group * (count // group), 1, group)
        assert all((np.not_equal(*partners(order(step), group))).all() for step in range(12))


@pytest.mark.parametrize(
    ("lengths", "weights"), [((3, 40), (1, 1)), ((2, 9), (1, 3)), ((1, 9), (1, 7)), ((3, 3, 3), (2, 1, 1))]
)
@pytest.mark.parametrize("group", [2, 8])
def test_no_training_record_meets_its_copy_in_mixed_sets(lengths, weights, group):
    batch = 8
    order, plain = (training_order(lengths, weights, batch, 1, size) for size in (group, 1))
    met = 0
    for step in range(60):
        own, partner = partners(order(step), group)
        assert (own != partner).all()
        assert sorted(own) == sorted(plain(step))  # the same records, in other places
        met += (np.equal(*partners(plain(step), group))).any()
    assert met > 0 or 1 in lengths  # the case exists: without care some would meet


def test_a_set_that_cannot_be_mixed_with_others_is_refused():
    with pytest.raises(UserError, match="a record set of 1 records has 6 of 8 places in a batch: a record would mix"):
        training_order([1, 20], (3, 1), 8, 0, 8)
    assert training_order([1, 20], (3, 1), 8, 0)(0).shape == (8,)
