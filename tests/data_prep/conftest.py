import os
import subprocess
import sys
from pathlib import Path

REPOSITORY = Path(__file__).parents[2]


def run_script(name: str, *arguments) -> subprocess.CompletedProcess[str]:
    """Run a script of data_prep/ as a user does, in a process of its own."""
    return subprocess.run(
        [sys.executable, REPOSITORY / "data_prep" / name, *map(str, arguments)],
        capture_output=True,
        text=True,
        timeout=300,
        env=os.environ | {"PYTHONPATH": str(REPOSITORY)},
    )
