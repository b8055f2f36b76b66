"""SEN12-FLOOD whose files are something else: one line, nothing else opened, nothing waited for."""

import json
import os
import shutil
import zipfile

import pytest

from ..geotiff.test_opening import VRT, sparse
from .test_sen12flood import SCRIPT, copied, filename, raw, refusal, source_path  # noqa: F401


def zip_with(archive, root, name, content):
    """The raw folder as a zip, one file of it exchanged."""
    with zipfile.ZipFile(archive, "w") as file:
        for path in sorted(root.rglob("*")):
            if path.is_file():
                place = str(path.relative_to(root))
                file.writestr(place, content if place == name else path.read_bytes())
    return archive


def make_other(path, kind):
    other = shutil.copy(path, path.with_name("other.tif"))
    path.unlink()
    match kind:
        case "vrt":
            path.write_text(VRT.format(other))
        case "empty":
            path.touch()
        case "pipe":
            os.mkfifo(path)
        case "giant":
            sparse(path, 100_000, 100_000, tiled=True)
        case "complex":
            sparse(path, 512, 512, crs="EPSG:4326", dtype="complex_int16")
        case "large":
            sparse(path, 12_000, 12_000, crs="EPSG:4326", compress="deflate")
            with path.open("ab") as file:
                file.truncate(2**20)
    return path


@pytest.mark.parametrize(
    "kind, reason",
    [
        ("vrt", "not recognized as being in a supported file format"),
        ("empty", "is empty"),
        ("pipe", "is not a regular file"),
        ("giant", "all but empty"),
        ("complex", "holds complex_int16: not calibrated"),
        ("large", "12000x12000 pixels, more than any scene"),
    ],
)
@pytest.mark.parametrize("layout", ["records", "npy"])
def test_a_scene_that_is_something_else_is_named_or_skipped(run_here, refusal, copied, tmp_path, kind, reason, layout):  # noqa: F811
    path = make_other(source_path(copied, "7", 1), kind)
    message = refusal("--raw-root", copied, f"--layout={layout}")
    assert f"7/{path.name}" in message and reason in message
    assert not (tmp_path / "refused.partial" / "records" / "test").exists()
    if kind == "vrt":
        archive = zip_with(tmp_path / "a.zip", copied, f"7/{path.name}", path.read_bytes())
        assert reason in refusal("--zip", archive, f"--layout={layout}")
        done = run_here(SCRIPT, "--zip", archive, "--on-error=skip", f"--layout={layout}", "--out", tmp_path / "out")
        assert done.returncode == 0, done.stderr
        report = json.loads((tmp_path / "out" / "preparation.json").read_text())
        assert report["pairs"]["test"]["dropped"]["cannot be read"] == 3


@pytest.mark.parametrize("kind", ["vrt", "pipe"])
def test_a_grid_that_is_something_else_is_named(refusal, copied, kind):  # noqa: F811
    path = make_other(copied / "7" / "S2_2019-02-01_B04.tif", kind)
    assert f"7/{path.name} is " in refusal("--raw-root", copied)


@pytest.mark.parametrize(
    "content, reason",
    [
        (b"[" * 1_000_000, "cannot be understood"),
        (b'{"0001": ' * 100_000, "cannot be understood"),
        (b'{"0001": {}, "0001": {}}', "'0001' is named twice"),
        ('{"Zürich": {}}'.encode("latin-1"), "cannot be understood"),
        (b'{"0\\u0000": {}}', r"names the folder '0\x00', which is not a plain name"),
        (b'{"' + b"1" * 300 + b'": {}}', "which is not a plain name"),
        (b'{"0001": {"1": {"FLOODING": 1, "filename": "a"}}}', "FLOODING 1, expected true or false"),
        (b'{"0001": {"1": {"FLOODING": "false", "filename": "a"}}}', "FLOODING 'false', expected true or false"),
        (b'{"0001": {"1": {"FLOODING": true, "filename": "a\\nb"}}}', "which is not a plain name"),
        (b'{"0001": {"1": {"FLOODING": null, "filename": "%s"}}}' % (b"x" * 10**6), "FLOODING None"),
        (b'{"0001": {"1": {"FLOODING": true, "filename": null}}}', "cannot be understood"),
    ],
)
def test_an_odd_index_is_one_short_line(refusal, tmp_path, content, reason):  # noqa: F811
    (tmp_path / "raw").mkdir()
    (tmp_path / "raw" / "S1list.json").write_bytes(content)
    message = refusal("--raw-root", tmp_path / "raw")
    assert reason in message and len(message) < 600


def test_a_huge_index_is_not_read(refusal, tmp_path):  # noqa: F811
    (tmp_path / "raw").mkdir()
    with (tmp_path / "raw" / "S1list.json").open("wb") as file:
        file.truncate(2**40)
    assert "S1list.json is too large (1,048,576 MiB)" in refusal("--raw-root", tmp_path / "raw")
    (tmp_path / "raw" / "S1list.json").unlink()
    with zipfile.ZipFile(tmp_path / "a.zip", "w", zipfile.ZIP_DEFLATED) as file:
        file.writestr("S1list.json", b" " * (2**26 + 1))
    assert "is too large" in refusal("--zip", tmp_path / "a.zip")


def test_lists_and_options_that_do_nothing_are_refused(refusal, raw, tmp_path):  # noqa: F811
    train, test = tmp_path / "train.csv", tmp_path / "test.csv"
    lists = ["--raw-root", raw, "--train-csv", train, "--test-csv", test]
    train.write_text("\ufeff7\n")
    test.write_text(" \n")
    assert f"{test} names no sequence" in refusal(*lists)
    test.write_bytes("Zürich".encode("latin-1"))
    assert f"{test} is not UTF-8" in refusal(*lists)
    os.mkfifo(tmp_path / "pipe")
    assert "is not a regular file" in refusal(*lists[:-1], tmp_path / "pipe")
    fixed = ["--raw-root", raw]
    assert "--records-per-shard=7 is for the layout records" in refusal(*fixed, "--layout=npy", "--records-per-shard=7")
    assert "--dry-run shows the plan of all parts" in refusal(*fixed, "--dry-run", "--shard=1/2")
    assert "--dry-run shows the plan of all parts" in refusal(*fixed, "--layout=npy", "--dry-run", "--merge")
