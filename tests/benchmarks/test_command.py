"""`python -m benchmarks`: its plan, its mistakes, and its real child processes on the smallest work."""

import json
import os
import signal
import subprocess
import sys
import time
from argparse import Namespace
from pathlib import Path

import pytest

from benchmarks import runner
from benchmarks.__main__ import main
from benchmarks.programs import VARIANTS, make_plan, parse_variant
from sarwmix_jax.errors import UserError

ROOT = Path(__file__).parents[2]
ABSENT = ("ml_collections", "grain", "array_record", "tensorflow_datasets", "rasterio", "zarr", "pyarrow", "matplotlib")
TINY = ["--device=cpu", "--tasks=inference", "--sizes=tiny", "--batches=2", "--peers", "--round-seconds=0.01"]
CPU = ["--device=cpu", "--out=x"]
UNSET = dict.fromkeys(("tasks", "sizes", "batches", "dtype", "peers", "variants"))


def plan(**options):
    groups = make_plan(Namespace(**UNSET | {"rounds": 1, "records": 1, "threads": 1, "fed": False} | options))
    return [f"{group[0].workload}: {', '.join(program.name for program in group)}" for group in groups]


def test_gpu_plan_begins_with_what_matters_most():
    found = plan(device="gpu", fed=True)
    peers = "eager PyTorch, compiled PyTorch, compiled PyTorch, attention as products"
    names = [name for name in VARIANTS if name != "unrolled"]
    assert found[:4] == [
        f"pretrain base, batch 256, bfloat16: default, {peers}",
        f"finetune base, batch 128, bfloat16: default, {peers}",
        f"inference base, batch 256, bfloat16: default, {peers}",
        f"pretrain base, batch 256, bfloat16: default, {', '.join(names)}, fed, resident",
    ]
    assert [line.partition(",")[0] for line in found[4:]] == [
        f"{task} {size}" for size in ("large", "huge") for task in ("pretrain", "finetune", "inference")
    ]


def test_programs_of_a_plan_keep_their_own_results():
    first, variants = make_plan(
        Namespace(**UNSET | {"rounds": 1, "records": 1, "threads": 1, "fed": True, "device": "cpu"})
    )
    assert first[0] is variants[0]  # measured twice, one row
    first[0].rounds.append({})
    first[0].setup["first"] = 1.0
    assert not any(program.rounds or program.setup for program in (*first[1:], *variants[1:]))


def test_cpu_plan_is_small():
    pretrain = "pretrain base, batch 8, float32: default"
    assert plan(device="cpu") == [f"{pretrain}, eager PyTorch", f"{pretrain}, plain"]


def test_variants_from_text():
    variant = parse_variant("mine:kernel=fused,scan=true,decoder_depth=4,drop_path=0.5,xla=--a=1 --b=,attention=plain")
    changes = {"kernel": "fused", "scan": True, "decoder_depth": 4, "drop_path": 0.5, "attention": "plain"}
    assert variant == {"name": "mine", "changes": changes, "xla_flags": "--a=1 --b="}
    assert parse_variant("latency hiding")["xla_flags"] == "--xla_gpu_enable_latency_hiding_scheduler=true"
    assert parse_variant("scan:scan=false")["changes"] == {"scan": False}
    assert parse_variant("scan")["changes"] == {"scan": True}
    assert all(parse_variant(name) for name in VARIANTS)


@pytest.mark.parametrize(
    "text",
    ["unheard", "name:", "name:scan", ":scan=true", "name:=3", "name:scan=1", "name:kernl=xla", "name:kernel=xlb"],
)
def test_wrong_variants(text):
    with pytest.raises(
        UserError,
        match=r"--variants has|model.kernel is 'xlb'|unknown setting model.kernl|model.scan is 1; give true or false",
    ):
        parse_variant(text)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--device=cpu"], "--out"),
        (["--out=x"], "--device"),
        (["--device=tpu", "--out=x"], "choose from"),
        ([*CPU, "--batches=many"], "--batches: invalid int value: 'many'"),
        ([*CPU, "--batches", "8", "0"], "must be at least 1"),
        ([*CPU, "--rounds=0"], "must be at least 1"),
        ([*CPU, "--sizes=small"], "--sizes: invalid choice: 'small'"),
        ([*CPU, "--variants=unheard"], "--variants has 'unheard'"),
        ([*CPU, "--tasks=finetune", "--fed"], "name pretrain or inference first in --tasks"),
        (["--device=cpu", f"--out={__file__}/out", "--budget=0"], "choose another --out"),
    ],
)
def test_mistakes_are_one_line(arguments, words, capsys):
    assert main(arguments) == 2
    printed = capsys.readouterr().err.splitlines()
    assert len(printed) == 1 and printed[0].startswith("error: ") and words in printed[0]


