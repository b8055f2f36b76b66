"""A converted pretraining file is continued as a run: optimiser state by name, restored by the training code."""

import json
from dataclasses import replace

import jax
import numpy as np
import pytest
from flax import nnx

from sarwmix_jax.checkpoints.integrity import FOLDER
from sarwmix_jax.checkpoints.reading import Reader
from sarwmix_jax.checkpoints.restore import previous_run
from sarwmix_jax.checkpoints.taking import take_parameters
from sarwmix_jax.conversion.hints import Hints
from sarwmix_jax.conversion.moments import convert_moments, parameter_order
from sarwmix_jax.conversion.pickled import Inert
from sarwmix_jax.conversion.recognition import recognise
from sarwmix_jax.conversion.table import Extent, entries
from sarwmix_jax.conversion.torch_file import read_checkpoint
from sarwmix_jax.errors import UserError
from sarwmix_jax.models.mixmae import MixMAE
from sarwmix_jax.models.state import flatten_names, split_model
from sarwmix_jax.settings.sections import OptimizerSettings
from sarwmix_jax.training.optimizer import DECAYED, make_optimizer
from tests.conversion.test_command import FINETUNE, PRETRAIN, run
from tests.support import GOLDEN, TINY, published_weights

FILE = GOLDEN / "pretrain_tiny.pth"
HINTS = Hints(statistics="bigearthnet_v2", decoder_heads=4)


def test_order_and_groups_are_the_published_ones():
    decay = json.loads((GOLDEN / "schedules_and_groups.json").read_text())["pretrain_weight_decay_base"]
    plain, decayed = parameter_order(entries(Extent((2, 2, 18, 2), 8)))
    assert [entry.published for entry in plain] == [name for name, value in decay.items() if value == 0]
    assert [entry.published for entry in decayed] == [name for name, value in decay.items() if value == 0.05]
    assert all((entry.name.rsplit("/", 1)[-1] in DECAYED) == (entry in decayed) for entry in plain + decayed)


def test_moments_by_hand():
    file = read_checkpoint(FILE)
    moments = convert_moments(file.optimizer, recognise(file.model, HINTS, None))
    state = file.optimizer["state"]
    assert moments.count == 8 and len(moments.first) == len(moments.second) == 111
    # Without decay the patch embedding's bias comes first; with decay the mask token does.
    np.testing.assert_array_equal(moments.first["encoder/patch_embed/proj/bias"], state[0]["exp_avg"])
    np.testing.assert_array_equal(moments.second["decoder/mask_token"], state[71]["exp_avg_sq"][0, 0])
    np.testing.assert_array_equal(moments.first["decoder/predict/kernel"], state[110]["exp_avg"].T)


def broken(change):
    file = read_checkpoint(FILE)
    state = {number: dict(entry) for number, entry in file.optimizer["state"].items()}
    groups = [dict(group) for group in file.optimizer["param_groups"]]
    change(state, groups)
    return {"state": state, "param_groups": groups}, recognise(file.model, HINTS, None)


def one_value(state, key: str, value: float, dtype: type = np.float64) -> None:
    """A moment of zeros but for its last value."""
    moment = np.zeros(state[3][key].shape, dtype)
    moment[-1] = value
    state[3][key] = moment


@pytest.mark.parametrize(
    ("change", "why"),
    [
        (lambda state, groups: state.pop(5), "111 parameters"),
        (lambda state, groups: groups.pop(), "groups of 71"),
        (lambda state, groups: groups.reverse(), "groups of 71"),
        (lambda state, groups: groups[0].pop("params"), "groups of 71"),
        (lambda state, groups: groups[0].update(params=np.arange(71)), "groups of 71"),
        (lambda state, groups: groups[1].update(params=[np.arange(2)] * 40), "groups of 71"),
        (lambda state, groups: state[3].update(step=9), "different numbers of steps"),
        (lambda state, groups: state[3].update(step=0.5), "whole number of steps"),
        (lambda state, groups: state[3].update(exp_avg=np.zeros(3)), "parameter's shape"),
        (lambda state, groups: state[3].pop("exp_avg_sq"), "parameter's shape"),
        (lambda state, groups: state.update({3: None}), "whole number of steps"),
        (lambda state, groups: state[3].update(step=True), "whole number of steps"),
        (lambda state, groups: state[3].update(step=float("nan")), "whole number of steps"),
        (lambda state, groups: state[3].update(step=Inert("numpy._core.multiarray.scalar")), "whole number of steps"),
        (lambda state, groups: state[3].update(exp_avg=Inert("numpy._core.multiarray.scalar")), "parameter's shape"),
        (lambda state, groups: one_value(state, "exp_avg", np.nan), r"exp_avg of \S+weight is not finite; leave"),
        (lambda state, groups: one_value(state, "exp_avg_sq", np.inf), "exp_avg_sq .* is not finite"),
        (lambda state, groups: one_value(state, "exp_avg", 1e39), "exp_avg .* is not finite"),  # beyond float32
        (lambda state, groups: one_value(state, "exp_avg_sq", -1e-9), "has negative values"),
        (lambda state, groups: one_value(state, "exp_avg", 1, np.bool_), "not floating-point but bool"),
        (lambda state, groups: one_value(state, "exp_avg", 1, np.uint8), "not floating-point but uint8"),
        (lambda state, groups: one_value(state, "exp_avg_sq", 1, np.int64), "not floating-point but int64"),
    ],
)
def test_states_that_do_not_fit(change, why):
    with pytest.raises(UserError, match=why):
        convert_moments(*broken(change))


