"""Export of checkpoints for PyTorch users."""

import argparse
import json
from dataclasses import replace

import numpy as np
import pytest

from convert_torch_ckpt import main
from sarwmix_jax.conversion.convert import ConversionRequest, convert, write
from sarwmix_jax.conversion.hints import Hints
from sarwmix_jax.conversion.torch_file import read_checkpoint
from tests.conversion.test_command import FINETUNE, FLOOD, PRETRAIN, run
from tests.support import GOLDEN

FILES = {"pretrain": PRETRAIN, "finetune": FINETUNE, "flood": FLOOD}


def read_safetensors(path):
    """Tensors and metadata of a safetensors file, by the format's description."""
    raw = path.read_bytes()
    size = int.from_bytes(raw[:8], "little")
    header, body = json.loads(raw[8 : 8 + size]), raw[8 + size :]
    metadata = header.pop("__metadata__")
    kinds = {"F32": np.float32, "I64": np.int64}
    tensors, ends = {}, [0]
    for name, entry in header.items():
        start, end = entry["data_offsets"]
        ends.append(end)
        tensors[name] = np.frombuffer(body[start:end], kinds[entry["dtype"]]).reshape(entry["shape"])
    assert max(ends) == len(body)
    return tensors, metadata


def same_bits(exported, original) -> bool:
    assert set(exported) == set(original)
    return all(
        exported[name].dtype == original[name].dtype
        and exported[name].shape == original[name].shape
        and exported[name].tobytes() == np.ascontiguousarray(original[name]).tobytes()
        for name in original
    )


@pytest.mark.parametrize("name", FILES)
def test_safetensors_has_the_same_bits(tmp_path, name):
    assert run(GOLDEN / f"{name}_tiny.pth", tmp_path / "out", *FILES[name]) == 0
    assert run(tmp_path / "out", tmp_path / "a.safetensors") == 0
    tensors, metadata = read_safetensors(tmp_path / "a.safetensors")
    assert same_bits(tensors, read_checkpoint(GOLDEN / f"{name}_tiny.pth").model)
    assert metadata["format"] == "pt" and json.loads(metadata["bands"]) == ["VH", "VV"]
    if name == "flood":
        assert json.loads(metadata["tiling"]) == "released"


def test_existing_files_stay(tmp_path, capsys):
    assert run(GOLDEN / "finetune_tiny.pth", tmp_path / "out", *FINETUNE) == 0
    (tmp_path / "a.safetensors").write_text("mine")
    assert run(tmp_path / "out", tmp_path / "a.safetensors") == 2
    assert (tmp_path / "a.safetensors").read_text() == "mine"
    assert run(tmp_path / "out", tmp_path / "absent" / "a.safetensors") == 2
    assert "cannot write" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("name", "array"),
    [("norm/bias", None), ("norm/bias", np.zeros(63, np.float32)), ("more", np.zeros(1, np.float32))],
)
def test_a_checkpoint_that_does_not_fit_its_description(tmp_path, capsys, name, array):
    request = ConversionRequest(GOLDEN / "finetune_tiny.pth", Hints(statistics="bigearthnet_v2"))
    converted = convert(request)
    tensors = converted.tensors | {f"encoder/{name}": array}
    kept = {key: value for key, value in tensors.items() if value is not None}
    write(replace(converted, tensors=kept), tmp_path / "out")
    assert run(tmp_path / "out", tmp_path / "a.safetensors") == 2
    output = capsys.readouterr().err
    assert f"does not fit its own description: encoder/{name} is " in output and output.count("\n") == 1
    assert not (tmp_path / "a.safetensors").exists()


def test_pth_without_pytorch(tmp_path, monkeypatch, capsys):
    assert run(GOLDEN / "finetune_tiny.pth", tmp_path / "out", *FINETUNE) == 0
    monkeypatch.setitem(__import__("sys").modules, "torch", None)
    assert main([str(tmp_path / "out"), str(tmp_path / "a.pth")]) == 2
    assert "needs PyTorch" in capsys.readouterr().err


@pytest.mark.torch
@pytest.mark.parametrize("name", FILES)
def test_pth_opens_in_pytorch_and_converts_again(tmp_path, name):
    torch = pytest.importorskip("torch")
    assert run(GOLDEN / f"{name}_tiny.pth", tmp_path / "out", *FILES[name]) == 0
    assert run(tmp_path / "out", tmp_path / "a.pth") == 0
    with torch.serialization.safe_globals([argparse.Namespace]):
        opened = torch.load(tmp_path / "a.pth", weights_only=True)
        original = torch.load(GOLDEN / f"{name}_tiny.pth", weights_only=True)
    assert list(opened["model"]) == list(original["model"]) and opened["epoch"] == original["epoch"]
    assert same_bits(*({k: v.numpy() for k, v in file["model"].items()} for file in (opened, original)))
    assert opened["args"].bands == ["VH", "VV"]
    assert run(tmp_path / "a.pth", tmp_path / "again", *FILES[name]) == 0
    assert run(tmp_path / "again", tmp_path / "again.safetensors") == 0
    tensors, _ = read_safetensors(tmp_path / "again.safetensors")
    assert same_bits(tensors, read_checkpoint(GOLDEN / f"{name}_tiny.pth").model)
