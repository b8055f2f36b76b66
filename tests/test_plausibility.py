"""The check "can this be VH, VV in dB?": preparation, a run and inference give the same result for the same images."""

import json

import numpy as np
import pyarrow as pa
import pytest
from array_record.python import array_record_module
from tensorflow_datasets.proto import tf_example_pb2

from sarwmix_jax import plausibility
from sarwmix_jax.data.records import CONTRACT_FILE, Record
from sarwmix_jax.data.sources import check_contract, open_records
from sarwmix_jax.data.verification import CHECKSUMS_FILE
from sarwmix_jax.errors import UserError
from sarwmix_jax.facts.bands import BANDS
from sarwmix_jax.inference.checks import checked_db
from sarwmix_jax.preparation.landscapes import make_scene
from sarwmix_jax.preparation.plan import Plan
from sarwmix_jax.preparation.shards import prepare
from tests.data.conftest import toy_contract
from tests.record_sets import write_records

SIDE = 48
COUNT = 6


def speckled(*levels_db, looks=4.4, count=COUNT) -> np.ndarray:
    """Images of one level a band, in dB."""
    power = np.random.default_rng(0).gamma(looks, 1 / looks, (count, len(levels_db), SIDE, SIDE))
    return (10 * np.log10(power) + np.array(levels_db)[:, None, None]).astype(np.float32)


def land() -> np.ndarray:
    return np.stack([make_scene(np.random.default_rng([1, n]), SIDE).image_db for n in range(COUNT)])


def with_one(images: np.ndarray, other: np.ndarray) -> np.ndarray:
    images = images.copy()
    images[2] = other
    return images


def holes(value: float) -> np.ndarray:
    images = land()
    images[3, 0, 5:9, 5:9] = value
    return images


def standardised(offset: float = 0.0) -> np.ndarray:
    return (land() - np.array([-19.2, -12.5])[:, None, None] + offset) / np.array([5.4, 5.0])[:, None, None]


PLAUSIBLE = {
    "land": land,
    "calm sea, both bands noise": lambda: speckled(-25.2, -25.0),
    "noise floor, VH above VV by less than a decibel": lambda: speckled(-24.5, -25.0),
    "brighter city": lambda: speckled(-9.0, -2.5),
    "one tile of buildings among land": lambda: with_one(land(), speckled(-1.5, 3.0, count=1)[0]),
    "one calm tile with VH above VV among land": lambda: with_one(land(), speckled(-23.5, -25.0, count=1)[0]),
    "a tile of buildings alone": lambda: speckled(-1.5, 3.0, count=1),
    "a calm tile with VH above VV alone": lambda: speckled(-23.5, -25.0, count=1),
    "a corner reflector of 35 dB": lambda: holes(35.0),
    "noise removed down to -103 dB": lambda: holes(-103.0),
}
REFUSED = {
    "linear power": (lambda: 10 ** (land() / 10), "linear power, not dB"),
    "one linear image among dB": (lambda: with_one(land(), 10 ** (land()[2] / 10)), "linear power, not dB"),
    "amplitude": (lambda: 300 * 10 ** (land() / 20), "amplitudes or digital numbers"),
    "standardised, median above zero": (lambda: standardised(2.0), "standardised or scaled"),
    "standardised, median below zero": (lambda: standardised(-2.0), "standardised or scaled"),
    "standard normal noise": (
        lambda: np.random.default_rng(0).standard_normal((COUNT, 2, SIDE, SIDE)),
        "standardised or scaled",
    ),
    "swapped": (lambda: land()[:, ::-1], "the bands are swapped"),
    "swapped, by two decibels": (lambda: speckled(-20.0, -22.0), "the bands are swapped"),
    "one image of land swapped": (lambda: land()[:1, ::-1], "the bands are swapped"),
    "one image of a city swapped": (lambda: speckled(-5.0, -12.0, count=1), "the bands are swapped"),
    "one image of calm water swapped": (lambda: speckled(-22.5, -27.0, count=1), "the bands are swapped"),
    "one image standardised": (lambda: standardised(-2.0)[:1], "standardised or scaled"),
    "one image in bels": (lambda: land()[:1] / 10, "standardised or scaled"),
    "fill of -9999": (lambda: holes(-9999.0), "are not backscatter in dB"),
    "fill of 32767": (lambda: holes(32767.0), "are not backscatter in dB"),
    "NaN": (lambda: holes(np.nan), "not finite"),
    "infinite": (lambda: holes(-np.inf), "not finite"),
}


class Reader:
    """Gives the image of a row."""

    def __init__(self, images):
        self.images = images

    def __call__(self, row) -> Record:
        return Record(self.images[row["number"]], row["patch_id"])


def prepared(images, folder) -> None:
    contract = toy_contract(height=SIDE, width=SIDE, classes=())
    rows = [{"patch_id": f"p{n}", "split": "train", "number": n} for n in range(len(images))]
    prepare(Plan(contract, pa.Table.from_pylist(rows)), Reader(images), folder / "prepared")


