import pytest
import tensorflow_datasets as tfds

from sarwmix_jax.data.sources import SplitRange, parse_split
from sarwmix_jax.errors import UserError

RECORDS = {"train": 237, "validation": 41}


@pytest.mark.parametrize(
    "expression",
    [
        *("train", "train[:12.5%]", "train[12.5%:50%]", "train[-10%:]", "train[5:20]", "train[-7:]", "train[:-3]"),
        *("train+validation", "train[:1%]+validation[50%:]", "train[230:237]", "train[:0.5%]"),
    ],
)
def test_ranges_are_those_of_tfds(tmp_path, expression):
    infos = [
        tfds.core.SplitInfo(
            name=name,
            shard_lengths=[count],
            num_bytes=1,
            filename_template=tfds.core.ShardedFileTemplate(
                data_dir=tmp_path, dataset_name="toy", split=name, filetype_suffix="array_record"
            ),
        )
        for name, count in RECORDS.items()
    ]
    files = tfds.core.SplitDict(infos)[expression].file_instructions
    expected = [(f.skip, f.skip + f.take if f.take >= 0 else f.examples_in_shard) for f in files]
    assert [(part.start, part.stop) for part in parse_split(expression, RECORDS, "toy")] == expected


def test_names_and_order_are_kept():
    assert parse_split("validation+train[:2]", RECORDS, "toy") == [
        SplitRange("validation", 0, 41),
        SplitRange("train", 0, 2),
    ]


@pytest.mark.parametrize(
    "expression, message",
    [
        ("tst", r"no split 'tst' in toy; it has train \(237 records\), validation \(41 records\)"),
        ("train[:0]", r"split 'train\[:0\]' of toy is empty"),
        ("train[50:20]", "is empty"),
        ("train[5", "cannot be understood; write it as train, train"),
        ("train[:0.5]", "0.5 is not a whole number of records; write 0.5% for percent"),
        ("train[:101%]", "101% lies outside"),
        ("train[:238]", "238 lies outside the split's 237 records"),
        ("", "cannot be understood"),
        ("train+", "cannot be understood"),
    ],
)
def test_mistakes_are_named(expression, message):
    with pytest.raises(UserError, match=message) as caught:
        parse_split(expression, RECORDS, "toy")
    assert "\n" not in str(caught.value)
