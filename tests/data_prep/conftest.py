import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).parents[2]
SHARED_DATA = REPOSITORY.parent / "shared" / "data"
needs_shared_data = pytest.mark.skipif(not SHARED_DATA.is_dir(), reason=f"no sample data at {SHARED_DATA}")


def run_script(name: str, *arguments) -> subprocess.CompletedProcess[str]:
    """Run a script of data_prep/ as a user does, in a process of its own."""
    return subprocess.run(
        [sys.executable, REPOSITORY / "data_prep" / name, *map(str, arguments)],
        capture_output=True,
        text=True,
        timeout=300,
        env=os.environ | {"PYTHONPATH": str(REPOSITORY)},
    )


def copy_as_v2(root: Path) -> Path:
    """The ten BigEarthNet v1 sample patches in the folders of BigEarthNet v2."""
    for patch in sorted((SHARED_DATA / "bigearthnet_v1" / "BigEarthNet-S1-v1.0").iterdir()):
        shutil.copytree(patch, root / "BigEarthNet-S1" / patch.name.rsplit("_", 3)[0] / patch.name)
    return root
