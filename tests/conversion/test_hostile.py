"""Damaged and hostile files: refused in one line with exit code 2, never executed."""

import struct
import subprocess
import sys
import time
import tracemalloc
import zipfile
from pathlib import Path

import numpy as np
import pytest

from convert_torch_ckpt import main
from sarwmix_jax.conversion.torch_file import read_checkpoint
from sarwmix_jax.errors import UserError
from tests.conversion import handmade
from tests.conversion.handmade import Raw, View, archive, name, pickled, text
from tests.support import GOLDEN

ROOT = Path(__file__).parents[2]
GOOD = View("float32", "0", 4, 0, (4,), (1,))
STORAGE = {"0": bytes(16)}


def refused(path: Path, why: str, capsys) -> None:
    """The command ends with 2 and one line, quickly and without much memory."""
    arguments = [str(path), str(path.parent / "out"), "--statistics", "bigearthnet_v2"]
    began = time.process_time()
    code = main(arguments)
    took = time.process_time() - began
    output = capsys.readouterr()
    tracemalloc.start()  # apart: following every allocation takes several times as long
    assert main(arguments) == code == 2
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert capsys.readouterr() == output
    assert output.err.startswith("error: ") and output.err.count("\n") == 1 and why in output.err, output.err
    assert output.out == "" and not (path.parent / "out").exists()
    assert took < 2
    assert peak < (path.stat().st_size if path.exists() else 0) + 100e6


def hostile(tmp_path: Path, opcodes: bytes) -> Path:
    """A file whose pickle is a state dict with one hostile item."""
    return handmade.write(tmp_path / "a.pth", {"model": {"good": GOOD, "bad": Raw(opcodes)}}, STORAGE)


CALLS = {
    "os.system": lambda command: name("os", "system") + b"(" + text(command) + b"tR",
    "posix.system": lambda command: name("posix", "system") + b"(" + text(command) + b"tR",
    "builtins.eval": lambda command: (
        name("builtins", "eval") + b"(" + text(f"__import__('os').system({command!r})") + b"tR"
    ),
    "stack_global": lambda command: text("os") + text("system") + b"\x93(" + text(command) + b"tR",
    "newobj": lambda command: name("subprocess", "Popen") + b"(" + text(command) + b"t\x81",
    "getattr": lambda command: name("builtins", "getattr") + b"(" + name("argparse", "Namespace") + text("x") + b"tR",
    "nested attribute": lambda command: text("argparse") + text("Namespace.__init__") + b"\x93",
    "inst": lambda command: b"(" + text(command) + b"ios\nsystem\n",
    "torch loader": lambda command: name("torch.storage", "_load_from_bytes") + b"(" + text(command) + b"tR",
    "numpy loader": lambda command: name("numpy", "load") + b"(" + text(command) + b"tR",
    "torch class": lambda command: name("torch.nn.modules.linear", "Linear") + b")\x81",
}


@pytest.mark.parametrize("call", CALLS)
def test_no_name_outside_the_list_and_nothing_is_executed(tmp_path, capsys, call):
    marker = tmp_path / "executed"
    path = hostile(tmp_path, CALLS[call](f"touch {marker}"))
    refused(path, "opcode INST" if call == "inst" else "not in the list of names", capsys)
    assert not marker.exists()


