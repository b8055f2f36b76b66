"""Bands are data: a record set of other polarisations is written, opened, read, checked and inspected."""

import dataclasses

import numpy as np
import pyarrow as pa
import pytest

from sarwmix_jax.data.pipeline import TrainingInput
from sarwmix_jax.data.records import Expectation, Record
from sarwmix_jax.data.sources import check_contract, open_records
from sarwmix_jax.errors import UserError
from sarwmix_jax.geotiff.scenes import find_scenes
from sarwmix_jax.preparation.inspection import as_text, inspect, write_contact_sheet
from sarwmix_jax.preparation.plan import Plan
from sarwmix_jax.preparation.shards import prepare
from tests.data.conftest import toy_contract
from tests.data_prep.test_geotiff import write_raster

LEVEL_DB = {"HH": -11.0, "HV": -18.0, "VV": -12.0, "VH": -19.0}


def image_db(bands: tuple[str, ...], number: int, side: int = 16) -> np.ndarray:
    levels = np.array([LEVEL_DB[band] for band in bands])[:, None, None]
    return (levels + 2 * np.random.default_rng(number).standard_normal((len(bands), side, side))).astype(np.float32)


@dataclasses.dataclass(frozen=True)
class Reader:
    bands: tuple[str, ...]

    def __call__(self, row) -> Record:
        return Record(image_db(self.bands, row["number"]), row["patch_id"])


@pytest.mark.parametrize("bands", [("HH",), ("HH", "HV"), ("HV", "HH"), ("VH", "VV", "HH", "HV")])
def test_a_set_of_other_bands_is_written_read_and_inspected(tmp_path, bands):
    contract = toy_contract(bands=bands, height=16, width=16, classes=())
    rows = [{"patch_id": f"p{n}", "split": "train", "number": n} for n in range(12)]
    prepare(Plan(contract, pa.Table.from_pylist(rows), 5), Reader(bands), tmp_path / "out")
    source = open_records(tmp_path / "out", "train")
    assert source.contract.bands == bands and len(source.contract.statistics.mean_db) == len(bands)
    np.testing.assert_allclose(source.contract.statistics.mean_db, [LEVEL_DB[band] for band in bands], atol=0.15)
    check_contract(source, Expectation(bands=bands))
    with pytest.raises(UserError, match=f"bands are {', '.join(bands)}, expected VH, VV"):
        check_contract(source)
    record = source[3]
    expected = image_db(bands, int(record["patch_id"][1:]))
    np.testing.assert_array_equal(record["image"], expected.astype(np.float16))
    data = TrainingInput(source, 4, 0)
    assert next(data)["image"].shape == (4, len(bands), 16, 16)
    data.close()
    found = inspect(tmp_path / "out")
    assert found.failures == () and f"{', '.join(bands)} sigma0 in dB" in as_text(found)
    write_contact_sheet(found, tmp_path / "sheet.png")
    assert (tmp_path / "sheet.png").read_bytes().startswith(b"\x89PNG")


def test_scenes_of_other_bands_are_found(tmp_path):
    for name in ("HH", "HV", "VV"):
        write_raster(tmp_path / f"scene_{name}.tif", image_db((name,), 0)[0])
    ((scene,), problems) = find_scenes([tmp_path], bands=("HV", "HH"))
    assert scene.polarisations == ("HV", "HH") and scene.name == "scene" and len(problems) == 1
    np.testing.assert_array_equal(scene.read()[1], image_db(("HH",), 0)[0])
    ((scene,), _) = find_scenes([tmp_path], bands=("VV",))
    assert scene.polarisations == ("VV",)
