"""`python -m benchmarks` with its real child processes, on the smallest work."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from benchmarks.__main__ import main
from benchmarks.plan import Options
from benchmarks.run import run
from sarwmix_jax.errors import UserError

ROOT = Path(__file__).parents[2]
ABSENT = ("ml_collections", "grain", "array_record", "tensorflow_datasets", "rasterio", "zarr", "pyarrow", "matplotlib")
TINY = ["--device=cpu", "--tasks=inference", "--sizes=tiny", "--batches=2", "--peers=none", "--round_seconds=0.01"]


@pytest.fixture(scope="module")
def compiled(tmp_path_factory):
    """Programs of these commands, which may be killed while they write one."""
    return tmp_path_factory.mktemp("compiled")


@pytest.fixture
def start(tmp_path, compiled):
    """Starts `python -m benchmarks` where only JAX and its companions are installed."""
    blocked = tmp_path / "blocked"
    blocked.mkdir()
    lines = ["import sys", *(f"sys.modules[{name!r}] = None" for name in ABSENT)]
    (blocked / "sitecustomize.py").write_text("\n".join(lines))
    environment = os.environ | {
        "PYTHONPATH": os.pathsep.join([str(blocked), str(ROOT)]),
        "JAX_COMPILATION_CACHE_DIR": str(compiled),
    }

    def begin(*arguments):
        command = [sys.executable, "-m", "benchmarks", *TINY, *arguments]
        return subprocess.Popen(command, cwd=ROOT, env=environment, stdout=-1, stderr=-1, text=True)

    return begin


def rows_of(out):
    data = json.loads((out / "bench.json").read_text())
    return data, {row["contender"]["name"]: row for row in data["rows"]}


@pytest.mark.slow
def test_a_whole_run_needs_only_jax_and_its_companions(start, tmp_path):
    process = start(f"--out={tmp_path}/out", "--rounds=2", "--variants=odd:frobnicate=1", "--profile")
    printed, told = process.communicate(timeout=300)
    assert process.returncode == 0, told
    data, rows = rows_of(tmp_path / "out")
    assert data["finished"]
    assert data["device"]["device_kind"] == "cpu" and data["device"]["matmul_flops"] > 1e8
    assert list(rows) == ["default", "plain", "odd"]
    assert rows["odd"]["reason"] == "not in this version: there is no setting model.frobnicate"
    for name in ("default", "plain"):
        assert rows[name]["status"] == "measured"
        assert len(rows[name]["step_seconds"]) >= 3 and min(rows[name]["step_seconds"]) > 0
        assert rows[name]["setup"]["compile_seconds"] > 0
        assert rows[name]["facts"]["peak_bytes"] > 2**26
    assert [(each["wave"], each["number"]) for each in rows["plain"]["rounds"]] == [(0, 0), (1, 0), (1, 1)]
    assert rows["default"]["setup"]["first"] == pytest.approx(rows["plain"]["setup"]["first"], rel=1e-4)
    assert rows["default"]["profile"]["kinds"]
    assert "| default |" in printed and "round 2 of 2" in told and "jax" in data["device"]["versions"]


@pytest.mark.slow
def test_a_kill_leaves_readable_results_and_no_children(start, tmp_path):
    process = start(f"--out={tmp_path}/out", "--rounds=1000000")
    deadline = time.monotonic() + 300
    while not timed(tmp_path / "out"):
        assert time.monotonic() < deadline and process.poll() is None
        time.sleep(0.1)
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
    assert children
    process.send_signal(signal.SIGKILL)
    process.communicate()
    data, rows = rows_of(tmp_path / "out")
    assert not data["finished"] and rows["default"]["rounds"]
    assert "Not finished" in (tmp_path / "out" / "bench.md").read_text()
    while any(Path(f"/proc/{child}").exists() and not gone(child) for child in children):
        assert time.monotonic() < deadline
        time.sleep(0.1)


def timed(out):
    """Whether a round has been written down."""
    return (out / "bench.json").exists() and any(row["rounds"] for row in rows_of(out)[0]["rows"])


def gone(pid):
    """Whether a process has ended, though nobody may have asked for its end yet."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except OSError:
        return True


def test_no_budget_no_measurement(tmp_path):
    run(Options("cpu"), tmp_path / "out", 0.0, lambda text: None)
    data, rows = rows_of(tmp_path / "out")
    assert data["finished"] and {row["status"] for row in rows.values()} == {"skipped"}
    assert "not measured" in (tmp_path / "out" / "bench.md").read_text()
    with pytest.raises(UserError, match=r"bench.json already exists; choose another --out"):
        run(Options("cpu"), tmp_path / "out", 0.0, lambda text: None)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--device=cpu"], "--out is not given"),
        (["--out=x"], "--device is not given"),
        (["--device=cpu", "--out=x", "--batches=many"], "--batches has 'many'; give whole numbers"),
        (["--device=cpu", "--out=x", "--variants=unheard"], "--variants has 'unheard'"),
        (["--device=cpu", "--out=x", "--rounds=0"], "rounds"),
    ],
)
def test_mistakes_are_told_in_one_line(arguments, words, capsys):
    assert main(arguments) == 2
    told = capsys.readouterr().err.splitlines()
    assert len(told) == 1 and told[0].startswith("error: ") and words in told[0]


def test_a_folder_that_cannot_be_written_is_told(tmp_path, capsys):
    (tmp_path / "file").write_text("")
    assert main(["--device=cpu", f"--out={tmp_path}/file/out", "--budget=0"]) == 2
    assert "choose another --out" in capsys.readouterr().err