def test_a_folder_with_results_is_refused(tmp_path, capsys):
    arguments = ["--device=cpu", f"--out={tmp_path}", "--budget=0"]
    assert main(arguments) == 0
    data, rows = rows_of(tmp_path)
    assert data["finished"] and all("budget of time ended" in row["reason"] for row in rows.values())
    assert main(arguments) == 2
    assert "bench.json already exists; choose another --out" in capsys.readouterr().err


def rows_of(out):
    data = json.loads((out / "bench.json").read_text())
    return data, {row["name"]: row for row in data["programs"]}


def test_a_child_that_fails_answers_with_its_reason(tmp_path):
    child = runner.Child(tmp_path / "log", {"JAX_PLATFORMS": "cpu"})
    assert child.answer(120, kind="jax", task="knit") == {"failed": "KeyError: 'feed'"}
    ended = child.answer(120, steps=1)
    assert ended["failed"].startswith("the process ended with code 0")
    child.close()


def test_a_killed_or_silent_child_is_an_answer(tmp_path):
    child = runner.Child(tmp_path / "log", {"JAX_PLATFORMS": "cpu"})
    os.kill(child.process.pid, signal.SIGSTOP)
    assert child.answer(0.2, kind="jax")["failed"] == "no answer within 0 s"
    child.process.kill()
    killed = child.answer(120)
    assert killed["failed"].startswith("the process ended with code -9")
    child.close()


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
    environment = os.environ | {"PYTHONPATH": str(blocked), "JAX_COMPILATION_CACHE_DIR": str(compiled)}

    def begin(*arguments):
        command = [sys.executable, "-m", "benchmarks", *TINY, f"--out={tmp_path}/out", *arguments]
        return subprocess.Popen(command, cwd=ROOT, env=environment, stdout=-1, stderr=-1, text=True)

    return begin


@pytest.mark.slow
def test_a_whole_run_needs_only_jax_and_its_companions(start, tmp_path):
    process = start("--rounds=2", "--variants", "plain", "odd:kernel=cudnn", "--profile", "--dtype=float32")
    printed, progress = process.communicate(timeout=300)
    assert process.returncode == 0, progress
    data, rows = rows_of(tmp_path / "out")
    assert data["finished"]
    assert list(rows) == ["default", "plain", "odd"]
    assert rows["odd"]["reason"].startswith("model.kernel cudnn cannot compute in model.dtype float32")
    for name in ("default", "plain"):
        assert len(rows[name]["rounds"]) >= 2 and not rows[name]["reason"]
        assert rows[name]["setup"]["compile_seconds"] > 0
        assert rows[name]["setup"]["kernels"] > 10
        assert rows[name]["rounds"][-1]["peak_bytes"] > 2**26
        assert rows[name]["setup"]["versions"]["device"] == "cpu"
    assert [(each["wave"], each["number"]) for each in rows["plain"]["rounds"]] == [(2, 0), (2, 1)]
    assert rows["default"]["setup"]["first"] == pytest.approx(rows["plain"]["setup"]["first"], rel=1e-4)
    assert list((tmp_path / "out" / "trace").rglob("*.xplane.pb"))
    assert "| default |" in printed and "default: round 2" in progress


@pytest.mark.slow
def test_fed_and_resident(tmp_path):
    arguments = [*TINY, f"--out={tmp_path}/out", "--rounds=1", "--variants", "--fed", "--records=16", "--threads=1"]
    assert main(arguments) == 0
    rows = rows_of(tmp_path / "out")[1]
    assert list(rows) == ["default", "fed", "resident"]
    assert all(row["rounds"] and not row["reason"] for row in rows.values())


@pytest.mark.slow
def test_a_kill_leaves_readable_results_and_no_children(start, tmp_path):
    process = start("--rounds=1000000", "--variants")
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
    """Whether a round has been saved."""
    return (out / "bench.json").exists() and any(row["rounds"] for row in rows_of(out)[0]["programs"])


def gone(pid):
    """Whether a process has ended, even if its parent has not waited for it yet."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except OSError:
        return True