def run_check(images, folder) -> None:
    """The check of a run, on records that were written without a writer's checks."""
    contract = toy_contract(height=SIDE, width=SIDE, classes=())
    write_records(folder / "records", contract, {"train": [Record(land()[0], f"p{n}") for n in range(len(images))]})
    source = open_records(folder / "records", "train")
    reader = array_record_module.ArrayRecordReader(str(source._files[0].path))
    examples = [tf_example_pb2.Example.FromString(data) for data in reader.read_all()]
    reader.close()
    writer = array_record_module.ArrayRecordWriter(str(source._files[0].path), "group_size:1,uncompressed")
    for example, image in zip(examples, images, strict=True):
        example.features.feature["image"].bytes_list.value[0] = image.astype(np.float16).tobytes()
        writer.write(example.SerializeToString())
    writer.close()
    (folder / "records" / CHECKSUMS_FILE).unlink()
    fields = json.loads((folder / "records" / CONTRACT_FILE).read_text())  # its statistics are those of the land
    (folder / "records" / CONTRACT_FILE).write_text(json.dumps(fields | {"statistics": None}))
    check_contract(open_records(folder / "records", "train"))


def inference(images, _) -> None:
    checked_db(images, "images_db")


PLACES = (prepared, run_check, inference)


@pytest.mark.parametrize("kind", PLAUSIBLE)
def test_all_places_accept(kind, tmp_path):
    images = np.asarray(PLAUSIBLE[kind](), np.float32)
    for place in PLACES:
        place(images, tmp_path)


@pytest.mark.parametrize("kind", REFUSED)
def test_all_places_refuse_for_the_same_reason(kind, tmp_path):
    make, reason = REFUSED[kind]
    images = np.asarray(make(), np.float32)
    for place in PLACES:
        with pytest.raises(UserError, match=reason) as refusal:
            place(images, tmp_path)
        assert "\n" not in str(refusal.value), place
    assert not (tmp_path / "prepared").exists()


@pytest.mark.parametrize("kind", [kind for kind in REFUSED if REFUSED[kind][1] != "not finite"])
def test_power_is_judged_as_the_decibels_it_becomes(kind):
    """The check of linear power refuses the same images that a run would refuse in dB."""
    images_db = np.clip(np.asarray(REFUSED[kind][0](), np.float32), -60, 300)
    refused = plausibility.judge_db(images_db, BANDS)
    found = plausibility.judge_power(10.0 ** (images_db.astype(np.float64) / 10), BANDS)
    assert (found is None) == (refused is None)


def test_other_bands():
    """The order is judged where both polarisations of a pair are there; one band alone by its range and sign."""
    assert plausibility.judge_db(speckled(-20.0), ("HH",)) is None
    assert plausibility.judge_db(speckled(-20.0, -13.0), ("HV", "HH")) is None
    assert plausibility.judge_db(speckled(-13.0, -20.0), ("HH", "HV")) is None
    assert plausibility.judge_db(speckled(-13.0, -20.0), ("VV", "HH")) is None
    assert plausibility.judge_db(speckled(-13.0, -20.0), ("HV", "HH")).kind == plausibility.SWAPPED
    assert plausibility.judge_db(speckled(-20.0, -13.0), ("VV", "VH")).kind == plausibility.SWAPPED
    assert plausibility.judge_db(speckled(-1.0), ("HH",)).kind == plausibility.SCALED
    assert plausibility.judge_db(10 ** (speckled(-20.0) / 10), ("HH",)).kind == plausibility.LINEAR


def test_power_that_is_none():
    assert plausibility.judge_power(10 ** (land() / 10), BANDS) is None
    assert plausibility.judge_power(land(), BANDS).kind == plausibility.DECIBEL
    assert plausibility.judge_power(300 * 10 ** (land() / 20), BANDS).kind == plausibility.NO_POWER
    assert plausibility.judge_power(10 ** (land()[:, ::-1] / 10), BANDS).kind == plausibility.SWAPPED


def test_pixels_that_are_not_valid_are_not_judged():
    images, valid = holes(-9999.0), np.ones((COUNT, SIDE, SIDE), bool)
    valid[3, 5:9, 5:9] = False
    assert plausibility.judge_db(images, BANDS, valid) is None
    assert plausibility.judge_db(images, BANDS).image == 3
    assert plausibility.judge_db(images, BANDS, np.zeros_like(valid)) is None


@pytest.mark.parametrize(
    "unit, inside, outside",
    [
        ("dB", (-200.0, 60.0), (-200.1, 60.1, -np.inf, np.inf)),
        ("linear", (-0.05, 0.0, 1e6), (-0.051, 1.001e6, -np.inf, np.inf)),
        (None, (-200.0, 1e6), (-9999.0, 1.001e6, -np.inf, np.inf)),
    ],
)
def test_the_place_of_a_value_outside_of_the_range(unit, inside, outside):
    values = np.full((2, 8, 8), -0.01, np.float32)
    for number, value in enumerate(inside):
        values[1, 2, number] = value
    assert plausibility.first_outside(values, unit) is None
    for value in outside:
        values[1, 5, 6] = value
        assert plausibility.first_outside(values, unit) == (1, 5, 6)
        hidden = values.copy()
        hidden[0, 5, 6] = np.nan
        assert plausibility.first_outside(hidden, unit) is None