def test_the_training_code_restores_it(tmp_path):
    options = [*PRETRAIN, "--with-optimizer", "--mix-group", "4", "--norm-pix", "no"]
    assert run(FILE, tmp_path / "run", *options) == 0
    _, params, fixed = split_model(nnx.eval_shape(lambda: MixMAE(TINY, rngs=nnx.Rngs(0))))
    opt_state = jax.eval_shape(make_optimizer(OptimizerSettings(clip_grad=1.0)).init, params)
    shapes = {"params": params, "fixed": fixed, "opt_state": opt_state}
    target = jax.tree.map(lambda leaf: np.zeros(leaf.shape, leaf.dtype), shapes)
    checkpoints = Reader(tmp_path / "run" / FOLDER)
    restored = checkpoints.restore(target, 8)
    file = read_checkpoint(FILE)
    moments = convert_moments(file.optimizer, recognise(file.model, HINTS, None))
    adam = restored.state["opt_state"][1]
    assert int(adam.count) == 8
    for expected, tree in ((moments.first, adam.mu), (moments.second, adam.nu)):
        found = flatten_names(tree)
        assert all(np.array_equal(found[name], expected[name]) for name in expected)
    previous = previous_run(tmp_path / "run" / FOLDER)
    assert previous is not None and (previous.step, previous.progress["mix_group"]) == (8, 4)
    assert previous.settings["model"]["decoder_heads"] == 4 and previous.settings["model"]["windows"] is None
    assert previous.settings["loss"]["norm_pix"] is False and restored.description["norm_pix"] is False
    assert restored.description["progress"]["epoch"] == 64


def test_a_new_run_starts_from_a_converted_checkpoint(tmp_path):
    """init_from: everything of a pretraining file, and the encoder alone of a classifier."""
    drawn, tables = zeros_of(TINY)
    names = set(flatten_names(drawn))
    assert run(FILE, tmp_path / "pretrained", *PRETRAIN) == 0
    params, fixed, report = take_parameters(drawn, tables, str(tmp_path / "pretrained"))
    assert set(report.taken) == names and not report.kept and not report.unused
    expected = published_weights("pretrain_tiny")
    assert all(np.array_equal(array, expected[name]) for name, array in flatten_names(params).items())
    assert all(np.array_equal(array, expected[name]) for name, array in flatten_names(fixed).items())
    assert run(GOLDEN / "finetune_tiny.pth", tmp_path / "classifier", *FINETUNE) == 0
    _, _, report = take_parameters(drawn, tables, str(tmp_path / "classifier"))
    assert set(report.taken) == {name for name in names if name.startswith("encoder/")}
    assert set(report.kept) == {name for name in names if name.startswith("decoder/")}
    assert report.unused == ["head/bias", "head/kernel"]


def test_an_encoder_that_does_not_fit_in_full_is_an_error(tmp_path):
    drawn, tables = zeros_of(replace(TINY, depths=(1, 1, 3, 1)))
    assert run(FILE, tmp_path / "pretrained", *PRETRAIN) == 0
    with pytest.raises(
        UserError, match=r"the encoder is not loaded in full \(13 parameters, such as encoder/stages/2/"
    ):
        take_parameters(drawn, tables, str(tmp_path / "pretrained"))


def zeros_of(settings):
    """Parameters and fixed tables of a model, all zero."""
    _, *trees = split_model(nnx.eval_shape(lambda: MixMAE(settings, rngs=nnx.Rngs(0))))
    return jax.tree.map(lambda leaf: np.zeros(leaf.shape, leaf.dtype), trees)
