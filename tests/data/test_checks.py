import dataclasses
import json

import numpy as np
import pytest
from array_record.python import array_record_module

from sarwmix_jax.data.records import Expectation, Record
from sarwmix_jax.data.sources import check_contract, open_records
from sarwmix_jax.errors import UserError
from sarwmix_jax.facts.bands import STATISTICS
from sarwmix_jax.preparation.landscapes import make_scene
from tests.record_sets import write_records

from .conftest import toy_contract
from .samples import (
    bigearthnet_pairs,
    needs_shared_data,
    opera_pairs,
    opera_record,
    read_pair,
    write_opera_records,
)


def source_of(tmp_path, images, name="toy", **changes):
    height, width = images[0].shape[1:]
    contract = toy_contract(name=name, height=height, width=width, classes=(), **changes)
    records = [Record(image, f"patch_{n}") for n, image in enumerate(images)]
    write_records(tmp_path / name, contract, {"train": records})
    return open_records(tmp_path / name, "train")


@pytest.fixture
def images():
    return [make_scene(np.random.default_rng([1, n])).image_db for n in range(8)]


def refusal(source, expected=None) -> str:
    with pytest.raises(UserError) as caught:
        check_contract(source, expected)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_good_records_pass(tmp_path, images):
    check_contract(source_of(tmp_path, images))
    check_contract(
        source_of(tmp_path, images, "other"),
        Expectation(quantity="sigma0", side=120, classes=(), statistics=STATISTICS["bigearthnet_v2"]),
    )


@pytest.mark.parametrize(
    "expected, message",
    [
        (Expectation(bands=("VV", "VH")), "bands are VH, VV, expected VV, VH; prepare the records again with"),
        (Expectation(unit="linear"), "values are dB, expected linear; convert them while preparing"),
        (Expectation(quantity="gamma0"), "values are sigma0, expected gamma0"),
        (Expectation(side=128), "images are 120x120 pixels, expected 128x128"),
        (Expectation(classes=("a",)), "labels are 0 classes, expected 1"),
    ],
)
def test_what_the_contract_states_is_compared(tmp_path, images, expected, message):
    assert message in refusal(source_of(tmp_path, images), expected)


def test_statistics_far_from_the_expected_are_refused(tmp_path, images):
    shifted = source_of(tmp_path, [image - 30 for image in images])
    assert "VH has mean -4" in refusal(shifted, Expectation(statistics=STATISTICS["bigearthnet_v2"]))


def test_bands_swapped_in_the_metadata_are_refused(tmp_path, images):
    source = source_of(tmp_path, images, bands=("VV", "VH"))
    assert "bands are VV, VH, expected VH, VV" in refusal(source)


def test_bands_swapped_in_the_values_are_refused(tmp_path, images):
    message = refusal(source_of(tmp_path, [image[::-1] for image in images]))
    assert "dB above VV (median of 8 images), but is always below: the bands are swapped" in message


def test_linear_values_given_as_db_are_refused(tmp_path, images):
    message = refusal(source_of(tmp_path, [10 ** (image / 10) for image in images]))
    assert "0% of them negative" in message and "linear power, not dB; convert it with 10*log10" in message


def test_one_linear_record_among_others_is_found(tmp_path, images):
    images[5] = 10 ** (images[5] / 10)
    assert "patch_5: values from" in refusal(source_of(tmp_path, images))


def test_standardised_values_are_refused(tmp_path, images):
    mean, std = (np.array(v)[:, None, None] for v in dataclasses.astuple(STATISTICS["bigearthnet_v2"]))
    bright = [(image - mean) / std + 0.5 for image in images]
    assert "standardised or scaled, not dB; give the values in dB" in refusal(source_of(tmp_path, bright))


def test_fill_values_are_refused(tmp_path, images):
    images[3] = images[3].copy()
    images[3][0, 0, 0] = -9999
    assert "patch_3: values from -1e+04" in refusal(source_of(tmp_path, images))


