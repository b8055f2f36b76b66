"""Recognition, and the check of every tensor."""

import hashlib
from dataclasses import replace

import numpy as np
import pytest

from sarwmix_jax.conversion import identity
from sarwmix_jax.conversion.hints import Hints, parse_statistics
from sarwmix_jax.conversion.identity import identify, listing
from sarwmix_jax.conversion.recognition import account, recognise
from sarwmix_jax.conversion.torch_file import read_checkpoint
from sarwmix_jax.errors import UserError
from sarwmix_jax.facts.bands import STATISTICS
from sarwmix_jax.facts.released import RELEASED, Released
from sarwmix_jax.settings.model import published
from tests.support import GOLDEN, TINY

V1 = Hints(statistics="bigearthnet_v1")
HEADS = Hints(statistics="bigearthnet_v1", decoder_heads=4)


def tensors(name: str) -> dict[str, np.ndarray]:
    return dict(read_checkpoint(GOLDEN / f"{name}_tiny.pth").model)


def base(depths=(2, 2, 18, 2), **changes) -> dict[str, np.ndarray]:
    """Tensors of base as far as recognition reads them, without their memory."""
    shapes = {
        "patch_embed.proj.weight": (128, 2, 4, 4),
        "absolute_pos_embed": (1, 1024, 128),
        "mask_token": (1, 1, 512),
        **{f"decoder_blocks.{b}.norm1.bias": (512,) for b in range(8)},
    }
    for stage, (rows, heads) in enumerate([(225, 4), (225, 8), (225, 16), (49, 32)]):
        for block in range(depths[stage]):
            shapes[f"layers.{stage}.blocks.{block}.attn.relative_position_bias_table"] = (rows, heads)
    shapes.update(changes)
    return {name: np.broadcast_to(np.float32(0), shape) for name, shape in shapes.items()}


def test_settings_follow_from_the_tensors():
    found = recognise(tensors("pretrain"), HEADS, None)
    assert found.kind == "pretraining" and found.settings == TINY and found.classes is None
    assert account(tensors("pretrain"), found) == ()


def test_decoder_heads_of_published_sizes_are_known_and_of_others_not():
    assert recognise(base(), V1, None).settings == published("base")
    with pytest.raises(UserError, match="--decoder-heads N"):
        recognise(tensors("pretrain"), V1, None)
    with pytest.raises(UserError, match="--decoder-heads N"):
        recognise(base(mask_token=(1, 1, 256)), V1, None)
    with pytest.raises(UserError, match="contradicts the registry"):
        recognise(base(), HEADS, None)


def test_kinds():
    assert recognise(tensors("finetune"), V1, None).kind == "classifier"
    assert recognise(tensors("finetune"), V1, None).classes == 19
    with pytest.raises(UserError, match=r"--kind flood\|classifier"):
        recognise(tensors("flood"), V1, None)
    flood = Hints(kind="flood", tiling="released", statistics="bigearthnet_v1")
    assert recognise(tensors("flood"), flood, None).tiling == "released"
    classifier = Hints(kind="classifier", statistics="bigearthnet_v1")
    assert recognise(tensors("flood"), classifier, None).kind == "classifier"
    for name, kind, why in [
        ("finetune", "flood", "head of 19 classes"),
        ("finetune", "pretraining", "head of 19 classes"),
        ("flood", "pretraining", "head of 2 classes"),
        ("pretrain", "classifier", "has a decoder"),
    ]:
        with pytest.raises(UserError, match=why):
            recognise(tensors(name), Hints(kind=kind, statistics="bigearthnet_v1"), None)


def test_what_follows_from_no_tensor_must_be_given():
    with pytest.raises(UserError, match=r"give --statistics bigearthnet_v1\|bigearthnet_v2\|MEAN_VH,"):
        recognise(tensors("finetune"), Hints(), None)
    with pytest.raises(UserError, match=r"give --tiling released\|two_band"):
        recognise(tensors("flood"), Hints(kind="flood", statistics="bigearthnet_v1"), None)
    with pytest.raises(UserError, match="leave it out"):
        recognise(tensors("finetune"), Hints(tiling="released", statistics="bigearthnet_v1"), None)


