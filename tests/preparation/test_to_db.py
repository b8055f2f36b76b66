import numpy as np
import pytest

from sarwmix_jax.data.records import RecordError
from sarwmix_jax.data.sources import open_records
from sarwmix_jax.preparation.to_db import record_from_db, record_from_power
from tests.data.samples import needs_shared_data, opera_pairs, read_pair, write_opera_records


def power(**places) -> np.ndarray:
    values = np.full((2, 4, 4), 0.1, np.float32)
    for place, value in places.items():
        values[tuple(int(digit) for digit in place[1:])] = value
    return values


def test_power_becomes_db():
    record = record_from_power(power(_000=1.0, _133=0.001), "p", labels=("water",), country="Spain")
    assert record.image.dtype == np.float32
    assert record.image[0, 0, 0] == 0
    np.testing.assert_allclose(record.image[1, 3, 3], -30, rtol=1e-6)
    np.testing.assert_allclose(record.image[0, 1, 1], -10, rtol=1e-6)
    assert record.valid_pixels.all()
    assert (record.patch_id, record.labels, record.country) == ("p", ("water",), "Spain")


def test_nan_in_one_band_makes_the_pixel_invalid_and_finite():
    record = record_from_power(power(_000=np.nan, _111=np.inf, _122=0.01), "p")
    assert np.argwhere(~record.valid_pixels).tolist() == [[0, 0], [1, 1]]
    assert np.isfinite(record.image).all()
    assert record.image[0, 0, 0] == -10
    np.testing.assert_allclose(record.image[1, 0, 0], (-10 * 13 - 20) / 14, rtol=1e-6)


def test_zeros_are_the_floor_or_nodata_as_set():
    values = power(_000=0.0, _010=-0.001, _020=1e-9)
    floor = record_from_power(values, "p")
    assert floor.valid_pixels.all()
    np.testing.assert_allclose(floor.image[0, :3, 0], -60, rtol=1e-6)
    outside = record_from_power(values, "p", zeros="nodata")
    assert np.argwhere(~outside.valid_pixels).tolist() == [[0, 0], [1, 0]]


def test_a_nodata_value_is_left_out():
    record = record_from_power(power(_000=32767.0), "p", nodata=32767.0)
    assert not record.valid_pixels[0, 0] and record.valid_pixels.sum() == 15
    assert record.image.max() < -9


def test_what_cannot_be_a_record_is_refused():
    with pytest.raises(RecordError, match="no valid pixel"):
        record_from_power(np.full((2, 4, 4), np.nan, np.float32), "p")
    with pytest.raises(RecordError, match="most values are negative: they are dB"):
        record_from_power(np.full((2, 4, 4), -12.0, np.float32), "p")
    place = r"-0.0599999987 at band, row, column \(1, 2, 3\) is not linear power; give it as nodata"
    with pytest.raises(RecordError, match=place):
        record_from_power(power(_123=-0.06), "p")
    assert not record_from_power(power(_123=-0.06), "p", nodata=-0.06).valid_pixels[2, 3]
    with pytest.raises(RecordError, match="no valid pixel"):
        record_from_db(np.zeros((2, 4, 4), np.float32), "p", valid=np.zeros((4, 4), bool))


@needs_shared_data
def test_opera_samples_arrive_as_db_records_split_by_place(tmp_path):
    contract = write_opera_records(tmp_path / "opera")
    assert (contract.shape, contract.unit, contract.quantity) == ((2, 100, 100), "dB", "gamma0")
    train = open_records(tmp_path / "opera", "train")
    places = {split: set() for split in contract.records}
    for split in places:
        source = open_records(tmp_path / "opera", split)
        places[split] = {source[n]["patch_id"].split("_")[1] for n in range(len(source))}
    assert len(places["train"]) == 8 and len(places["validation"]) == 2
    assert not places["train"] & places["validation"]
    by_name = {f"{path.parent.name}_{path.name.split('T137-')[1][:10]}": path for path in opera_pairs()}
    for number in (0, 50, 167):
        record = train[number]
        linear = read_pair(by_name[record["patch_id"]])
        np.testing.assert_allclose(10 ** (record["image"].astype(np.float64) / 10), np.maximum(linear, 1e-6), rtol=0.01)
        assert record["valid_pixels"].all()
