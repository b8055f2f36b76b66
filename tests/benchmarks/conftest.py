"""A stored program, read once; and where no test with PyTorch is asked for, no process imports it."""

from pathlib import Path

import pytest

from benchmarks.gpu_program import guard
from benchmarks.gpu_program.reader import Program
from tests.benchmarks.gpu_programs import SMALL


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    """Leaves out files whose tests would all be deselected, and which import PyTorch."""
    asked = config.option.markexpr
    none = "not torch" in asked or asked == "smoke"
    return True if none and collection_path.name.startswith("test_torch_") else None


@pytest.fixture(scope="session")
def small() -> Program:
    """The stored compiled text, read."""
    return guard.read_stored(SMALL)[1]