def rewrite(source, old: bytes, new: bytes) -> None:
    """Change bytes inside the records of a source, as a writer without checks might have put them."""
    path = source._files[0].path
    reader = array_record_module.ArrayRecordReader(str(path))
    records = reader.read_all()
    reader.close()
    assert b"".join(records).count(old) == 1
    writer = array_record_module.ArrayRecordWriter(str(path), "group_size:1,uncompressed")
    for record in records:
        writer.write(record.replace(old, new))
    writer.close()


def test_nan_is_refused(tmp_path, images):
    source = source_of(tmp_path, images)
    row = images[2][1, 7].astype(np.float16)
    broken = row.copy()
    broken[7] = np.nan
    rewrite(source, row.tobytes(), broken.tobytes())
    assert "patch_2: 1 values that are not finite, first in VV; fill or leave out" in refusal(source)


def test_a_flipped_bit_on_the_disk_is_refused(tmp_path, images):
    source = source_of(tmp_path, images)
    path = source._files[0].path
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)
    assert "cannot be read" in refusal(source)


def test_masked_values_are_not_judged(tmp_path, images):
    mask = np.ones((120, 120), bool)
    mask[:40] = False
    images = [np.where(mask, image, 50.0) for image in images]
    contract = toy_contract(height=120, width=120, classes=(), has_valid_pixels=True)
    records = [Record(image, f"p{n}", valid_pixels=mask) for n, image in enumerate(images)]
    write_records(tmp_path / "toy", contract, {"train": records})
    check_contract(open_records(tmp_path / "toy", "train"))


def test_a_changed_contract_is_noticed(tmp_path, images):
    source = source_of(tmp_path, images)
    path = source.folder / "contract.json"
    fields = json.loads(path.read_text())
    path.write_text(json.dumps(fields | {"unit": "linear"}))
    with pytest.raises(UserError, match=r"contract.json was changed after the preparation; prepare or copy"):
        open_records(source.folder, "train")
    (source.folder / "checksums.json").unlink()
    assert "values are linear, expected dB" in refusal(open_records(source.folder, "train"))


@pytest.mark.slow
@needs_shared_data
def test_no_real_sample_raises_a_false_alarm_alone_or_together(tmp_path):
    """13 BigEarthNet patches and 210 OPERA scenes, among them open sea where VH and VV are noise."""
    groups = {120: [], 100: []}
    for path in bigearthnet_pairs():
        groups[120].append(read_pair(path))
    for path in opera_pairs():
        groups[100].append(opera_record(path).image)
    assert (len(groups[120]), len(groups[100])) == (13, 210)
    for side, images in groups.items():
        source_of(tmp_path, images, f"all_{side}")
        count = len(images)
        for first in range(0, count, 60):
            check_contract(open_records(tmp_path / f"all_{side}", f"train[{first}:{min(first + 60, count)}]"))
        for number in range(count):
            check_contract(open_records(tmp_path / f"all_{side}", f"train[{number}:{number + 1}]"))


@pytest.mark.slow
@needs_shared_data
def test_real_samples_with_swapped_bands_are_found(tmp_path):
    """Every set of ten or more, and nine in ten single scenes (a calm sea hides the bands in noise)."""
    for side, images in (
        (120, [read_pair(path)[::-1] for path in bigearthnet_pairs()]),
        (100, [opera_record(path).image[::-1] for path in opera_pairs()]),
    ):
        source_of(tmp_path, images, f"all_{side}")
        assert "the bands are swapped" in refusal(open_records(tmp_path / f"all_{side}", "train"))
        found = 0
        for number in range(len(images)):
            try:
                check_contract(open_records(tmp_path / f"all_{side}", f"train[{number}:{number + 1}]"))
            except UserError:
                found += 1
        assert found >= 0.97 * len(images)


@needs_shared_data
def test_opera_records_pass_whole(tmp_path):
    contract = write_opera_records(tmp_path / "opera")
    assert contract.records == {"train": 168, "validation": 42}
    for split in contract.records:
        check_contract(open_records(tmp_path / "opera", split), Expectation(quantity="gamma0", side=100))