def test_the_registry_knows_the_rest_and_is_not_contradicted():
    flood = next(released for released in RELEASED if released.kind == "flood")
    found = recognise(tensors("flood"), Hints(), flood)
    assert (found.kind, found.tiling, found.statistics) == ("flood", "released", STATISTICS["bigearthnet_v1"])
    for hints in (Hints(tiling="two_band"), Hints(statistics="bigearthnet_v2"), Hints(kind="classifier")):
        with pytest.raises(UserError, match="contradicts the registry"):
            recognise(tensors("flood"), hints, flood)
    pretrained = replace(RELEASED[0], norm_pix=True)
    with pytest.raises(UserError, match="--norm-pix no contradicts the registry, which has yes for this file"):
        recognise(tensors("pretrain"), replace(HEADS, norm_pix=False), pretrained)
    found = recognise(tensors("pretrain"), Hints(decoder_heads=4), pretrained, own_batch_size="7")
    assert (found.norm_pix, found.mix_group, found.statistics_name) == (True, 256, "bigearthnet_v1")


def test_statistics_as_numbers():
    assert parse_statistics("-19,-12.5,5,4").mean_db == (-19, -12.5)
    assert parse_statistics("-19,-12.5,5,4").std_db == (5, 4)
    for text in ("v1", "1,2", "1,2,3,0", "1,2,3,nan", "1,2,3,x", "1,2,3,4,5"):
        with pytest.raises(UserError, match="is unknown"):
            parse_statistics(text)


@pytest.mark.parametrize(
    ("change", "why"),
    [
        ({"patch_embed.proj.weight": (128, 3, 4, 4)}, "takes 3 bands"),
        ({"patch_embed.proj.weight": (128, 2, 16)}, "4 axes are needed"),
        ({"patch_embed.proj.weight": (0, 2, 4, 4)}, r"proj.weight has shape \[0, 2, 4, 4\], so no values"),
        ({"absolute_pos_embed": (1, 0, 128)}, "so no values"),
        ({"absolute_pos_embed": (0, 1 << 30, 128)}, "so no values"),
        ({"mask_token": (1, 1, 0)}, "so no values"),
        ({"layers.1.blocks.0.attn.relative_position_bias_table": (225, 0)}, "so no values"),
        ({"absolute_pos_embed": (1, 1000, 128)}, "not a square grid"),
        ({"layers.1.blocks.0.attn.relative_position_bias_table": (224, 8)}, "fits no window side"),
        ({"layers.1.blocks.0.attn.relative_position_bias_table": (225, 7)}, "7 heads"),
        ({"layers.1.blocks.0.attn.relative_position_bias_table": (25, 8)}, "window 3 of stage 2"),
    ],
)
def test_impossible_shapes(change, why):
    with pytest.raises(UserError, match=why):
        recognise(base(**change), Hints(statistics="bigearthnet_v1", decoder_heads=16), None)


@pytest.mark.parametrize("name", ["pretrain", "finetune"])
def test_another_prefix_is_named(name):
    for prefix in ("model.", "teacher.backbone."):
        with pytest.raises(UserError, match=f"begin with '{prefix}'; save them without"):
            recognise({prefix + key: array for key, array in tensors(name).items()}, HEADS, None)


def test_a_head_of_no_classes():
    empty = tensors("finetune") | {"head.weight": np.zeros((0, 64)), "head.bias": np.zeros(0)}
    with pytest.raises(UserError, match=r"head\.weight has shape \[0, 64\]"):
        recognise(empty, V1, None)


def test_missing_tensors_that_determine_widths():
    for name in ("patch_embed.proj.weight", "absolute_pos_embed", "mask_token"):
        incomplete = {key: value for key, value in base().items() if key != name}
        with pytest.raises(UserError, match=name):
            recognise(incomplete, V1, None)


