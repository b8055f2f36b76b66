"""The reader on files as torch.save writes them: element types, views, shared storages, plain data."""

import ml_dtypes
import numpy as np
import pytest

from sarwmix_jax.conversion.torch_file import read_checkpoint, sha256_of
from sarwmix_jax.errors import UserError
from tests.conversion import handmade
from tests.conversion.handmade import Args, View, genuine
from tests.support import GOLDEN

GROUPS = [71, 40]  # parameters of the tiny model without and with weight decay


def dtype_of(kind):
    return np.dtype(ml_dtypes.bfloat16 if kind == "bfloat16" else kind)


@pytest.mark.parametrize("kind", handmade.STORAGES)
def test_every_element_type(tmp_path, kind):
    values = np.array([0, 1, 1, 0, 1, 1], np.uint8).astype(dtype_of(kind))
    view = View(kind, "0", 6, 0, (2, 3), (3, 1))
    read = read_checkpoint(handmade.write(tmp_path / "a.pth", {"model": {"w": view}}, {"0": values.tobytes()})).model
    assert read["w"].dtype == dtype_of(kind)
    np.testing.assert_array_equal(read["w"], values.reshape(2, 3))


def test_strided_views_of_a_shared_storage(tmp_path):
    values = np.arange(12, dtype=np.float32)
    views = {
        "plain": View("float32", "7", 12, 0, (3, 4), (4, 1)),
        "transposed": View("float32", "7", 12, 0, (4, 3), (1, 4)),
        "part": View("float32", "7", 12, 5, (2, 2), (4, 2)),
        "scalar": View("float32", "7", 12, 11, (), ()),
        "empty": View("float32", "7", 12, 12, (0, 5), (5, 1)),
    }
    read = read_checkpoint(handmade.write(tmp_path / "a.pth", {"model": views}, {"7": values.tobytes()})).model
    square = values.reshape(3, 4)
    np.testing.assert_array_equal(read["plain"], square)
    np.testing.assert_array_equal(read["transposed"], square.T)
    np.testing.assert_array_equal(read["part"], [[5, 7], [9, 11]])
    assert read["scalar"] == 11 and read["empty"].shape == (0, 5)
    assert np.shares_memory(read["plain"], read["transposed"]) and not read["plain"].flags.writeable


def test_everything_else_is_plain_data(tmp_path):
    tensor = View("float32", "0", 1, 0, (1,), (1,))
    content = {
        "model": {"w": tensor},
        "epoch": 63,
        "args": Args({"lr": 1e-3, "name": "é", "flag": True, "nothing": None, "list": [1, (2, 3)]}),
        "optimizer": {"state": {0: {"exp_avg": tensor}}, "param_groups": [{"params": [0]}]},
        "scaler": {"scale": 65536.0},
    }
    read = read_checkpoint(handmade.write(tmp_path / "a.pth", content, {"0": np.float32(2.5).tobytes()}))
    assert read.epoch == 63
    assert read.args == {"lr": 1e-3, "name": "é", "flag": True, "nothing": None, "list": [1, (2, 3)]}
    assert read.optimizer is not None and read.optimizer["state"][0]["exp_avg"][0] == 2.5


def test_a_bare_state_dict(tmp_path):
    view = View("float32", "0", 1, 0, (1,), (1,))
    read = read_checkpoint(handmade.write(tmp_path / "a.pth", {"w": view}, {"0": bytes(4)}))
    assert list(read.model) == ["w"] and read.optimizer is None and read.epoch is None and read.args is None


@pytest.mark.parametrize("epoch", [-1, 1 << 31, 1 << 500, 3.0, True, None, "3", [3], genuine(np.int64(3))])
def test_an_epoch_that_is_no_small_whole_number_is_unknown(tmp_path, epoch):
    view = View("float32", "0", 1, 0, (1,), (1,))
    path = handmade.write(tmp_path / "a.pth", {"model": {"w": view}, "epoch": epoch}, {"0": bytes(4)})
    assert read_checkpoint(path).epoch is None


@pytest.mark.parametrize(("name", "tensors", "epoch"), [("pretrain", 118, 63), ("finetune", 88, 49), ("flood", 88, 49)])
def test_golden_files(name, tensors, epoch):
    read = read_checkpoint(GOLDEN / f"{name}_tiny.pth")
    assert len(read.model) == tensors and read.epoch == epoch
    assert read.args is not None and read.args["model"] == "mixmim_base"  # misleading on purpose
    assert all(np.isfinite(array).all() for array in read.model.values())


def test_golden_optimiser():
    read = read_checkpoint(GOLDEN / "pretrain_tiny.pth")
    assert read.optimizer is not None
    assert [len(group["params"]) for group in read.optimizer["param_groups"]] == GROUPS
    assert read.optimizer["param_groups"][0]["betas"] == (0.9, 0.95)
    assert read.optimizer["state"][0]["step"] == 8


def test_sha256():
    expected = "f27389775a4b41989f6c7aac8a8fa5a6071541cd16aba637a6a12e740c3b9022"
    assert sha256_of(GOLDEN / "pretrain_tiny.pth") == expected
    with pytest.raises(UserError, match="cannot be read"):
        sha256_of(GOLDEN / "absent.pth")
