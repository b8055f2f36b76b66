"""Every tool, killed at logged moments and started again, ends with the bytes of an undisturbed run."""

import hashlib
import json
import os
import shutil
import signal
import subprocess
import time
from pathlib import Path

import numpy as np
import pytest

from .conftest import ENVIRONMENT, command_line, run_script
from .flood_miniature import write_miniature, zip_of
from .test_geotiff import write_raster

pytestmark = pytest.mark.slow


def v1(folder: Path) -> tuple[str, list]:
    """1,200 patches: hard links to one."""
    rng = np.random.default_rng(0)
    root = folder / "BigEarthNet-S1-v1.0"
    name = "S1A_IW_GRDH_1SDV_20170613T165043_33UUP_0_0"
    for band, level in (("VH", -19), ("VV", -12)):
        values = (level + 4 * rng.standard_normal((120, 120))).astype(np.float32)
        write_raster(root / name / f"{name}_{band}.tif", values)
    (root / name / f"{name}_labels_metadata.json").write_text(json.dumps({"labels": ["Pastures"]}))
    names = [name] + [f"{name[:-3]}{n}_{n}" for n in range(1, 1200)]
    for other in names[1:]:
        (root / other).mkdir()
        for file in (root / name).iterdir():
            os.link(file, root / other / file.name.replace(name, other))
    (folder / "train.csv").write_text("".join(f"x,{each}\n" for each in names))
    fixed = ["--root", folder, "--splits", f"train={folder / 'train.csv'}", "--records-per-shard=25"]
    return "bigearthnet_v1.py", fixed


def geotiff(folder: Path) -> tuple[str, list]:
    """900 tiles of four scenes."""
    rng = np.random.default_rng(0)
    for number in range(4):
        power = rng.gamma(4, 0.25, (2, 1000, 1000)) * np.array([0.012, 0.06])[:, None, None]
        path = folder / "in" / f"gamma0_{number}.tif"
        write_raster(path, power.astype(np.float32), descriptions=["VH", "VV"])
    return "geotiff.py", ["--inputs", folder / "in", "--tile=64", "--records-per-shard=20"]


def flood(folder: Path) -> tuple[str, list]:
    archive = zip_of(write_miniature(folder / "raw"), folder / "flood.zip")
    return "sen12flood.py", ["--zip", archive, "--on-error=skip", "--records-per-shard=1"]


def flood_npy(folder: Path) -> tuple[str, list]:
    script, (*fixed, _) = flood(folder)
    return script, [*fixed, "--layout=npy"]


def synthetic(_: Path) -> tuple[str, list]:
    return "synthetic_scenes.py", ["--train=600", "--validation=0", "--test=0", "--records-per-shard=10"]


def digests(folder: Path) -> dict[str, str]:
    files = (path for path in folder.rglob("*") if path.is_file())
    return {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def begun(partial: Path) -> tuple[int, int]:
    """Progress files, and files half written."""
    return len(list(partial.glob("progress/*.json"))), len(list(partial.rglob(".*.tmp")))


def kill_once(command: list[str], partial: Path, units: int, whole_group: bool) -> dict:
    """Start a run and kill it when `units` units are done; returns the moment."""
    process = subprocess.Popen(
        command, env=ENVIRONMENT, start_new_session=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    begin = time.monotonic()
    while process.poll() is None and begun(partial)[0] < units:
        assert time.monotonic() - begin < 300
        time.sleep(0.001)
    time.sleep(0.02 * (units % 3))
    finished = process.poll() is not None
    if whole_group:
        os.killpg(process.pid, signal.SIGKILL)
    else:
        process.kill()
    process.wait()
    done, half = begun(partial)
    return {"second": round(time.monotonic() - begin, 2), "finished": finished, "units": done, "half written": half}


@pytest.mark.parametrize(
    "make, kills, step",
    [(v1, 6, 6), (geotiff, 6, 6), (flood, 3, 3), (flood_npy, 3, 1), (synthetic, 6, 6)],
    ids=["v1", "geotiff", "flood", "flood_npy", "synthetic"],
)
def test_killed_and_started_again(make, kills, step, tmp_path):
    script, fixed = make(tmp_path / "source")
    whole = run_script(script, *fixed, "--out", tmp_path / "whole")
    assert whole.returncode == 0, whole.stderr
    out, partial = tmp_path / "killed", tmp_path / "killed.partial"
    moments = []
    for number in range(kills):
        command = command_line(script, *fixed, "--out", out, f"--workers={1 + number % 2}")
        moments.append(kill_once(command, partial, step * number + 1, whole_group=number % 3 != 2))
        print(make.__name__, moments[-1])
        time.sleep(0.3)  # workers of a parent that alone was killed end by themselves
    assert not any(moment["finished"] for moment in moments) and not out.exists()
    assert len({moment["units"] for moment in moments}) >= 2
    done = run_script(script, *fixed, "--out", out, "--workers=2")
    assert done.returncode == 0, done.stderr
    assert digests(out) == digests(tmp_path / "whole") and not partial.exists()
    shutil.rmtree(out)
