"""Files of other training programs: the model is found, harmless objects beside it are ignored and never called."""

import argparse
import random
import sys
import time
from collections import Counter, defaultdict
from pathlib import Path, PurePosixPath

import numpy as np
import pytest

from sarwmix_jax.conversion.convert import ConversionRequest, convert
from sarwmix_jax.conversion.hints import Hints
from sarwmix_jax.conversion.torch_file import read_checkpoint
from sarwmix_jax.errors import UserError
from tests.conversion import handmade, test_fuzz
from tests.conversion.handmade import Args, Call, Raw, View, genuine, name
from tests.conversion.test_command import FINETUNE, rewritten, run
from tests.support import GOLDEN, published_weights

SOURCE = GOLDEN / "finetune_tiny.pth"
SCALAR = View("float32", "0", 1, 0, (1,), (1,))

BESIDE = {
    "numpy scalar": genuine(np.float64(0.7)),
    "numpy integer": genuine(np.int64(3)),
    "numpy flag": genuine(np.bool_(True)),
    "numpy array": genuine(np.arange(6.0).reshape(2, 3)),
    "numpy array without elements": genuine(np.zeros(0)),
    "numpy array in Fortran order": genuine(np.ones((2, 3), order="F")),
    "scalar of NumPy 1": Raw(genuine(np.float64(0.7)).opcodes.replace(b"numpy._core", b"numpy.core")),
    "scalar of protocol 4": genuine(np.float64(0.7), 4),
    "array of protocol 4": genuine(np.arange(3), 4),
    "numpy type": genuine(np.dtype("f4")),
    "bytes": genuine(b"abc"),
    "bytes of protocol 4": genuine(b"abc", 4),
    "device": Call("torch", "device", ("cuda",)),
    "numbered device": Call("torch", "device", ("cuda", 1)),
    "size": Call("torch", "Size", ((1, 2),)),
    "type": Raw(name("torch", "bfloat16")),
    "path": genuine(Path("runs/a")),
    "path of Windows": Call("pathlib", "WindowsPath", ("C:\\", "runs")),
    "path of Python 3.13": Call("pathlib._local", "PosixPath", ("runs",)),
    "set": genuine({1, "a"}),
    "set of protocol 4": genuine({1, "a"}, 4),
    "frozen set": genuine(frozenset({1})),
    "frozen set of protocol 4": genuine(frozenset({1}), 4),
    "counter": genuine(Counter([30, 60, 60])),
    "state of numpy's generator": genuine(np.random.RandomState(0).get_state()),
    "state of a newer generator": genuine(np.random.default_rng(0).bit_generator.state),
    "state of Python's generator": genuine(random.Random(0).getstate()),
    "state of PyTorch's generator": View("uint8", "0", 4, 0, (4,), (1,)),
}
"""Objects that trainers keep, mostly as Python itself pickles them."""


def write(path, **content):
    return handmade.write(path, {"model": {"w": SCALAR}} | content, {"0": np.float32(2.5).tobytes()})


@pytest.mark.parametrize("what", BESIDE)
def test_what_stands_beside_the_model_is_passed_over(tmp_path, what):
    item = BESIDE[what]
    for content in ({"it": item}, {"args": Args({"it": item, "lr": 0.5})}, {"deep": {"list": [item, (1, item)]}}):
        read = read_checkpoint(write(tmp_path / "a.pth", epoch=4, **content))
        assert list(read.model) == ["w"] and read.model["w"].tolist() == [2.5] and read.epoch == 4
        assert read.args is None or read.args["lr"] == 0.5


@pytest.mark.parametrize("what", [what for what in BESIDE if "generator" not in what])
def test_but_not_inside_the_model(tmp_path, what):
    path = handmade.write(tmp_path / "a.pth", {"model": {"w": SCALAR, "x": BESIDE[what]}}, {"0": bytes(4)})
    with pytest.raises(UserError, match=r"its model holds 'x', which is not a tensor but .*save its state dict alone"):
        read_checkpoint(path)
    for view in (View("float32", "0", 1, BESIDE[what], (1,), (1,)), View("float32", "0", 1, 0, (BESIDE[what],), (1,))):
        with pytest.raises(UserError, match=r"rebuilds a tensor in an unknown way|has an invalid shape"):
            read_checkpoint(handmade.write(tmp_path / "b.pth", {"model": {"w": view}}, {"0": bytes(4)}))


def write_everything(path, traps=()):
    """The golden classifier nested, with both prefixes, and with one of everything beside it and in its arguments."""
    kept = {what: item for what, item in BESIDE.items() if isinstance(item, Raw | Call) and "protocol 4" not in what}
    items = kept | dict(traps)

    def around(model):
        nested = {"model": {"state_dict": model}, "epoch": 3}
        return nested | {"args": Args(items), "rest": list(items.values())}

    def change(model):
        for key in list(model):
            model[f"_orig_mod.module.{key}"] = model.pop(key)

    rewritten(path, "finetune", change, around)


@pytest.mark.parametrize("cases", [60, pytest.param(3000, marks=pytest.mark.slow)])
def test_damage_to_what_stands_beside_is_refused_or_harmless(tmp_path, cases):
    write_everything(tmp_path / "whole.pth")
    assert 0 < test_fuzz.fuzz(tmp_path / "a.pth", "pickle", 50_000, cases, tmp_path / "whole.pth") < cases