BROKEN_PICKLES = {
    "extension": (b"\x82\x01", "opcode EXT1"),
    "bytes": (b"C\x01a", "not a tensor but builtins.bytes"),
    "buffer": (b"\x96" + bytes(8), "opcode BYTEARRAY8"),
    "recall": (b"h\x09", "never stored"),
    "empty stack": (b"0" * 99, "empty stack"),
    "no mark": (b"t", "odd"),
    "call of a number": (b"K\x01)R", "not a known name"),
    "call of a storage": (name("torch", "FloatStorage") + b")R", "unknown way"),
    "arguments for a dictionary": (name("collections", "OrderedDict") + b"(K\x01tR", "unknown way"),
    "state of a dictionary": (b"}}" + text("a") + b"K\x01sb", "has none"),
    "state of a number": (b"K\x01}b", "has none"),
    "append to a dictionary": (b"}K\x01a", "not a list"),
    "item of a list": (b"]K\x01K\x01s", "not a dictionary"),
    "tensor for a key": (b"}" + handmade.opcodes(GOOD) + b"K\x01s", "neither text nor a number"),
    "tuple for a key": (b"}" + b")" + b"\x85" * 50 + b"K\x01s", "neither text nor a number"),
    "storage without its form": (text("x") + b"Q", "refers to a storage"),
    "deep nesting": (b"]" * 500 + b"a" * 499, "nested too deeply"),
    "cycle": (b"]q\x05h\x05a", "nested too deeply"),
    "doubling": (b")" + b"q\x01h\x01\x86" * 60, "nested too deeply"),
    "no tensor": (b"K\x01", "not a tensor"),
    "text with surrogates": (b"U" + b"\x02\xff\xff", "opcode SHORT_BINSTRING"),
    "long integer": (b"L" + b"9" * 100_000 + b"L\n", "damaged or truncated"),
    "huge text": (b"X\xff\xff\xff\x7f", "damaged or truncated"),
    "huge text 64": (b"\x8d" + b"\xff" * 7 + b"\x7f", "damaged or truncated"),
    "many opcodes": (b"N0" * 130_000 + b"N", "opcodes"),
    "many marks": (b"(" * 249_000, "nested too deeply"),
}


@pytest.mark.parametrize("case", BROKEN_PICKLES)
def test_broken_pickles(tmp_path, capsys, case):
    opcodes, why = BROKEN_PICKLES[case]
    if case == "no mark":
        why = "its pickle"
    refused(hostile(tmp_path, opcodes), why, capsys)


@pytest.mark.parametrize("whole", [b"", b".", b"\x80\x02.", b"\x80\x02N", b"\x80\x02NN.", b"\x80\xff", b"\xff" * 50])
def test_pickles_that_are_none(tmp_path, capsys, whole):
    path = tmp_path / "a.pth"
    path.write_bytes(archive({"data.pkl": whole}))
    refused(path, "pickle", capsys)


@pytest.mark.parametrize("content", [None, 3, [1], {}, {"model": {}}, {"model": 3}, {"model": {"a": 3}}, {3: GOOD}])
def test_no_state_dict(tmp_path, capsys, content):
    refused(handmade.write(tmp_path / "a.pth", content, STORAGE), "it", capsys)


VIEWS = {
    "past the end": View("float32", "0", 4, 1, (4,), (1,)),
    "offset": View("float32", "0", 4, 5, (0,), (1,)),
    "strides": View("float32", "0", 4, 0, (2, 2), (1, 3)),
    "expanded": View("float32", "0", 4, 0, (1 << 40, 1), (0, 0)),
    "huge": View("float32", "0", 1 << 59, 0, (1 << 59,), (1,)),
    "product": View("float32", "0", 4, 0, (1 << 59, 1 << 59, 1 << 59), (0, 0, 0)),
    "giant and empty": View("float32", "0", 4, 0, (0, 1 << 41), (0, 0)),
    "giant, empty and beyond all numbers": View("float32", "0", 4, 0, (0, 1 << 59, 1 << 59), (0, 0, 0)),
    "negative offset": View("float32", "0", 4, -1, (4,), (1,)),
    "negative stride": View("float32", "0", 4, 3, (4,), (-1,)),
    "negative shape": View("float32", "0", 4, 0, (-4,), (1,)),
    "ranks": View("float32", "0", 4, 0, (2, 2), (1,)),
    "many axes": View("float32", "0", 4, 0, (1,) * 9, (1,) * 9),
    "fraction": View("float32", "0", 4, 0, (2.0,), (1,)),  # type: ignore[arg-type]
    "flag": View("float32", "0", 4, 0, (True,), (1,)),
    "missing storage": View("float32", "1", 4, 0, (4,), (1,)),
    "longer storage": View("float32", "0", 5, 0, (4,), (1,)),
    "shorter storage": View("float32", "0", 3, 0, (3,), (1,)),
    "other type": View("float64", "0", 4, 0, (4,), (1,)),
    "key outside": View("float32", "../0", 4, 0, (4,), (1,)),
}


@pytest.mark.parametrize("case", VIEWS)
def test_views_outside_their_storage(tmp_path, capsys, case):
    refused(handmade.write(tmp_path / "a.pth", {"model": {"w": VIEWS[case]}}, STORAGE), "", capsys)


