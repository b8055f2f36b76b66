import importlib
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet
import pytest
import rasterio

REPOSITORY = Path(__file__).parents[2]
SHARED_DATA = REPOSITORY.parent / "shared" / "data"
needs_shared_data = pytest.mark.skipif(not SHARED_DATA.is_dir(), reason=f"no sample data at {SHARED_DATA}")


ENVIRONMENT = os.environ | {"PYTHONPATH": str(REPOSITORY)}


def command_line(name: str, *arguments) -> list[str]:
    """A script of data_prep/ as a user calls it."""
    return [sys.executable, str(REPOSITORY / "data_prep" / name), *map(str, arguments)]


def run_script(name: str, *arguments, **options) -> subprocess.CompletedProcess[str]:
    """Run a script of data_prep/ in a separate process."""
    return subprocess.run(
        command_line(name, *arguments), capture_output=True, text=True, timeout=300, env=ENVIRONMENT, **options
    )


def copy_as_v2(root: Path) -> Path:
    """The ten BigEarthNet v1 sample patches in the folders of BigEarthNet v2."""
    for patch in sorted((SHARED_DATA / "bigearthnet_v1" / "BigEarthNet-S1-v1.0").iterdir()):
        shutil.copytree(patch, root / "BigEarthNet-S1" / patch.name.rsplit("_", 3)[0] / patch.name)
    return root


@pytest.fixture
def run_here(monkeypatch, capsys):
    """Run a script's `main` in this process, which saves the seconds of its imports."""
    monkeypatch.syspath_prepend(str(REPOSITORY / "data_prep"))

    def run(name: str, *arguments) -> subprocess.CompletedProcess[str]:
        command = [name, *map(str, arguments)]
        monkeypatch.setattr(sys, "argv", command)
        module = importlib.import_module(name.removesuffix(".py"))
        return subprocess.CompletedProcess(command, module.main(), *capsys.readouterr())

    return run


@pytest.fixture
def refusal(run_here, tmp_path):
    """The one line in which geotiff.py refuses its arguments."""

    def run(*arguments) -> str:
        done = run_here("geotiff.py", "--out", tmp_path / "refused", *arguments)
        assert done.returncode == 2 and done.stderr.startswith("error: ") and done.stderr.count("\n") == 1, done
        assert not (tmp_path / "refused").exists()
        return done.stderr

    return run


def write_geotiff(path: Path, values: np.ndarray) -> None:
    """One band as the original patches hold it: float32, UTM, 10 m, no nodata tag."""
    profile = {
        "driver": "GTiff",
        "width": values.shape[1],
        "height": values.shape[0],
        "count": 1,
        "dtype": values.dtype,
        "crs": "EPSG:32633",
        "transform": rasterio.Affine(10, 0, 600_000, 0, -10, 5_400_000),
    }
    with rasterio.open(path, "w", **profile) as file:
        file.write(values, 1)


def write_tree(root: Path, count: int) -> Path:
    """A BigEarthNet v2 tree of `count` made-up patches and its metadata; returns the metadata file.

    Only the first file is written by GDAL; the others are the same with other pixels.
    """
    rng = np.random.default_rng(0)
    first = rng.normal(-15, 4, (120, 120)).astype(np.float32)
    root.mkdir()
    write_geotiff(root / "template.tif", first)
    template = (root / "template.tif").read_bytes()
    assert template.count(first.tobytes()) == 1
    start = template.index(first.tobytes())
    rows = []
    for number in range(count):
        scene = f"S1A_IW_GRDH_1SDV_20170613T{number // 500:06d}"
        name = f"{scene}_33UUP_{number // 100}_{number % 100}"
        folder = root / "BigEarthNet-S1" / scene / name
        folder.mkdir(parents=True)
        for band, level in (("VH", -19), ("VV", -12)):
            pixels = (level + 4 * rng.standard_normal((120, 120), np.float32)).tobytes()
            (folder / f"{name}_{band}.tif").write_bytes(template[:start] + pixels + template[start + len(pixels) :])
        row = {"patch_id": f"S2A_{number:06d}", "s1_name": name, "country": "Austria"}
        split = ("train", "train", "validation", "test")[number % 4]
        rows.append(row | {"split": split, "labels": ["Arable land", "Pastures"][: 1 + number % 2]})
    pyarrow.parquet.write_table(pa.Table.from_pylist(rows), root / "metadata.parquet")
    return root / "metadata.parquet"
