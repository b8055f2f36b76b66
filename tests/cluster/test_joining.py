"""Processes that join a job: they stop after the same step, and end with the first that fails."""

import signal
import subprocess
import sys
import time

import pytest

from tests.cluster import jobs


def start(count=2, fault=None):
    port, pipes = jobs.free_port(), {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    command = [sys.executable, "-m", "tests.cluster.steps", str(port), str(count)]
    return [
        subprocess.Popen(
            [*command, str(number), str(int(number == fault))],
            cwd=jobs.ROOT,
            env=jobs.environment(1, TF_CPP_MIN_LOG_LEVEL="3"),
            **pipes,
        )
        for number in range(count)
    ]


@pytest.mark.parametrize("number", [pytest.param(signal.SIGTERM, marks=pytest.mark.slow), signal.SIGUSR1])
def test_a_signal_to_one_process_stops_both_after_the_same_step(number):
    both = start()
    lines = [process.stderr.readline() for process in both]
    assert lines == ["started\n"] * 2
    time.sleep(0.3)
    both[1].send_signal(number)
    found = [jobs.outcome(process, 30) for process in both]
    assert [code for code, _, _ in found] == [75, 75], found
    (first, step), (second, other) = (err.split() for _, _, err in found)
    assert (first, second) == ("SIGTERM", number.name) and step == other and int(step) > 5


def test_an_error_of_one_process_ends_all_and_is_shown_by_the_first():
    both = start(fault=1)
    found = [jobs.outcome(process, 30) for process in both]
    assert [code for code, _, _ in found] == [2, 2], found
    for _, _, err in found:
        assert "error: process 1 of 2 on " in err and "record 7 cannot be read" in err and "Traceback" not in err
    assert found[0][2].endswith("; all processes end\n")
