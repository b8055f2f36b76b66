"""The table of names and layouts, against the published names and those of the models."""

import json

import numpy as np
import pytest
from flax import nnx

from sarwmix_jax.conversion.recognition import published_shape
from sarwmix_jax.conversion.table import (
    FIXED,
    INDEX_BUFFER,
    Extent,
    entries,
    extent_of,
    from_published,
    relative_position_index,
    to_published,
    window_side,
    without_prefix,
)
from sarwmix_jax.conversion.torch_file import read_checkpoint
from sarwmix_jax.models.classifier import Classifier
from sarwmix_jax.models.mixmae import MixMAE
from sarwmix_jax.models.state import flatten_names, split_model
from sarwmix_jax.settings.model import published
from tests.support import GOLDEN, TINY

BASE = json.loads((GOLDEN / "schedules_and_groups.json").read_text())["pretrain_base_state_dict"]


def test_names_order_and_shapes_of_base():
    settings = published("base")
    listed = [(entry.published, published_shape(entry, settings, None)) for entry in entries(Extent((2, 2, 18, 2), 8))]
    wanted = [(name, tuple(shape)) for name, shape in BASE.items() if not INDEX_BUFFER.fullmatch(name)]
    assert listed == wanted


@pytest.mark.parametrize(("kind", "arguments", "depth"), [(MixMAE, (), 2), (Classifier, (19,), None)])
def test_every_tensor_of_our_model_is_in_the_table(kind, arguments, depth):
    _, params, fixed = split_model(nnx.eval_shape(lambda: kind(TINY, *arguments, rngs=nnx.Rngs(0))))
    table = {entry.name for entry in entries(Extent(TINY.depths, depth))}
    assert table == set(flatten_names(params)) | set(flatten_names(fixed))
    assert set(flatten_names(fixed)) == table & FIXED


@pytest.mark.parametrize("name", ["pretrain", "finetune", "flood"])
def test_both_directions_give_the_same_bits(name):
    model = read_checkpoint(GOLDEN / f"{name}_tiny.pth").model
    tensors = from_published(model)
    for entry in entries(extent_of(model)):
        original = model[entry.published]
        back = to_published(tensors, entry, original.shape)
        assert back.dtype == original.dtype and back.tobytes() == original.tobytes(), entry.published
    assert {name for name in model if INDEX_BUFFER.fullmatch(name)} == set(model) - {
        entry.published for entry in entries(extent_of(model))
    }


def test_layouts_by_hand():
    model = read_checkpoint(GOLDEN / "pretrain_tiny.pth").model
    tensors = from_published(model)
    conv, kernel = model["patch_embed.proj.weight"], tensors["encoder/patch_embed/proj/kernel"]
    assert kernel.shape == (32, 8)
    assert kernel[(2 * 4 + 3) * 2 + 1, 5] == conv[5, 1, 2, 3]  # row 2, column 3, VV
    qkv = tensors["encoder/stages/1/blocks/0/attention/qkv/kernel"]
    assert qkv[3, 20] == model["layers.1.blocks.0.attn.qkv.weight"][20, 3]
    assert tensors["decoder/mask_token"].shape == (16,) and tensors["encoder/position"].shape == (1024, 8)


def test_index_buffers_follow_from_the_window():
    model = read_checkpoint(GOLDEN / "pretrain_tiny.pth").model
    buffers = [array for name, array in model.items() if INDEX_BUFFER.fullmatch(name)]
    assert len(buffers) == 5
    for buffer in buffers:
        np.testing.assert_array_equal(buffer, relative_position_index(round(len(buffer) ** 0.5)))


@pytest.mark.parametrize(("rows", "side"), [(1, 1), (49, 4), (225, 8), (2209, 24), (224, None), (64, None), (0, None)])
def test_window_side(rows, side):
    assert window_side(rows) == side


def test_prefix_goes_only_when_every_name_has_it():
    array = np.zeros(1)
    assert list(without_prefix({"module.a": array, "module.b": array})) == ["a", "b"]
    assert list(without_prefix({"module.a": array, "b": array})) == ["module.a", "b"]
    assert list(without_prefix({"module._orig_mod.a": array, "module._orig_mod.b.module.c": array})) == [
        "a",
        "b.module.c",
    ]
    for names in (["module.a", "module.module.a"], ["module._orig_mod.a", "_orig_mod.module.a"]):
        assert list(without_prefix(dict.fromkeys(names, array))) == names


def test_extent_counts_blocks():
    assert extent_of(read_checkpoint(GOLDEN / "pretrain_tiny.pth").model) == Extent(TINY.depths, 2)
    assert extent_of(read_checkpoint(GOLDEN / "flood_tiny.pth").model) == Extent(TINY.depths, None)
