"""The tour names the files that are executed, as measured."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from sarwmix_jax.data.records import read_contract
from sarwmix_jax.preparation.synthetic import write_synthetic_records
from sarwmix_jax.training.history import read_log
from tests.data_prep.test_geotiff import scene_db, write_raster
from tests.training.conftest import TINY_RUN

ROOT = Path(__file__).parents[1]
PREPARATION_FILES, TRAINING_FILES = 24, 31


COMMAND = """
import inspect, json, runpy, sys, threading
files, function = set(), inspect.CO_OPTIMIZED | inspect.CO_NEWLOCALS
def called(frame, *_):  # gives None: is not asked about the lines of the function
    if frame.f_code.co_flags & function == function:
        files.add(frame.f_code.co_filename)
threading.settrace(called)
sys.settrace(called)
sys.argv = sys.argv[1:]
try:
    runpy.run_path(sys.argv[0], run_name="__main__")
except SystemExit as end:
    assert not end.code, end.code
finally:
    sys.settrace(None)
print(json.dumps(sorted(files)))
"""


def executed(*command: object) -> set[str]:
    """Files of the package of which a separate process executed a function, in any thread."""
    done = subprocess.run(
        [sys.executable, "-c", COMMAND, *map(str, command)],
        cwd=ROOT,
        env=os.environ | {"JAX_PLATFORMS": "cpu", "PYTHONPATH": str(ROOT), "GLIBC_TUNABLES": "glibc.malloc.hugetlb=0"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    package = ROOT / "sarwmix_jax"
    found = map(Path, json.loads(done.stdout.splitlines()[-1]))
    return {str(path.relative_to(ROOT)) for path in found if path.is_relative_to(package)}


def named_files(section: str) -> set[str]:
    """Files of the package that a section of the tour names."""
    _, _, rest = (ROOT / "docs" / "tour.md").read_text().partition(f"\n## {section}\n")
    assert rest, f"no section {section!r}"
    return set(re.findall(r"`(sarwmix_jax/[\w/]+\.py)`", rest.partition("\n## ")[0]))


def test_from_geotiffs_to_records(tmp_path):
    for band, values_db in zip(("VH", "VV"), scene_db(128), strict=True):
        write_raster(tmp_path / "in" / f"sigma0_{band}.tif", 10 ** (values_db / 10))
    script, out = ROOT / "data_prep" / "geotiff.py", tmp_path / "out"
    files = executed(script, "--inputs", tmp_path / "in", "--out", out, "--tile=64", "--workers=1")
    assert read_contract(out).records == {"train": 4}
    assert files == named_files("From GeoTIFFs to records")
    assert len(files) <= PREPARATION_FILES


@pytest.mark.slow
def test_from_the_command_to_the_gradient(tmp_path):
    write_synthetic_records(tmp_path / "records", train=8, side=64)
    settings = TINY_RUN | {"validation.split": "", "optimizer.stop_after_steps": 1}
    changes = [f"--config.{name}={value}" for name, value in settings.items()]
    records, workdir = f"--config.data.records={tmp_path}/records", f"--workdir={tmp_path}/run"
    door = ROOT / "sarwmix_jax" / "cli" / "main.py"
    files = executed(door, "pretrain", "--config=configs/demo.py", workdir, records, *changes)
    assert [entry["step"] for entry in read_log(tmp_path / "run") if entry["event"] == "train"] == [1]
    assert files == named_files("From the command to the gradient")
    assert len(files) <= TRAINING_FILES
