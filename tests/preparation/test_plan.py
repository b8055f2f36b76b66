import collections
import itertools

import pyarrow as pa
import pytest

from sarwmix_jax.errors import UserError
from sarwmix_jax.preparation.plan import Plan
from tests.data.conftest import toy_contract


def table(splits: dict[str, int]) -> pa.Table:
    rows = [
        {"patch_id": f"{split}_{n:04d}", "split": split, "place": n // 10}
        for split, count in splits.items()
        for n in range(count)
    ]
    return pa.Table.from_pylist(rows)


def test_shards_hold_every_row_once_split_by_split():
    plan = Plan(toy_contract(), table({"test": 5, "train": 23}), records_per_shard=10)
    assert [(s.name, s.split, s.count) for s in plan.shards] == [
        ("toy-train.array_record-00000-of-00003", "train", 10),
        ("toy-train.array_record-00001-of-00003", "train", 10),
        ("toy-train.array_record-00002-of-00003", "train", 3),
        ("toy-test.array_record-00000-of-00001", "test", 5),
    ]
    rows = [(shard.split, row) for shard in plan.shards for row in plan.rows_of(shard)]
    assert all(row["split"] == split for split, row in rows)
    assert len({row["patch_id"] for _, row in rows}) == 28


def test_the_order_depends_on_names_alone_and_spreads_places():
    rows = table({"train": 1000})
    plan = Plan(toy_contract(), rows)
    reversed_plan = Plan(toy_contract(), rows.take(list(range(999, -1, -1))))
    assert plan.rows.equals(reversed_plan.rows)
    assert plan.fingerprint == reversed_plan.fingerprint
    first = collections.Counter(plan.rows["place"].to_pylist()[:125])
    assert len(first) > 60  # an eighth of the records samples most of the hundred places


def test_rows_keep_their_order_where_wanted():
    rows = table({"test": 3, "train": 4})
    kept = Plan(toy_contract(), rows, keep_order=True).rows["patch_id"].to_pylist()
    assert kept == ["train_0000", "train_0001", "train_0002", "train_0003", "test_0000", "test_0001", "test_0002"]
    assert Plan(toy_contract(), rows).rows["patch_id"].to_pylist() != kept


@pytest.mark.parametrize(
    "contract, rows, size",
    [
        ({"version": "1.2.4"}, {"train": 20}, 10),
        ({}, {"train": 21}, 10),
        ({}, {"train": 20}, 5),
    ],
)
def test_the_fingerprint_changes_with_what_is_written(contract, rows, size):
    first = Plan(toy_contract(), table({"train": 20}), 10)
    assert Plan(toy_contract(**contract), table(rows), size).fingerprint != first.fingerprint


def test_mistakes_are_named():
    with pytest.raises(UserError, match="nothing to prepare"):
        Plan(toy_contract(), table({"train": 1}).slice(0, 0))
    with pytest.raises(UserError, match="--records-per-shard=0: at least 1 is needed"):
        Plan(toy_contract(), table({"train": 1}), 0)
    with pytest.raises(UserError, match="split 'val' in the metadata is none of train, validation, test"):
        Plan(toy_contract(), table({"val": 3}))
    twice = pa.concat_tables([table({"train": 3}), table({"train": 1})])
    with pytest.raises(UserError, match="patch train_0000 is named twice"):
        Plan(toy_contract(), twice)


def test_records_of_a_group_stay_together_and_in_order():
    rows = table({"train": 100})
    groups = pa.array([f"g{n}" for n in rows["place"].to_pylist()])
    plan = Plan(toy_contract(), rows.append_column("group", groups))
    places = plan.rows["place"].to_pylist()
    assert sum(a != b for a, b in itertools.pairwise(places)) == 9 and places[0] != 0
    names = plan.rows["patch_id"].to_pylist()
    assert all(names[n : n + 10] == sorted(names[n : n + 10]) for n in range(0, 100, 10))


def test_notes_are_part_of_the_fingerprint():
    plans = [Plan(toy_contract(), table({"train": 5}), notes=notes) for notes in (None, {"snow": 1}, {"snow": 2})]
    assert len({plan.fingerprint for plan in plans}) == 3


def test_one_name_in_two_splits_is_refused():
    rows = [{"patch_id": "a", "split": "train"}, {"patch_id": "a", "split": "test"}]
    with pytest.raises(UserError, match="patch a is named twice"):
        Plan(toy_contract(), pa.Table.from_pylist(rows))
