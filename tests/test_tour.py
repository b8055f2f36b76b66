"""The tour names the files that do the work: measured, not believed."""

import inspect
import re
import runpy
import sys
import threading
from pathlib import Path

import pytest

from tests.data_prep.test_geotiff import scene_db, write_raster

ROOT = Path(__file__).parents[1]
PREPARATION_FILES = 24


@pytest.fixture
def executed():
    """Runs a call and gives the files of the package of which a function was executed, in any thread."""

    def run(call) -> set[str]:
        seen: set[str] = set()
        function = inspect.CO_OPTIMIZED | inspect.CO_NEWLOCALS

        def profile(frame, event, _):
            if event == "call" and frame.f_code.co_flags & function == function:
                seen.add(frame.f_code.co_filename)

        before = sys.getprofile(), threading.getprofile()
        threading.setprofile(profile)
        sys.setprofile(profile)
        try:
            call()
        finally:
            sys.setprofile(before[0])
            threading.setprofile(before[1])
        package = ROOT / "sarwmix_jax"
        return {str(Path(file).relative_to(ROOT)) for file in seen if Path(file).is_relative_to(package)}

    return run


def named_files(section: str) -> set[str]:
    """Files of the package that a section of the tour names."""
    _, _, rest = (ROOT / "docs" / "tour.md").read_text().partition(f"\n## {section}\n")
    assert rest, f"no section {section!r}"
    return set(re.findall(r"`(sarwmix_jax/[\w/]+\.py)`", rest.partition("\n## ")[0]))


def test_from_geotiffs_to_records(executed, tmp_path, monkeypatch, capsys):
    for band, values_db in zip(("VH", "VV"), scene_db(128), strict=True):
        write_raster(tmp_path / "in" / f"sigma0_{band}.tif", 10 ** (values_db / 10))
    script, out = ROOT / "data_prep" / "geotiff.py", tmp_path / "out"
    command = [str(script), "--inputs", str(tmp_path / "in"), "--out", str(out), "--tile=64", "--workers=1"]
    monkeypatch.setattr(sys, "argv", command)
    files = executed(lambda: runpy.run_path(str(script), run_name="__main__"))
    assert "train 4" in capsys.readouterr().out
    assert files == named_files("From GeoTIFFs to records")
    assert len(files) <= PREPARATION_FILES
