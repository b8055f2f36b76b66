import json
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.experimental import multihost_utils

from sarwmix_jax.checkpoints.loading import load_parameters, locate
from sarwmix_jax.checkpoints.reading import Reader
from sarwmix_jax.checkpoints.restore import restore_latest
from sarwmix_jax.checkpoints.store import Checkpoints, describe
from sarwmix_jax.errors import UserError
from sarwmix_jax.facts.bands import BandStatistics
from sarwmix_jax.settings.model import ModelSettings
from sarwmix_jax.settings.sections import OptimizerSettings
from sarwmix_jax.training.optimizer import make_optimizer

MODEL = ModelSettings(embed_dim=8, depths=(1, 1, 1, 1), num_heads=(1, 1, 1, 1), windows=(8, 8, 8, 4))
DESCRIPTION = describe(
    "pretraining",
    MODEL,
    BandStatistics((-19.0, -12.0), (5.0, 5.0)),
    "x",
    source={"records": "somewhere"},
    progress={"mix_group": 4},
)


def make_state(value=1.0):
    params = {"encoder": {"stages": {0: {"kernel": jnp.full((3, 4), value), "bias": jnp.arange(4.0)}}}}
    opt_state = make_optimizer(OptimizerSettings()).init(params)
    return {"params": params, "fixed": {"encoder": {"position": jnp.ones((2, 2))}}, "opt_state": opt_state}


def write(folder, steps, keep=None, **more):
    checkpoints = Checkpoints(folder, keep=keep, **more)
    for step in steps:
        checkpoints.save(step, make_state(float(step)), DESCRIPTION)
    checkpoints.wait()
    return checkpoints


def test_a_save_does_not_ask_for_the_step_after_which_to_stop(tmp_path, monkeypatch):
    """JAX takes its number for a count: a later notice to stop would wait for that many steps more."""
    asked = []
    monkeypatch.setattr(multihost_utils, "reached_preemption_sync_point", asked.append)
    write(tmp_path, [500])
    assert Reader(tmp_path).steps() == [500] and not asked


def test_state_comes_back_bit_for_bit(tmp_path):
    checkpoints = write(tmp_path, [3])
    restored = restore_latest(checkpoints, make_state(0.0))
    assert restored.step == 3
    assert restored.description == json.loads(json.dumps(DESCRIPTION))
    assert jax.tree.structure(restored.state) == jax.tree.structure(make_state())
    jax.tree.map(np.testing.assert_array_equal, restored.state, make_state(3.0))


def test_nothing_to_restore(tmp_path):
    assert restore_latest(Checkpoints(tmp_path / "new"), make_state()) is None


def test_last_ones_milestones_and_best_stay(tmp_path):
    checkpoints = Checkpoints(tmp_path, keep=2, milestones={2})
    for step in range(1, 7):
        checkpoints.save(step, make_state(), DESCRIPTION, best=[min(step, 3)])
    checkpoints.wait()
    checkpoints.close()
    assert Reader(tmp_path).steps() == [2, 3, 5, 6]


def test_damaged_newest_checkpoint_is_passed_over_with_a_reason(tmp_path, caplog):
    checkpoints = write(tmp_path, [1, 2])
    checkpoints.close()
    for path in (tmp_path / "2/params").rglob("*"):
        if path.is_file():
            path.write_bytes(b"damaged")
    restored = restore_latest(Checkpoints(tmp_path), make_state())
    assert restored.step == 1
    assert "checkpoint at step 2 cannot be used" in caplog.text


def test_all_damaged_is_an_error(tmp_path):
    write(tmp_path, [1]).close()
    shutil.rmtree(tmp_path / "1/optimizer")
    with pytest.raises(UserError, match="none of the checkpoints"):
        restore_latest(Checkpoints(tmp_path), make_state())


@pytest.mark.parametrize(
    ("leaf", "message"),
    [
        (jnp.ones((3, 4), jnp.bfloat16), r"float32\[3, 4\], the run needs bfloat16"),
        (jnp.ones((3, 5)), r"the run needs float32\[3, 5\]"),
    ],
)
def test_other_dtype_or_shape_is_refused(tmp_path, leaf, message):
    checkpoints = write(tmp_path, [1])
    target = make_state()
    target["params"]["encoder"]["stages"][0]["kernel"] = leaf
    with pytest.raises(UserError, match=message):
        restore_latest(checkpoints, target)


def test_other_names_are_refused(tmp_path):
    checkpoints = write(tmp_path, [1])
    target = make_state()
    target["params"]["head"] = {"kernel": jnp.ones(2)}
    with pytest.raises(UserError, match="params lacks head/kernel"):
        restore_latest(checkpoints, target)


@pytest.mark.parametrize("place", ["", "checkpoints", "checkpoints/1"])
def test_parameters_alone(tmp_path, place):
    write(tmp_path / "checkpoints", [1]).close()
    loaded = load_parameters(tmp_path / place)
    assert loaded.step == 1
    assert loaded.description["kind"] == "pretraining"
    np.testing.assert_array_equal(loaded.params["encoder"]["stages"][0]["kernel"], np.ones((3, 4)))
    np.testing.assert_array_equal(loaded.fixed["encoder"]["position"], np.ones((2, 2)))


def test_parameters_of_a_checkpoint_without_optimizer(tmp_path):
    checkpoints = Checkpoints(tmp_path)
    state = make_state()
    del state["opt_state"]
    checkpoints.save(0, state, DESCRIPTION)
    checkpoints.close()
    assert load_parameters(tmp_path).step == 0


def test_missing_checkpoints_are_errors(tmp_path):
    with pytest.raises(UserError, match="no checkpoint in"):
        load_parameters(tmp_path)
    write(tmp_path / "checkpoints", [1, 2]).close()
    with pytest.raises(UserError, match="no checkpoint at step 7 in"):
        locate(tmp_path, 7)


def test_unfinished_checkpoint_does_not_count(tmp_path):
    write(tmp_path, [1, 2]).close()
    (tmp_path / "2").rename(tmp_path / "2.orbax-checkpoint-tmp-0")
    assert locate(tmp_path) == (tmp_path, 1)
    assert restore_latest(Checkpoints(tmp_path), make_state()).step == 1


def test_a_run_may_be_named_by_a_number(tmp_path):
    for folder in ("runs/2020/checkpoints/7", "runs/2021/checkpoints/3", "kept/5/params", "kept/2022"):
        (tmp_path / folder).mkdir(parents=True)
    assert locate(tmp_path / "runs" / "2020") == (tmp_path / "runs" / "2020" / "checkpoints", 7)
    assert locate(tmp_path / "runs" / "2021" / "3") == (tmp_path / "runs" / "2021" / "checkpoints", 3)
    assert locate(tmp_path / "kept" / "5") == (tmp_path / "kept", 5)
    for name in ("4", "kept/2022"):
        with pytest.raises(UserError, match=f"no checkpoint in {tmp_path}/{name}; "):
            locate(tmp_path / name)