def test_every_tensor_is_checked():
    model = tensors("finetune")
    found = recognise(model, V1, None)
    model["surplus"] = model.pop("norm.weight")
    model["head.bias"] = np.zeros(18, np.float32)
    with pytest.raises(
        UserError, match=r"1 unknown: surplus; 1 missing: norm.weight .*; 1 of another shape: head.bias \[18\]"
    ):
        account(model, found)
    with pytest.raises(UserError, match="unknown: surplus"):
        account(model, found, allow_missing=("norm.weight",))
    del model["surplus"], model["head.bias"]
    assert account(model, found, allow_missing=("norm.weight", "head.bias")) == ("norm.weight", "head.bias")
    with pytest.raises(UserError, match=r"--allow-missing norm\.bias"):
        account(model, found, allow_missing=("norm.weight", "head.bias", "norm.bias"))


def test_names_with_control_characters_are_shown_in_one_line():
    model = tensors("finetune")
    found = recognise(model, V1, None)
    model["a\n\x1b[2Jb"] = np.zeros(1, np.float32)
    with pytest.raises(UserError) as caught:
        account(model, found)
    assert str(caught.value).isprintable() and r"a\n\x1b[2Jb" in str(caught.value)


def test_a_gap_in_the_blocks_is_missing_and_unknown():
    model = {
        name.replace("layers.2.blocks.1", "layers.2.blocks.5"): array for name, array in tensors("finetune").items()
    }
    with pytest.raises(UserError, match=r"14 unknown: layers.2.blocks.5.*13 missing: layers.2.blocks.1"):
        account(model, recognise(model, V1, None))


def test_values():
    model = tensors("finetune")
    found = recognise(model, V1, None)
    for value in (np.nan, np.inf, -np.inf):
        model["norm.bias"] = np.full(64, value, np.float32)
        with pytest.raises(UserError, match=r"1 not finite: norm\.bias"):
            account(model, found)
        assert account(model, found, allow_nonfinite=True) == ()
    model["norm.bias"] = np.full(64, 1e300)
    with pytest.raises(UserError, match=r"not finite: norm\.bias"):
        account(model, found)
    model["norm.bias"] = np.full(64, 3e38, np.float32)
    assert account(model, found) == ()
    model["norm.bias"] = np.zeros(64, np.int32)
    with pytest.raises(UserError, match=r"not floating-point: norm\.bias"):
        account(model, found)


def test_a_wrong_index_buffer_is_refused_and_a_missing_one_is_not():
    model = tensors("finetune")
    name = "layers.0.blocks.0.attn.relative_position_index"
    found = recognise(model, V1, None)
    model[name] = model[name].T
    with pytest.raises(UserError, match=f"wrong: {name}"):
        account(model, found)
    model[name] = model[name][:2]
    with pytest.raises(UserError, match=f"of another shape: {name}"):
        account(model, found)
    del model[name]
    assert account(model, found) == ()


def test_identity(tmp_path, monkeypatch):
    content = b"content"
    known = Released("known.pth", hashlib.sha256(content).hexdigest(), "made up", "classifier", "bigearthnet_v1")
    monkeypatch.setattr(identity, "RELEASED", (known,))
    assert identify(tmp_path / "renamed.pth", known.sha256) is known
    assert identify(tmp_path / "other.pth", "0" * 64) is None
    assert identify(tmp_path / "other.pth", "0" * 64, "0" * 64) is None
    with pytest.raises(UserError, match="released file of this name"):
        identify(tmp_path / "known.pth", "0" * 64)
    with pytest.raises(UserError, match="not the one given"):
        identify(tmp_path / "other.pth", "0" * 64, "1" * 64)
    with pytest.raises(UserError, match="64 hexadecimal digits"):
        identify(tmp_path / "other.pth", "0" * 64, "xyz")


def test_the_registry():
    assert len({released.sha256 for released in RELEASED}) == len({released.file for released in RELEASED}) == 5
    assert all(len(bytes.fromhex(released.sha256)) == 32 for released in RELEASED)
    assert listing().count("\n") == 4 and "sen12_finetune_checkpoint_best.pth" in listing()
