"""Progress of long work, on terminals and in logs."""

import os
import pty
import re
import subprocess
import sys
import threading
import time

import pytest

from sarwmix_jax import progress as module
from sarwmix_jax.progress import duration, progress, show, silent, track


@pytest.fixture
def clock(monkeypatch):
    """A clock that tests set: seconds in its only entry."""
    now = [1000.0]
    monkeypatch.setattr(module, "now", lambda: now[0])
    return now


def test_a_log_has_a_line_after_ten_seconds_then_one_a_minute_and_one_at_the_end(clock, capsys):
    with progress("reading", 7200) as advance:
        for _ in range(1440):
            clock[0] += 0.125
            advance(5)
    lines = capsys.readouterr().err.splitlines()
    assert lines == [
        "reading: 400/7,200 records, 40 records/s, about 3 min left",
        "reading: 2,800/7,200 records, 40 records/s, about 2 min left",
        "reading: 5,200/7,200 records, 40 records/s, about 50 s left",
        "reading: 7,200/7,200 records, 40 records/s, done in 3 min",
    ]


def test_short_work_is_silent(clock, capsys):
    for _ in track(range(5), "reading"):
        clock[0] += 1.9
    assert capsys.readouterr().err == ""


def test_what_was_done_before_counts_but_not_for_the_rate(clock, capsys):
    with progress("training", 300, "steps", done=100) as advance:
        clock[0] += 20
        advance(10)
    assert capsys.readouterr().err == "training: 110/300 steps, 0.5 steps/s, about 6 min left\n"


def test_work_without_a_known_end_states_its_time(clock, capsys):
    with progress("compiling") as advance:
        clock[0] += 30
        advance(0)
    with progress("listing", unit="files") as advance:
        clock[0] += 30
        advance(3)
    assert capsys.readouterr().err == "compiling, 30 s so far\nlisting: 3 files, 0.1 files/s, 30 s so far\n"


def test_the_innermost_work_has_the_line_and_any_line_ends_the_silence(clock, capsys):
    with progress("training", 10, "steps") as outer:
        clock[0] += 10
        show("a line of the run")
        outer(1)
        with progress("validating", 4) as inner:
            clock[0] += 11
            inner(2)
        clock[0] += 9
        outer(1)
    assert capsys.readouterr().err.splitlines() == [
        "a line of the run",
        "validating: 2/4 records, 0.182 records/s, about 11 s left",
    ]


def test_a_call_that_counts_nothing_for_long_is_no_silence(monkeypatch, capsys):
    """Lines come from a thread then."""
    for name in ("FIRST_SECONDS", "INTERVAL_SECONDS", "_TICK_SECONDS"):
        monkeypatch.setattr(module, name, 0.01)
    lines, counts = [], set()
    for _ in range(2):
        with progress("fitting", 5, "fits"):
            end = time.monotonic() + 120
            while len(lines) < 3 and time.monotonic() < end:
                time.sleep(0.01)
                lines += capsys.readouterr().err.splitlines()
        counts.add(threading.active_count())
    assert len(lines) >= 3 and all(re.fullmatch(r"fitting: 0/5 fits, \d s so far", line) for line in lines)
    assert len(counts) == 1


def test_silent_processes_print_nothing(clock, capsys):
    with silent(), progress("reading", 10) as advance:
        clock[0] += 100
        advance(5)
        show("hello")
    assert capsys.readouterr().err == ""


def test_a_closed_output_ends_no_work(clock, monkeypatch):
    read, write = os.pipe()
    os.close(read)
    with os.fdopen(write, "w", buffering=1) as closed, monkeypatch.context() as patch:
        patch.setattr(sys, "stderr", closed)
        for _ in track(range(3), "reading"):
            clock[0] += 100
        show("hello")
        with pytest.raises(BrokenPipeError):
            print("so it is closed", file=closed, flush=True)
        os.dup2(os.open(os.devnull, os.O_WRONLY), write)
    monkeypatch.setattr(sys, "stderr", None)
    for _ in track(range(3), "reading"):
        clock[0] += 100


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0.4, "0 s"), (99, "99 s"), (100, "2 min"), (5999, "1 h 40 min"), (2 * 86400 + 4 * 3600, "2 d 4 h")],
)
def test_durations_read_like_speech(seconds, text):
    assert duration(seconds) == text


PROGRAM = """
import sys, time
from sarwmix_jax.progress import progress, show
with progress("reading [train]", 30) as advance:
    for _ in range(3):
        advance(10)
        time.sleep(0.15)
    show("a [line]")
    print("a result", flush=True)
"""


def test_a_terminal_gets_a_bar_and_a_pipe_gets_the_results_alone():
    leader, terminal = pty.openpty()
    done = subprocess.run([sys.executable, "-c", PROGRAM], stdout=subprocess.PIPE, stderr=terminal, check=True)
    os.close(terminal)
    shown = b""
    while chunk := _read(leader):
        shown += chunk
    os.close(leader)
    text = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", shown.decode())
    assert "reading [train]" in text and "30/30" in text and "a [line]" in text and "━" in text
    assert done.stdout == b"a result\n"


def _read(descriptor):
    try:
        return os.read(descriptor, 65536)
    except OSError:  # the other end is closed and all is read
        return b""


def test_work_that_does_not_advance_ends_the_process_with_the_stacks_of_its_threads():
    code = """if True:
        import time
        from sarwmix_jax.progress import ended_when_stuck, progress
        def wait_for_ever():
            time.sleep(60)
        with ended_when_stuck(0.4), progress("reading", 9) as advance:
            for _ in range(4):
                time.sleep(0.2)  # together longer than the limit
                advance(1)
            print("alive", flush=True)
            wait_for_ever()
    """
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, timeout=30)
    assert (done.returncode, done.stdout) == (76, "alive\n")
    assert "error: nothing has advanced for 0 s; stacks of all threads:" in done.stderr
    assert "in wait_for_ever" in done.stderr
