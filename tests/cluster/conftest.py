"""No process of a test that fails goes on; tests share what they compile."""

import pytest

from tests.cluster import jobs


@pytest.fixture(autouse=True)
def ended_processes():
    yield
    while jobs.STARTED:
        process = jobs.STARTED.pop()
        if process.poll() is None:
            process.kill()
            process.communicate()


@pytest.fixture(scope="session")
def place(tmp_path_factory):
    """Folder for what tests share, as programs that are already compiled."""
    return tmp_path_factory.mktemp("jobs")