def test_one_storage_a_thousand_times(tmp_path, capsys):
    view = View("float32", "0", 250_000, 0, (250_000,), (1,))
    content = {"model": {f"w{number}": view for number in range(1000)}}
    refused(handmade.write(tmp_path / "a.pth", content, {"0": bytes(1_000_000)}), "far larger than the file", capsys)


OTHER_FORMS = {
    "empty": (b"", "empty"),
    "raw pickle": (pickled({"w": 1}), "bare pickle"),
    "legacy": (b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19.", "bare pickle"),
    "tar": (b"data".ljust(257, b"\0") + b"ustar\0".ljust(255, b"\0"), "tar form"),
    "web page": (b"<!DOCTYPE html><html>Virus scan warning</html>", "web page"),
    "noise": (bytes(range(256)) * 8, "not a zip archive"),
    "zip magic alone": (b"PK\x03\x04", "directory is missing"),
    "another zip": (archive({"a.txt": b"x"}), "no single data.pkl"),
    "TorchScript": (archive({"data.pkl": pickled({}), "constants.pkl": b"x"}), "TorchScript"),
    "two roots": (archive({"a/data.pkl": b"", "b/data.pkl": b""}, root=""), "no single data.pkl"),
    "no root": (archive({"data.pkl": b""}, root=""), "no single data.pkl"),
    "other byte order": (archive({"data.pkl": pickled({}), "byteorder": b"big"}), "little-endian"),
}


@pytest.mark.parametrize("case", OTHER_FORMS)
def test_other_forms(tmp_path, capsys, case):
    content, why = OTHER_FORMS[case]
    (tmp_path / "a.pth").write_bytes(content)
    refused(tmp_path / "a.pth", why, capsys)


def test_no_file(tmp_path, capsys):
    refused(tmp_path / "absent.pth", "no such file", capsys)


@pytest.mark.parametrize(
    "member", ["../evil", "/evil", "archive/../evil", "archive//evil", "archive/a\\b", "other/x", "archive/"]
)
def test_members_outside_the_root(tmp_path, capsys, member):
    content = archive({"archive/data.pkl": pickled({"w": GOOD}), "archive/data/0": bytes(16), member: b"x"}, root="")
    (tmp_path / "a.pth").write_bytes(content)
    refused(tmp_path / "a.pth", "outside the archive's folder", capsys)


def test_compressed_bomb(tmp_path, capsys):
    view = View("float32", "0", 50_000_000, 0, (50_000_000,), (1,))
    members = {"data.pkl": pickled({"model": {"w": view}}), "data/0": bytes(200_000_000)}
    (tmp_path / "a.pth").write_bytes(archive(members, compression=zipfile.ZIP_DEFLATED))
    assert (tmp_path / "a.pth").stat().st_size < 1_000_000
    refused(tmp_path / "a.pth", "is compressed", capsys)


def good_bytes() -> bytes:
    return archive({"data.pkl": pickled({"model": {"w": GOOD}}), "data/0": bytes(range(16))})


def changed(content: bytes, at: int, form: str, *values: int) -> bytes:
    return content[:at] + struct.pack(form, *values) + content[at + struct.calcsize(form) :]


def zip_lies() -> dict[str, tuple[bytes, str]]:
    content = good_bytes()
    end, entry = content.rindex(b"PK\x05\x06"), content.rindex(b"PK\x01\x02")
    first = content.index(b"PK\x01\x02")
    local = content.rindex(b"PK\x03\x04")
    lies = {
        "encrypted": (changed(content, entry + 8, "<H", 1), "encrypted"),
        "method": (changed(content, entry + 10, "<H", 12), "compressed"),
        "local method": (changed(content, local + 8, "<H", 8), "header of member"),
        "size beyond the file": (changed(content, entry + 20, "<2L", 1 << 30, 1 << 30), "past the end"),
        "size into the directory": (changed(content, entry + 20, "<2L", 60, 60), "the start"),
        "place beyond the file": (changed(content, entry + 42, "<L", 1 << 30), "outside the file"),
        "place of another": (changed(content, entry + 42, "<L", 0), "header of member"),
        "entries": (changed(content, end + 8, "<2H", 3, 3), "zip directory"),
        "too many entries": (changed(content, end + 8, "<2H", 60_000, 60_000), "more than 50000"),
        "start": (changed(content, end + 16, "<L", 3), "not at the position"),
        "disks": (changed(content, end + 4, "<2H", 1, 1), "inconsistent"),
        "checksum": (content.replace(bytes(range(16)), bytes(16)), "checksum"),
        "name": (content[: first + 46] + b"\xff" + content[first + 47 :], "damaged or truncated"),
        "comment": (content + b"x", "inconsistent"),
    }
    twice = archive({"data.pkl": b"", "data/0": b"", "data/1": b""}).replace(b"data/1", b"data/0")
    return lies | {"twice": (twice, "same name")}


@pytest.mark.parametrize("case", zip_lies())
def test_lies_in_the_zip(tmp_path, capsys, case):
    content, why = zip_lies()[case]
    (tmp_path / "a.pth").write_bytes(content)
    refused(tmp_path / "a.pth", why, capsys)


def test_overlapping_members(tmp_path, capsys):
    """The second storage lies inside the first; both headers are genuine."""
    inner = archive({"data/1": bytes(8)})
    content = archive({"data.pkl": pickled({}), "data/0": inner, "data/1": bytes(8)})
    entry = content.rindex(b"PK\x01\x02")
    (tmp_path / "a.pth").write_bytes(changed(content, entry + 42, "<L", content.index(inner)))
    refused(tmp_path / "a.pth", "overlaps", capsys)


@pytest.mark.parametrize("part", [0.01, 0.3, 0.9, 0.999, 0.99999])
def test_truncated(tmp_path, capsys, part):
    whole = (GOLDEN / "finetune_tiny.pth").read_bytes()
    (tmp_path / "a.pth").write_bytes(whole[: int(len(whole) * part)])
    refused(tmp_path / "a.pth", "refused", capsys)


def test_zip64_entries_are_followed(tmp_path):
    """The wide fields that archives past 4 GB have, in a small one."""
    content = good_bytes()
    entry, end = content.rindex(b"PK\x01\x02"), content.rindex(b"PK\x05\x06")
    header = struct.unpack_from("<L", content, entry + 42)[0]
    wide = changed(changed(content, entry + 20, "<2L", 0xFFFFFFFF, 0xFFFFFFFF), entry + 42, "<L", 0xFFFFFFFF)
    wide = changed(wide, entry + 30, "<H", 28)
    extra = struct.pack("<2H3Q", 1, 24, 16, 16, header)
    body, start = wide[:end] + extra, content.index(b"PK\x01\x02")
    size = len(body) - start
    body += struct.pack("<4sQ2H2L4Q", b"PK\x06\x06", 44, 45, 45, 0, 0, 2, 2, size, start)
    body += struct.pack("<4sLQL", b"PK\x06\x07", 0, start + size, 1)
    body += struct.pack("<4s4H2LH", b"PK\x05\x06", 0, 0, 0xFFFF, 0xFFFF, 0xFFFFFFFF, 0xFFFFFFFF, 0)
    (tmp_path / "a.pth").write_bytes(body)
    read = read_checkpoint(tmp_path / "a.pth").model["w"]
    np.testing.assert_array_equal(read, np.frombuffer(bytes(range(16)), np.float32))
    (tmp_path / "b.pth").write_bytes(changed(body, body.index(extra) + 4, "<Q", 1 << 60))
    with pytest.raises(UserError, match=r"is compressed|past the end"):
        read_checkpoint(tmp_path / "b.pth")


def test_as_a_command(tmp_path):
    """The script itself: exit code 2, one line, no traceback, no JAX and no PyTorch imported."""
    path = hostile(tmp_path, CALLS["os.system"](f"touch {tmp_path / 'executed'}"))
    script = [sys.executable, "-X", "importtime", str(ROOT / "convert_torch_ckpt.py"), str(path), str(tmp_path / "out")]
    done = subprocess.run(script, capture_output=True, text=True, timeout=300, env={"PYTHONPATH": str(ROOT)})
    errors = [line for line in done.stderr.splitlines() if not line.startswith("import time:")]
    assert done.returncode == 2 and len(errors) == 1 and "os.system" in errors[0]
    assert not (tmp_path / "executed").exists()
    imported = {line.rsplit("|", 1)[-1].strip() for line in done.stderr.splitlines() if "|" in line}
    assert "numpy" in imported and imported.isdisjoint({"jax", "torch", "orbax"})