def test_a_file_of_another_trainer_converts_bit_by_bit_and_nothing_is_called(tmp_path):
    marker = tmp_path / "called"
    traps = {
        # what PyTorch, NumPy or Python would open, make or run, had they been called
        "path": Call("pathlib", "PosixPath", (str(marker),), {"touch": True}),
        "codec": Call("_codecs", "encode", (f"import os; os.mkdir({str(marker)!r})", "no such codec")),
        "device": Call("torch", "device", (f"{marker}", -1)),
        "size": Call("numpy._core.multiarray", "_reconstruct", (Raw(name("numpy", "ndarray")), (1 << 400,), "b")),
    }
    write_everything(tmp_path / "a.pth", traps)
    sys.addaudithook(test_fuzz._audit)
    test_fuzz._events = []
    try:
        converted = convert(ConversionRequest(tmp_path / "a.pth", Hints(statistics="bigearthnet_v2")))
        assert test_fuzz._events == []
    finally:
        test_fuzz._events = None
    expected = published_weights("finetune_tiny")
    assert set(converted.tensors) == set(expected)
    assert all(converted.tensors[key].tobytes() == np.ascontiguousarray(expected[key]).tobytes() for key in expected)
    assert converted.source["epochs"] == 4 and not marker.exists()


UNLISTED = {
    "another class": genuine(defaultdict(list)),
    "another path": genuine(PurePosixPath("a")),
    "a function": Raw(name("numpy", "load")),
    "inside a listed one": Call("numpy._core.multiarray", "_reconstruct", (Raw(name("os", "system")), (0,), "b")),
    "in a state": Call("collections", "Counter", ({},), {"f": Raw(name("builtins", "eval"))}),
    "in a set": Raw(b"\x8f(" + name("os", "system") + b"\x90"),
    "attribute of a listed one": Raw(name("torch", "device.__class__")),
    "key": Raw(b"}" + name("torch", "float32") + b"K\x01s"),
    "buffer": genuine(bytearray(b"a"), 5),
    "giant number": genuine(1 << 600),
    "giant number, negative": genuine(-(1 << 600)),
    "giant number in wide form": genuine(1 << 3000),
    "giant key": genuine({(1 << 61) - 1: 0}),
    "negative key": genuine({-(1 << 40): 0}),
    "infinite key": genuine({float("inf"): 0}),
    "key that equals nothing": genuine({float("nan"): 0}),
    "many keys": genuine({number: None for number in range(10_001)}),
    "many keys in parts": Raw(b"}" + b"".join(b"J" + number.to_bytes(4, "little") + b"Ns" for number in range(10_001))),
    "both models": {"state_dict": {"w": SCALAR}},
}


@pytest.mark.parametrize("what", UNLISTED)
def test_anything_else_is_refused_beside_the_model_too_with_the_true_remedy(tmp_path, capsys, what):
    item = UNLISTED[what]
    write(tmp_path / "a.pth", **(item if isinstance(item, dict) else {"it": item}))
    assert run(tmp_path / "a.pth", tmp_path / "out", *FINETUNE) == 2
    output = capsys.readouterr().err
    assert "if you trust the file, save its state dict alone, in PyTorch: torch.save(" in output
    assert output.count("\n") == 1
    assert "download" not in output


def test_sets_take_only_what_is_added_to_them(tmp_path):
    with pytest.raises(UserError, match="adds to something that is not a set"):
        read_checkpoint(write(tmp_path / "a.pth", it=Raw(b"](K\x01\x90")))


def chained(step: int) -> Raw:
    """A dictionary whose whole-number keys have one and the same hash when `step` is the modulus of Python's hash."""
    numbers = (number * step for number in range(120_000))
    return Raw(
        b"}(" + b"".join(b"\x8a\x0b" + number.to_bytes(11, "little", signed=True) + b"N" for number in numbers) + b"u"
    )


def memo_at(step: int) -> Raw:
    """Items stored at places that are far from each other."""
    return Raw(b"N" + b"".join(b"r" + (number * step % (1 << 32)).to_bytes(4, "little") for number in range(200_000)))


@pytest.mark.parametrize("item", [chained((1 << 61) - 1), chained(1), memo_at(1 << 14)])
def test_many_keys_take_no_time(tmp_path, item):
    write(tmp_path / "a.pth", it=item)
    began = time.process_time()
    with pytest.raises(UserError, match=r"dictionary|does not need"):
        read_checkpoint(tmp_path / "a.pth")
    assert time.process_time() - began < 2


@pytest.mark.torch
def test_the_same_as_pytorch_writes_it(tmp_path):
    torch = pytest.importorskip("torch")
    model = {key: torch.from_numpy(np.array(array)) for key, array in read_checkpoint(SOURCE).model.items()}
    beside = {
        "numpy scalar": {"best": np.float64(0.7)},
        "device": {"args": argparse.Namespace(device=torch.device("cuda"), other=torch.device("cuda", 0))},
        "path": {"args": argparse.Namespace(out=Path("x"))},
        "size": {"shape": torch.Size([1])},
        "set": {"s": {1}, "t": frozenset({1})},
        "counter": {"lr_scheduler": {"milestones": Counter([1])}},
        "generators": {"rng": np.random.get_state(), "python": random.getstate(), "torch": torch.get_rng_state()},
        "type": {"args": argparse.Namespace(dtype=torch.bfloat16)},
        "moving average": {"array": np.arange(3), "parameter": torch.nn.Parameter(torch.ones(2))},
    }
    contents = {what: {"model": model} | content for what, content in beside.items()}
    contents["compiled"] = {"model": {f"_orig_mod.{key}": tensor for key, tensor in model.items()}}
    contents["nested"] = {"state_dict": model}
    expected = published_weights("finetune_tiny")
    for what, content in contents.items():
        for protocol in (2, 4):
            torch.save(content, tmp_path / "a.pth", pickle_protocol=protocol)
            found = convert(ConversionRequest(tmp_path / "a.pth", Hints(statistics="bigearthnet_v2"))).tensors
            same = [found[key].tobytes() == np.ascontiguousarray(expected[key]).tobytes() for key in expected]
            assert set(found) == set(expected) and all(same), what
