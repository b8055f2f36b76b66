"""No process of a test that fails goes on."""

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
