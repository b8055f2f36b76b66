"""The command: golden files in, checkpoints out, and what it prints."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from convert_torch_ckpt import main
from sarwmix_jax.checkpoints.loading import load_parameters
from sarwmix_jax.conversion.torch_file import read_checkpoint, sha256_of
from sarwmix_jax.models.state import flatten_names
from tests.conversion import handmade
from tests.conversion.handmade import Args, View
from tests.support import GOLDEN, TINY, published_weights

PRETRAIN = ["--statistics", "bigearthnet_v2", "--decoder-heads", "4"]
FINETUNE = ["--statistics", "bigearthnet_v2"]
FLOOD = ["--statistics", "bigearthnet_v1", "--kind", "flood", "--tiling", "released"]


def run(*arguments) -> int:
    return main([str(argument) for argument in arguments])


def around(model) -> dict:
    return {"model": model, "epoch": 3, "args": Args({"model": "mixmim_huge"})}


def rewritten(path, name: str, change=lambda model: None, around=around) -> None:
    """A golden file written again by hand: its dictionary of arrays changed by a function, and what is around it."""
    model = {key: np.array(array) for key, array in read_checkpoint(GOLDEN / f"{name}_tiny.pth").model.items()}
    change(model)
    views, storages = {}, {}
    for number, (key, array) in enumerate(model.items()):
        strides = tuple(stride // array.itemsize for stride in np.ascontiguousarray(array).strides)
        views[key] = View(array.dtype.name, str(number), array.size, 0, array.shape, strides)
        storages[str(number)] = array.tobytes()
    handmade.write(path, around(views), storages)


@pytest.mark.smoke
@pytest.mark.parametrize(("name", "options"), [("pretrain", PRETRAIN), ("finetune", FINETUNE), ("flood", FLOOD)])
def test_golden_files_convert_and_the_result_states_what_it_is(tmp_path, capsys, name, options):
    source = GOLDEN / f"{name}_tiny.pth"
    assert run(source, tmp_path / "out", *options) == 0
    output = capsys.readouterr().out
    assert sha256_of(source) in output and "unverified" in output and "model='mixmim_base'" in output
    loaded = load_parameters(tmp_path / "out")
    described, tensors = loaded.description, flatten_names(loaded.params) | flatten_names(loaded.fixed)
    expected = published_weights(f"{name}_tiny")
    assert set(tensors) == set(expected)
    assert all(tensors[key].tobytes() == np.ascontiguousarray(expected[key]).tobytes() for key in expected)
    assert described["kind"] == {"pretrain": "pretraining", "finetune": "classifier"}.get(name, name)
    assert described["model"]["bands"] == ["VH", "VV"] and described["unit"] == "dB"
    assert described["statistics"]["name"] == options[1] and len(described["statistics"]["std_db"]) == 2
    assert described["source"]["sha256"] == sha256_of(source) and described["source"]["verified"] is False
    assert described["source"]["file"] == source.name
    assert described["model"]["windows"] == TINY.windows
    assert described["classes"] == {"pretrain": None, "finetune": 19, "flood": 2}[name]


def test_pytorch_is_never_imported(tmp_path):
    calls = [
        [str(GOLDEN / f"{name}_tiny.pth"), str(tmp_path / name), *options]
        for name, options in (("pretrain", PRETRAIN), ("finetune", FINETUNE), ("flood", FLOOD))
    ]
    code = (
        "import sys; from convert_torch_ckpt import main; "
        f"assert all(main(call) == 0 for call in {calls}) and 'torch' not in sys.modules"
    )
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr


def test_verify_reports_every_tensor_and_keeps_a_probe(tmp_path, capsys):
    assert run(GOLDEN / "finetune_tiny.pth", tmp_path / "table", *FINETUNE, "--verify", "-v") == 0
    table = capsys.readouterr().out
    assert "patch_embed.proj.weight [8, 2, 4, 4] 0" in table and "88 of 88 tensors bit-identical" in table
    assert run(GOLDEN / "finetune_tiny.pth", tmp_path / "out", *FINETUNE, "--verify") == 0
    output = capsys.readouterr().out
    assert "patch_embed" not in output and "88 of 88 tensors bit-identical" in output
    assert table.count("\n") == output.count("\n") + 88 and "epochs trained: 50\n" in output
    assert "logits [2, 19]: mean " in output
    assert run(tmp_path / "out", "--verify") == 0
    assert "largest difference from the kept outputs: logits 0" in capsys.readouterr().out
    kept = dict(np.load(tmp_path / "out" / "probe.npz"))
    np.savez(tmp_path / "out" / "probe.npz", **(kept | {"logits": kept["logits"] + 1}))
    assert run(tmp_path / "out", "--verify") == 2
    assert "logits on the kept probe differ by 1" in capsys.readouterr().err
    whole = (tmp_path / "out" / "probe.npz").read_bytes()
    for damaged in (b"", whole[: len(whole) // 2], b"\0" * len(whole), whole[:-40] + b"\1" * 40):
        (tmp_path / "out" / "probe.npz").write_bytes(damaged)
        assert run(tmp_path / "out", "--verify") == 2
        assert "probe.npz cannot be read; delete it to make a new one" in capsys.readouterr().err


def test_the_module_prefix_and_other_types(tmp_path, capsys):
    def change(model):
        for key in list(model):
            array = model.pop(key)
            model[f"module.{key}"] = array.astype(np.float16) if array.dtype == np.float32 else array
        model["module.norm.bias"] = 1 + np.full(64, 2.0**-26)  # float64, by that much not exact in float32
        model["module.norm.weight"] = 3 + np.full(64, 2.0**-25)

    rewritten(tmp_path / "a.pth", "finetune", change)
    assert run(tmp_path / "a.pth", tmp_path / "out", *FINETUNE, "--verify", "-v") == 0
    output = capsys.readouterr().out
    assert "rounded from float64 to float32: norm.weight, norm.bias" in output
    assert "norm.bias [64] 1.49e-08 rounded to float32\n" in output and "86 of 88 tensors bit-identical" in output
    assert "2 tensors rounded to float32, by 2.98e-08 at most\n" in output
    loaded = flatten_names(load_parameters(tmp_path / "out").params)
    expected = published_weights("finetune_tiny")["head/kernel"].astype(np.float16).astype(np.float32)
    np.testing.assert_array_equal(loaded["head/kernel"], expected)
    assert loaded["head/kernel"].dtype == np.float32


def test_missing_tensors_are_drawn_when_allowed(tmp_path, capsys):
    rewritten(tmp_path / "a.pth", "finetune", lambda model: model.pop("norm.weight"))
    assert run(tmp_path / "a.pth", tmp_path / "out", *FINETUNE) == 2
    assert "1 missing: norm.weight (--allow-missing NAME" in capsys.readouterr().err
    assert run(tmp_path / "a.pth", tmp_path / "out", *FINETUNE, "--allow-missing", "norm.weight") == 0
    output = capsys.readouterr().out
    assert "missing, newly initialised: encoder/norm/scale" in output
    loaded = load_parameters(tmp_path / "out")
    np.testing.assert_array_equal(flatten_names(loaded.params)["encoder/norm/scale"], np.ones(64))
    assert loaded.description["source"]["drawn"] == ["encoder/norm/scale"]


def test_values_that_are_not_finite(tmp_path, capsys):
    def change(model):
        model["head.bias"][3] = np.nan

    rewritten(tmp_path / "a.pth", "finetune", change)
    assert run(tmp_path / "a.pth", tmp_path / "out", *FINETUNE) == 2
    assert "1 not finite: head.bias (--allow-nonfinite" in capsys.readouterr().err
    assert run(tmp_path / "a.pth", tmp_path / "out", *FINETUNE, "--allow-nonfinite") == 0
    assert np.isnan(flatten_names(load_parameters(tmp_path / "out").params)["head/bias"][3])


def test_another_image_size(tmp_path, capsys):
    options = [*FINETUNE, "--image-size", 256]
    assert run(GOLDEN / "finetune_tiny.pth", tmp_path / "out", *options, "--windows", "16,16,16,8") == 0
    assert "resized: encoder/position, encoder/stages/0" in capsys.readouterr().out
    assert load_parameters(tmp_path / "out").description["model"]["windows"] == [16, 16, 16, 8]
    assert run(GOLDEN / "finetune_tiny.pth", tmp_path / "big", *FINETUNE, "--image-size", 384) == 0
    assert load_parameters(tmp_path / "big").description["model"]["windows"] == [16, 16, 24, 12]
    for size, windows, why in [(100, "8,8,8,4", "100"), (256, "16,16,16,7", "window 7"), (256, "16,16", "4 positive")]:
        arguments = [*FINETUNE, "--image-size", str(size), "--windows", windows]
        assert run(GOLDEN / "finetune_tiny.pth", tmp_path / "no", *arguments) == 2
        assert why in capsys.readouterr().err
    assert not (tmp_path / "no").exists()


def test_the_hash_is_checked_on_demand(tmp_path, capsys):
    source = GOLDEN / "finetune_tiny.pth"
    assert run(source, tmp_path / "no", *FINETUNE, "--sha256", "0" * 64) == 2
    assert "not the one given" in capsys.readouterr().err
    assert run(source, tmp_path / "out", *FINETUNE, "--sha256", sha256_of(source).upper()) == 0
    (tmp_path / "sen12_finetune_checkpoint_best.pth").write_bytes(source.read_bytes())
    assert run(tmp_path / "sen12_finetune_checkpoint_best.pth", tmp_path / "no", *FINETUNE) == 2
    assert "released file of this name" in capsys.readouterr().err


def test_statistics_as_numbers_are_no_option(tmp_path):
    assert run(GOLDEN / "finetune_tiny.pth", tmp_path / "out", "--statistics", "-19,-12.5,5,4") == 0
    assert load_parameters(tmp_path / "out").description["statistics"]["mean_db"] == [-19, -12.5]


def test_the_list(capsys):
    assert run("--list") == 0
    assert capsys.readouterr().out.count("\n") == 5


MISUSES = {
    "nothing": [],
    "no destination": [GOLDEN / "finetune_tiny.pth"],
    "file to file": [GOLDEN / "finetune_tiny.pth", "a.pth"],
    "step of a file": [GOLDEN / "finetune_tiny.pth", "out", "--step", "3"],
    "unknown option": [GOLDEN / "finetune_tiny.pth", "out", "--quick"],
    "unknown kind": [GOLDEN / "finetune_tiny.pth", "out", "--kind", "segmentation"],
    "windows": [GOLDEN / "finetune_tiny.pth", "out", "--windows", "8,x,8,4"],
    "no value": [GOLDEN / "finetune_tiny.pth", "out", "--statistics"],
    "empty folder": [".", "a.safetensors"],
    "folder to folder": [".", "b"],
    "optimiser of a classifier": [GOLDEN / "finetune_tiny.pth", "out", *FINETUNE, "--with-optimizer"],
    "mix group unknown": [GOLDEN / "pretrain_tiny.pth", "out", *PRETRAIN, "--with-optimizer"],
    "optimiser and size": [
        *(GOLDEN / "pretrain_tiny.pth", "out", *PRETRAIN, "--with-optimizer"),
        *("--mix-group", "4", "--image-size", "256"),
    ],
}


@pytest.mark.parametrize("case", MISUSES)
def test_misuse_is_one_line_and_leaves_nothing(tmp_path, monkeypatch, capsys, case):
    monkeypatch.chdir(tmp_path)
    assert run(*MISUSES[case]) == 2
    output = capsys.readouterr().err
    assert output.startswith("error: ") and output.count("\n") == 1
    assert list(tmp_path.iterdir()) == []


def test_what_exists_stays(tmp_path, capsys):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "mine").write_text("x")
    assert run(GOLDEN / "finetune_tiny.pth", tmp_path / "out", *FINETUNE) == 2
    assert "not an empty folder" in capsys.readouterr().err
    assert [file.name for file in (tmp_path / "out").iterdir()] == ["mine"]


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_no_permission(tmp_path, capsys):
    tmp_path.chmod(0o500)
    assert run(GOLDEN / "finetune_tiny.pth", tmp_path / "out", *FINETUNE) == 2
    assert "cannot write" in capsys.readouterr().err


def test_a_destination_that_cannot_be(tmp_path, capsys):
    (tmp_path / "file").write_text("x")
    assert run(GOLDEN / "finetune_tiny.pth", tmp_path / "file" / "out", *FINETUNE) == 2
    assert capsys.readouterr().err.startswith("error: ")


def test_the_description_is_plain_json(tmp_path):
    rewritten(tmp_path / "a.pth", "finetune")
    assert run(tmp_path / "a.pth", tmp_path / "out", *FINETUNE) == 0
    described = load_parameters(tmp_path / "out").description
    assert described["source"]["epochs"] == 4
    assert described["source"]["args_not_trusted"] == {"model": "'mixmim_huge'"}
    json.dumps(described)
