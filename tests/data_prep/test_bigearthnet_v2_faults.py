"""What goes wrong with files, disks and command lines, on made-up trees."""

import csv
import json
import subprocess
import sys

import numpy as np
import pyarrow as pa
import pyarrow.parquet
import pytest

from sarwmix_jax.data.sources import open_records

from .conftest import ENVIRONMENT, command_line, run_script, write_geotiff, write_tree

SCRIPT = "bigearthnet_v2.py"


@pytest.fixture
def tree(tmp_path):
    write_tree(tmp_path / "tree", 24)
    return tmp_path / "tree"


def arguments(tree, out, *more, metadata=None):
    return ["--root", tree, "--out", out, "--metadata", metadata or tree / "metadata.parquet", *more]


@pytest.fixture
def refusal(run_here):
    return lambda *command: one_line(run_here(SCRIPT, *command))


def one_line(done) -> str:
    """Message of a failed run: one line, exit code 2."""
    assert done.returncode == 2, (done.stdout, done.stderr)
    assert done.stderr.startswith("error: ") and done.stderr.count("\n") == 1, done.stderr
    return done.stderr


def damage(tree, number: int, kind: str):
    """Damage the VV file of one patch."""
    path = sorted(tree.glob("BigEarthNet-S1/*/*/*_VV.tif"))[number]
    values = np.full((120, 120), -12, np.float32)
    if kind == "missing":
        path.unlink()
    elif kind == "cut off":
        path.write_bytes(path.read_bytes()[:20_000])
    elif kind == "no tiff":
        path.write_text("<html>not found</html>")
    elif kind == "nan":
        values[3, 4] = np.nan
        write_geotiff(path, values)
    elif kind == "shape":
        write_geotiff(path, values[:60])
    elif kind == "integers":
        write_geotiff(path, values.astype(np.int16))
    return path


@pytest.mark.parametrize(
    "kind, reason",
    [
        ("missing", "is missing"),
        ("cut off", "is damaged"),
        ("no tiff", "is damaged"),
        ("nan", "holds 1 values that are not finite"),
        ("shape", "holds float32 (60, 120), expected float32 (120, 120)"),
        ("integers", "holds int16 (120, 120), expected float32"),
    ],
)
def test_damaged_files_are_named(refusal, tree, tmp_path, kind, reason):
    path = damage(tree, 5, kind)
    message = refusal(*arguments(tree, tmp_path / "out"))
    assert path.name in message and reason in message


def test_all_damage_is_reported_and_the_rest_is_written(tree, tmp_path):
    kinds = ("missing", "cut off", "no tiff", "nan", "shape", "integers")
    paths = [damage(tree, 3 * number, kind) for number, kind in enumerate(kinds)]
    done = run_script(SCRIPT, *arguments(tree, tmp_path / "out", "--on-error=skip", "--workers=2"))
    assert done.returncode == 0, done.stderr
    assert "skipped 6 records" in done.stdout
    report = json.loads((tmp_path / "out" / "preparation.json").read_text())
    assert (report["planned"], report["written"]) == (24, 18)
    reasons = "\n".join(problem["reason"] for problem in report["skipped"])
    assert all(path.name in reasons for path in paths)
    assert len(open_records(tmp_path / "out", "train+validation+test")) == 18


def test_the_csv_form_gives_the_same_records(run_here, tree, tmp_path):
    rows = pyarrow.parquet.read_table(tree / "metadata.parquet").to_pylist()
    files = []
    for split in ("train", "validation", "test"):
        files.append(f"{split}={tree / split}.csv")
        with (tree / f"{split}.csv").open("w") as file:
            writer = csv.writer(file)
            writer.writerow(["patch_id", "labels", "year", "country", "s1_name"])
            for row in rows:
                if row["split"] == split:
                    writer.writerow([row["patch_id"], str(row["labels"]), 2017, "Austria", row["s1_name"]])
    command = ["--root", tree, "--out", tmp_path / "csv", "--metadata", *files]
    done = run_here(SCRIPT, *command)
    assert done.returncode == 0, done.stderr
    assert run_here(SCRIPT, *arguments(tree, tmp_path / "parquet")).returncode == 0
    for path in (tmp_path / "parquet").iterdir():
        assert path.read_bytes() == (tmp_path / "csv" / path.name).read_bytes()


def test_metadata_mistakes_are_one_line(refusal, tree, tmp_path):
    out = tmp_path / "out"
    assert "error: no file" in refusal(*arguments(tree, out, metadata=tree / "nothing.parquet"))
    table = pyarrow.parquet.read_table(tree / "metadata.parquet")
    other = tree / "other.parquet"
    pyarrow.parquet.write_table(table.drop_columns("s1_name"), other)
    assert "has no column 's1_name'" in refusal(*arguments(tree, out, metadata=other))
    labels = pa.array([["Moon"]] * 24)
    position = table.column_names.index("labels")
    pyarrow.parquet.write_table(table.set_column(position, "labels", labels), other)
    assert "label 'Moon' in the metadata is not one of the 19 classes" in refusal(*arguments(tree, out, metadata=other))
    other.write_text("no parquet")
    assert "cannot be read as parquet" in refusal(*arguments(tree, out, metadata=other))
    (tree / "a.csv").write_text("patch_id,labels,a,b,s1_name\np,['Pastures'],0,0,s\n")
    assert "no column 'split'; write train=" in refusal(*arguments(tree, out, metadata=tree / "a.csv"))
    (tree / "a.csv").write_text("patch_id,labels\np,['Pastures']\n")
    assert "has 2 columns" in refusal(*arguments(tree, out, metadata=f"train={tree / 'a.csv'}"))


def test_command_line_mistakes_are_one_line(refusal, tree, tmp_path):
    out = tmp_path / "out"
    assert "no folder BigEarthNet-S1 in" in refusal(
        "--root", tmp_path, "--out", out, "--metadata", tree / "metadata.parquet"
    )
    assert "--shard=3: write it as 1/3" in refusal(*arguments(tree, out, "--shard=3"))
    assert "--shard=4/3: write it as" in refusal(*arguments(tree, out, "--shard=4/3"))
    assert "leave out --shard" in refusal(*arguments(tree, out, "--shard=1/3", "--merge"))
    assert "workers 0: at least 1" in refusal(*arguments(tree, out, "--workers=0"))
    assert "shards are not in" in refusal(*arguments(tree, out, "--merge"))


def test_a_place_that_cannot_be_written_is_one_line(refusal, tree, tmp_path):
    (tmp_path / "file").write_text("")
    message = refusal(*arguments(tree, tmp_path / "file" / "out"))
    assert "cannot write" in message and "Not a directory" in message


LIMIT = """
import os, resource, sys
resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))
os.execv(sys.argv[1], sys.argv[1:])
"""


def test_a_full_disk_is_one_line_and_the_run_can_go_on(run_here, tree, tmp_path):
    """A file-size limit simulates the full disk."""
    command = arguments(tree, tmp_path / "out", "--workers=2", "--records-per-shard=8")
    # Set by a process in between: one with JAX must not fork to set it.
    limited = [sys.executable, "-c", LIMIT, *command_line(SCRIPT, *command)]
    message = one_line(subprocess.run(limited, capture_output=True, text=True, timeout=300, env=ENVIRONMENT))
    assert "cannot write" in message and "File too large" in message and "free space or choose another" in message
    assert not (tmp_path / "out").exists()
    done = run_here(SCRIPT, *arguments(tree, tmp_path / "out", "--records-per-shard=8"))
    assert done.returncode == 0, done.stderr
    assert len(open_records(tmp_path / "out", "train+validation+test")) == 24
