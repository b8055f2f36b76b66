"""Killed, resumed, shared over workers and machines: always the same bytes, over two thousand patches."""

import contextlib
import hashlib
import os
import signal
import subprocess
import time
from pathlib import Path

import pytest

from sarwmix_jax.data.sources import open_records

from .conftest import ENVIRONMENT, command_line, run_script, write_tree

pytestmark = pytest.mark.slow
PATCHES = 2_100
KILLS = 20
SCRIPT = "bigearthnet_v2.py"


@pytest.fixture(scope="module")
def work(tmp_path_factory) -> Path:
    """A folder with a tree and the records of an undisturbed run with one worker."""
    folder = tmp_path_factory.mktemp("kills")
    write_tree(folder / "tree", PATCHES)
    done = run_script(SCRIPT, *arguments(folder, folder / "undisturbed"))
    assert done.returncode == 0, done.stderr
    return folder


def arguments(folder: Path, out: Path, *more) -> list:
    fixed = ["--root", folder / "tree", "--metadata", folder / "tree" / "metadata.parquet", "--out", out]
    return [*fixed, "--records-per-shard=25", *more]


def digests(folder: Path) -> dict[str, str]:
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in sorted(folder.iterdir())}


def half_written(partial: Path) -> dict[str, int]:
    """Files begun and not finished, with their bytes on the disk so far (the writer holds back a chunk)."""
    found = {}
    for path in partial.glob("*/.*.tmp"):
        with contextlib.suppress(FileNotFoundError):  # finished in this moment
            found[path.name] = path.stat().st_size
    return found


def kill_inside(process: subprocess.Popen, partial: Path, shards: int, whole_group: bool) -> dict:
    """Kill a run once `shards` shards are done and, then, a file is half written; returns what was found."""
    begin = time.monotonic()
    while process.poll() is None:
        done = len(list(partial.glob("progress/*.json")))
        if done >= shards and any(half_written(partial).values()):
            break
        assert time.monotonic() - begin < 300
        time.sleep(0.0005)
    finished = process.poll() is not None
    if whole_group:
        os.killpg(process.pid, signal.SIGKILL)
    else:
        process.kill()
    process.wait()
    return {
        "second": round(time.monotonic() - begin, 2),
        "finished": finished,
        "shards": len(list(partial.glob("progress/*.json"))),
        "half_written": half_written(partial),
    }


def test_killed_at_twenty_moments_the_result_is_the_same(work):
    out, partial = work / "killed", work / "killed.partial"
    moments = []
    for number in range(KILLS):
        process = subprocess.Popen(
            command_line(SCRIPT, *arguments(work, out, "--workers=2")),
            env=ENVIRONMENT,
            start_new_session=True,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        # Workers of a parent that alone was killed must end by themselves: every second time they are left.
        moments.append(kill_inside(process, partial, 4 * number, whole_group=number % 2 == 0))
        print(number, moments[-1])
        assert not out.exists()
    assert not any(moment["finished"] for moment in moments)
    assert sum(bool(moment["half_written"]) for moment in moments) >= KILLS // 2
    assert sum(any(moment["half_written"].values()) for moment in moments) >= KILLS // 4
    assert len({moment["shards"] for moment in moments}) >= KILLS // 2
    done = run_script(SCRIPT, *arguments(work, out, "--workers=2"))
    assert done.returncode == 0, done.stderr
    assert digests(out) == digests(work / "undisturbed")
    assert not partial.exists()
    assert len(open_records(out, "train+validation+test")) == PATCHES


@pytest.mark.parametrize("workers", [2, 4])
def test_more_workers_give_the_same_bytes(work, workers):
    out = work / f"workers{workers}"
    done = run_script(SCRIPT, *arguments(work, out, f"--workers={workers}"))
    assert done.returncode == 0, done.stderr
    assert digests(out) == digests(work / "undisturbed")


def test_three_parts_at_once_merge_to_the_same_bytes(work):
    out = work / "parts"
    parts = [
        subprocess.Popen(command_line(SCRIPT, *arguments(work, out, f"--shard={n}/3")), env=ENVIRONMENT)
        for n in (1, 2, 3)
    ]
    assert [part.wait(timeout=600) for part in parts] == [0, 0, 0]
    assert not out.exists()
    done = run_script(SCRIPT, *arguments(work, out, "--merge"))
    assert done.returncode == 0, done.stderr
    assert digests(out) == digests(work / "undisturbed")
