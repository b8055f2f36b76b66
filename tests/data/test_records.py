import dataclasses

import numpy as np
import pytest

from sarwmix_jax.data.records import Record, RecordError, decode_record, encode_record

from .conftest import toy_contract, toy_records


def test_a_record_survives_encoding_to_float16_precision():
    contract = toy_contract()
    image = np.random.default_rng(0).normal(-15, 4, contract.shape).astype(np.float32)
    record = Record(image, "p", "s1", "Ireland", labels=("water", "arable"))
    got = decode_record(encode_record(record, "train", contract), contract)
    np.testing.assert_array_equal(got["image"], image.astype(np.float16))
    assert got["labels"].tolist() == [1, 0, 1]
    assert {k: got[k] for k in ("patch_id", "s1_name", "split", "country")} == {
        "patch_id": "p",
        "s1_name": "s1",
        "split": "train",
        "country": "Ireland",
    }


def test_masks_are_kept_to_the_pixel_also_when_eight_does_not_divide_them():
    contract = toy_contract(height=5, width=7, has_valid_pixels=True)
    mask = np.random.default_rng(1).random((5, 7)) < 0.5
    record = Record(np.full((2, 5, 7), -9.0), "p", valid_pixels=mask)
    data = encode_record(record, "train", contract)
    np.testing.assert_array_equal(decode_record(data, contract)["valid_pixels"], mask)


def test_the_same_record_gives_the_same_bytes():
    contract = toy_contract()
    record = toy_records(1)[0]
    assert encode_record(record, "train", contract) == encode_record(record, "train", contract)


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize(
    "change, message",
    [
        ({"image": np.zeros((2, 4, 5), np.float32)}, r"shape \(2, 4, 5\), expected \(2, 4, 4\)"),
        ({"image": np.zeros((2, 4, 4), np.int16)}, "type int16, expected floating point"),
        ({"image": np.full((2, 4, 4), 1e6)}, "32 values are not finite in float16, first in VH"),
        ({"labels": ("Forest",)}, "label 'Forest' is not one of the 3 classes"),
    ],
)
def test_what_breaks_the_contract_is_refused(change, message):
    record = dataclasses.replace(toy_records(1)[0], **change)
    with pytest.raises(RecordError, match=message):
        encode_record(record, "train", toy_contract())


def test_one_nan_is_named_by_band():
    image = np.full((2, 4, 4), -10.0)
    image[1, 2, 3] = np.nan
    with pytest.raises(RecordError, match="1 values are not finite in float16, first in VV"):
        encode_record(Record(image, "p"), "train", toy_contract())


def test_a_promised_mask_must_be_there():
    with pytest.raises(RecordError, match=r"valid_pixels is nothing, expected bool \(4, 4\)"):
        encode_record(toy_records(1)[0], "train", toy_contract(has_valid_pixels=True))


def test_a_georeference_survives_to_the_last_bit():
    contract = toy_contract(georeferenced=True)
    transform = (10.0, 0.0, 600_000 + 1 / 3, 0.0, -10.0, 5_400_000.1)
    record = dataclasses.replace(toy_records(1)[0], crs="EPSG:32633", transform=transform)
    got = decode_record(encode_record(record, "train", contract), contract)
    assert got["crs"] == "EPSG:32633" and tuple(got["transform"]) == transform
    for wrong in (None, transform[:5], (*transform[:5], np.nan)):
        with pytest.raises(RecordError, match="expected 6 finite numbers"):
            encode_record(dataclasses.replace(record, transform=wrong), "train", contract)
