"""Processes that join a job: they stop after the same step, and end with the first that fails."""

import signal
import subprocess
import sys
import time

import pytest

from sarwmix_jax.cluster.joining import broken
from sarwmix_jax.errors import UserError
from tests.cluster import jobs

STEPS = (sys.executable, "-m", "tests.cluster.steps")


def start(processes=2, *flags, **more):
    return jobs.start(flags, processes, devices=1, program=STEPS, TF_CPP_MIN_LOG_LEVEL="3", **more)


@pytest.mark.parametrize("number", [pytest.param(signal.SIGTERM, marks=pytest.mark.slow), signal.SIGUSR1])
def test_a_signal_to_one_process_stops_both_after_the_same_step(number):
    both = start()
    lines = [process.stderr.readline() for process in both]
    assert all("started" in line for line in lines)
    time.sleep(0.3)
    both[1].send_signal(number)
    found = [jobs.outcome(process, 30) for process in both]
    assert [code for code, _, _ in found] == [75, 75], found
    (first, step), (second, other) = (line.split() for _, _, err in found for line in jobs.printed([("", err)]))
    assert (first, second) == ("SIGTERM", number.name) and step == other and int(step) > 5


def test_an_error_of_one_process_ends_all_and_is_shown_by_the_first():
    both = start(2, "--fault=1")
    found = [jobs.outcome(process, 30) for process in both]
    assert [code for code, _, _ in found] == [2, 2], found
    for _, _, err in found:
        assert "error: process 1 of 2 on " in err and "record 7 cannot be read" in err and "Traceback" not in err
    assert found[0][2].endswith("; all processes end\n")


@pytest.mark.parametrize(
    ("reason", "lost"), [(RuntimeError("UNKNOWN: Gloo all-reduce failed: Read error"), True), (OSError("full"), False)]
)
def test_a_save_that_ends_with_the_other_process_is_no_mistake_of_the_user(reason, lost):
    try:
        raise UserError("cannot write a checkpoint") from reason
    except UserError as error:
        assert broken(error) == lost


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSTOP])
@pytest.mark.parametrize("lost", [0, 2])
def test_a_lost_process_ends_all_and_is_named_by_who_is_left(lost, number):
    """Also process 0, whose end JAX would notice first. Through the proxy, which is not there, none would start."""
    three = start(3, "--silent=2", https_proxy="http://127.0.0.1:9", http_proxy="http://127.0.0.1:9")
    assert [process.stderr.readline() for process in three] == ["started\n"] * 3
    three[lost].send_signal(number)
    before = time.monotonic()
    left = [process for process in three if process is not three[lost]]
    found = [jobs.outcome(process, 30) for process in left]
    three[lost].kill()
    jobs.outcome(three[lost], 10)
    assert [code for code, _, _ in found] == [76, 76] and time.monotonic() - before < 6, found
    named = [f"error: process {lost} of 3 on " in err and err.count("\n") == 1 for _, _, err in found]
    assert named == ([True, True] if lost == 0 else [True, False]), found


@pytest.mark.slow
def test_the_script_for_one_machine_passes_signals_and_the_exit_code_on(tmp_path):
    program, pipes = tmp_path / "steps", {"stderr": subprocess.PIPE, "text": True}
    program.write_text(f'#!/bin/sh\nexec {" ".join(STEPS)} "$@"\n')
    program.chmod(0o755)
    more = {"PROCESSES": "2", "PORT": str(jobs.free_port()), "SARWMIX": str(program), "TF_CPP_MIN_LOG_LEVEL": "3"}
    script = subprocess.Popen(
        [jobs.ROOT / "launch" / "local.sh"], cwd=jobs.ROOT, env=jobs.environment(1, **more), **pipes
    )
    assert [script.stderr.readline() for _ in range(2)] == ["started\n"] * 2
    script.terminate()
    code, _, err = jobs.outcome(script, 60)
    first, second = err.splitlines()
    assert code == 75 and first == second and first.startswith("SIGTERM "), err
