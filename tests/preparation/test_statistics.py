import numpy as np
import pytest

from sarwmix_jax.data.records import Record
from sarwmix_jax.data.sources import open_records
from sarwmix_jax.preparation.statistics import count_values, empty_summary, summarise
from tests.data.conftest import CLASSES, toy_contract
from tests.record_sets import write_records


@pytest.fixture
def source(tmp_path):
    """Forty noisy records with holes, the last without a label."""
    rng = np.random.default_rng(0)
    contract = toy_contract(height=16, width=16, has_valid_pixels=True)

    def record(n):
        image = (np.array([-19, -12])[:, None, None] + 4 * rng.standard_normal((2, 16, 16))).astype(np.float16)
        labels = (CLASSES[n % 2],) if n < 39 else ()
        return Record(image, f"p{n}", labels=labels, valid_pixels=rng.random((16, 16)) < 0.9)

    write_records(tmp_path / "toy", contract, {"train": [record(n) for n in range(40)]}, records_per_shard=16)
    return open_records(tmp_path / "toy", "train")


def test_all_numbers_are_those_of_numpy(source):
    summary = summarise(source)
    batch = source.read_batch(range(40))
    assert (summary.records, summary.pixels, summary.unlabelled) == (40, 40 * 256, 1)
    assert list(summary.classes) == [20, 19, 0]
    for number in range(2):
        values = batch["image"][:, number][batch["valid_pixels"]].astype(np.float64)
        band = summary.band(number)
        assert band.mean == pytest.approx(values.mean(), abs=1e-12)
        assert band.std == pytest.approx(values.std(), abs=1e-12)
        assert band.nodata_share == pytest.approx(1 - values.size / (40 * 256), abs=1e-12)
        shares = [0, 1, 50, 99, 100]
        assert band.percentiles(shares) == list(np.percentile(values, shares, method="inverted_cdf"))
        edges = np.linspace(-40, 10, 11)
        np.testing.assert_array_equal(band.histogram(edges), np.histogram(values, edges)[0])
        assert source.contract.statistics.mean_db[number] == pytest.approx(band.mean, abs=1e-9)


def test_workers_and_parts_give_the_same_digits(source, monkeypatch):
    whole = summarise(source)
    monkeypatch.setattr("sarwmix_jax.preparation.statistics._RECORDS_PER_TASK", 7)
    for workers in (1, 2):
        parts = summarise(source, workers)
        np.testing.assert_array_equal(parts.counts, whole.counts)
        assert (parts.band(0).mean, parts.band(0).std) == (whole.band(0).mean, whole.band(0).std)


def test_values_far_from_zero_keep_their_deviation():
    """The difference of two large sums would lose it: 60,000 plus or minus 32."""
    images = np.array([60_000 - 32, 60_000 + 32], np.float16).reshape(1, 1, 1, 2)
    summary = empty_summary(1, 0)
    for _ in range(3):
        summary += type(summary)(1, 2, count_values(images), np.zeros(0, np.int64), 0)
    assert (summary.band(0).mean, summary.band(0).std) == (60_000, 32)


def test_nan_and_nothing():
    images = np.array([np.nan, np.inf, -3, -3], np.float16).reshape(1, 1, 2, 2)
    band = type(empty_summary(1, 0))(1, 4, count_values(images), np.zeros(0, np.int64), 0).band(0)
    assert (band.not_finite, band.valid, band.mean, band.std, band.nodata_share) == (2, 2, -3, 0, 0.5)
    nothing = empty_summary(1, 0).band(0)
    assert np.isnan(nothing.mean) and np.isnan(nothing.std) and np.isnan(nothing.percentiles([50])[0])
