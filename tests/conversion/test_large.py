"""Time and memory of a conversion at the published size."""

import json
import os
import resource
import shutil
import subprocess
import sys
import time
import zipfile
from pathlib import Path

import numpy as np
import pytest

from sarwmix_jax.conversion.moments import parameter_order
from sarwmix_jax.conversion.table import Extent, entries
from tests.conversion.handmade import Args, View, pickled
from tests.support import GOLDEN

ROOT = Path(__file__).parents[2]
SHAPES = json.loads((GOLDEN / "schedules_and_groups.json").read_text())["pretrain_base_state_dict"]
EXTENT = Extent((2, 2, 18, 2), 8)


class Writer:
    """Writes a `.pth` file storage by storage, so that it need not fit in memory."""

    def __init__(self, path: Path):
        self.archive = zipfile.ZipFile(path, "w")
        self.noise = np.random.default_rng(0).standard_normal(4_000_000).astype(np.float32)
        self.count = self.bytes = 0

    def tensor(self, shape) -> View:
        shape = tuple(shape)
        key, elements = str(self.count), int(np.prod(shape))
        strides = tuple(int(np.prod(shape[axis + 1 :])) for axis in range(len(shape)))
        self.archive.writestr(f"base/data/{key}", np.abs(np.resize(self.noise, elements)).tobytes())
        self.count, self.bytes = self.count + 1, self.bytes + 4 * elements
        return View("float32", key, elements, 0, shape, strides)

    def close(self, content) -> None:
        self.archive.writestr("base/data.pkl", pickled(content))
        self.archive.close()


def write_base(path: Path) -> int:
    """A base-size pretraining file with optimiser state; gives the bytes of its tensors."""
    writer = Writer(path)
    model = {entry.published: writer.tensor(SHAPES[entry.published]) for entry in entries(EXTENT)}
    plain, decayed = parameter_order(entries(EXTENT))
    state = {
        number: {"step": 100.0} | {key: writer.tensor(SHAPES[entry.published]) for key in ("exp_avg", "exp_avg_sq")}
        for number, entry in enumerate(plain + decayed)
    }
    numbers = list(range(len(state)))
    groups = [{"params": numbers[: len(plain)]}, {"params": numbers[len(plain) :]}]
    optimizer = {"state": state, "param_groups": groups}
    writer.close({"model": model, "optimizer": optimizer, "epoch": 63, "args": Args({"batch_size": 256})})
    return writer.bytes


def anonymous_bytes(process: int) -> int:
    """Memory of a process that is not a mapped file."""
    try:
        status = Path(f"/proc/{process}/status").read_text()
    except OSError:
        return 0
    line = next((line for line in status.splitlines() if line.startswith("RssAnon")), "RssAnon: 0")
    return int(line.split()[1]) * 1024


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_base_with_optimiser(tmp_path):
    size = write_base(tmp_path / "base.pth")
    assert size == 4 * (113_686_264 + 2 * 113_547_000)
    options = ["--statistics", "bigearthnet_v1", "--with-optimizer", "--mix-group", "256", "--norm-pix", "yes"]
    command = [sys.executable, ROOT / "convert_torch_ckpt.py", tmp_path / "base.pth", tmp_path / "out", *options]
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    with subprocess.Popen(command, env={**os.environ, "PYTHONPATH": str(ROOT)}, stdout=subprocess.DEVNULL) as process:
        peak = 0
        while process.poll() is None:
            peak = max(peak, anonymous_bytes(process.pid))
            time.sleep(0.005)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    shutil.rmtree(tmp_path)  # pytest would keep gigabytes
    assert process.returncode == 0
    assert peak < 1.5 * size
    assert after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime < 40  # seconds of computing
