"""The validation of a pretraining run and `sarwmix reconstruct` find the same."""

import json

import numpy as np
import pytest

from sarwmix_jax.cli.main import main
from sarwmix_jax.data.records import Record
from sarwmix_jax.training.history import read_log
from sarwmix_jax.training.loop import train
from tests.record_sets import write_records
from tests.training.conftest import labelled_scene, scene_contract


def record_with_gaps(number):
    """A scene of which the first columns are invalid, five times its number and at most all but one."""
    scene = labelled_scene(number)
    valid = np.broadcast_to(np.arange(64) >= min(5 * number, 63), (64, 64))
    return Record(scene.image, scene.patch_id, valid_pixels=valid)


@pytest.mark.slow
@pytest.mark.parametrize("nodata_aware", [False, True])
def test_a_run_validates_as_reconstruct_evaluates(nodata_aware, run_settings, tmp_path):
    records = tmp_path / "records"
    splits = {"train": map(record_with_gaps, range(8)), "validation": map(record_with_gaps, range(11))}
    write_records(records, scene_contract(has_valid_pixels=True), splits)
    changes = {
        "data__nodata_aware": nodata_aware,
        "data__records": (str(records),),
        "data__statistics": "bigearthnet_v2",
    }
    # the run mixes groups of 2, both evaluations groups of 8
    settings = run_settings(**changes, batch__micro_batch=4, batch__mix_group=2, optimizer__stop_after_steps=2)
    train(settings, tmp_path / "run")
    validated = [entry for entry in read_log(tmp_path / "run") if entry["event"] == "validation"][-1]
    place = ["--checkpoint", f"{tmp_path}/run/checkpoints/2", f"--records={records}", f"--out={tmp_path}/out"]
    assert main(["reconstruct", *place, "--samples=1"]) == 0
    (found,) = json.loads((tmp_path / "out" / "reconstruction.json").read_text()).values()
    assert (validated["step"], found["held_out_records"]) == (2, 11)
    assert found["held_out_loss"] == pytest.approx(validated["loss"], rel=1e-6)
    np.testing.assert_allclose(list(found["loss_per_band"].values()), validated["loss_per_band"], rtol=1e-6)
