"""Signals by themselves: noted, raised, deferred, kept from child processes; a second Ctrl-C; readers that are gone."""

import errno
import io
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from sarwmix_jax.cli.main import guarded
from sarwmix_jax.errors import UserError
from sarwmix_jax.processes import (
    SIGNALS,
    Terminated,
    deferred_signals,
    noted_signals,
    raised_signals,
    signals_kept_from_children,
)

ROOT = Path(__file__).parents[1]
OTHERS = [number for number in SIGNALS if number != signal.SIGINT]


@pytest.fixture(autouse=True)
def as_at_a_terminal():
    """Jobs in the background of a shell start with Ctrl-C ignored, those of `nohup` with SIGHUP ignored."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler), signal.signal(signal.SIGHUP, signal.SIG_DFL)
    yield
    for number, handler in zip((signal.SIGINT, signal.SIGHUP), before, strict=True):
        signal.signal(number, handler)


def test_the_signals_are_those_of_terminals_and_schedulers():
    assert {number.name for number in SIGNALS} == {"SIGINT", "SIGTERM", "SIGHUP", "SIGUSR1", "SIGUSR2"}


@pytest.mark.parametrize("number", OTHERS)
def test_a_signal_is_noted_however_often_it_comes(number):
    before = signal.getsignal(number)
    with noted_signals() as received:
        signal.raise_signal(number)
        signal.raise_signal(number)
        signal.raise_signal(signal.SIGINT)
    assert received == [number.name, number.name, "SIGINT"]
    assert signal.getsignal(number) == before


def test_a_second_ctrl_c_is_raised():
    with pytest.raises(KeyboardInterrupt), noted_signals() as received:
        signal.raise_signal(signal.SIGINT)
        assert received == ["SIGINT"]
        signal.raise_signal(signal.SIGINT)


@pytest.mark.parametrize("number", SIGNALS)
def test_a_signal_whose_exception_was_lost_is_noted_later(number, capsys):
    class Finalised:
        def __del__(self):
            signal.raise_signal(number)

    with raised_signals():
        Finalised()
        with noted_signals() as received:
            assert received == [number.name]
    with noted_signals() as received:
        assert received == []
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize("number", SIGNALS)
def test_a_deferred_signal_takes_effect_at_the_end_as_it_would_have_before(number):
    with noted_signals() as received:
        with deferred_signals():
            signal.raise_signal(number)
            assert received == []
        assert received == [number.name]
    with pytest.raises((KeyboardInterrupt, Terminated)), raised_signals(), deferred_signals():
        signal.raise_signal(number)
        raise ValueError("another exception")


def test_a_second_ctrl_c_is_not_deferred():
    reached = []
    with pytest.raises(KeyboardInterrupt), deferred_signals():
        signal.raise_signal(signal.SIGINT)
        reached.append(True)
        signal.raise_signal(signal.SIGINT)
        reached.append(False)
    assert reached == [True]


@pytest.mark.parametrize("context", [noted_signals, raised_signals, deferred_signals])
def test_under_nohup_a_closed_terminal_stops_nothing(context):
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    with context() as received:
        signal.raise_signal(signal.SIGHUP)
    assert not received
    assert signal.getsignal(signal.SIGHUP) == signal.SIG_IGN


@pytest.mark.parametrize("number", OTHERS)
def test_a_command_that_a_signal_stops_states_so_in_one_line(number, capsys):
    cleared = []

    def work():
        try:
            signal.raise_signal(number)
        finally:
            cleared.append(True)

    assert guarded(work) == 75
    assert capsys.readouterr().err == f"{number.name}: stopped; the same command continues from what is finished\n"
    assert cleared
    with pytest.raises(Terminated, match=number.name), raised_signals():
        signal.raise_signal(number)


BUSY = """
import hashlib, os, signal, threading, time
from sarwmix_jax.processes import ended_by_second_ctrl_c, noted_signals

def press():
    for _ in range(2):
        time.sleep(0.2)
        os.kill(os.getpid(), signal.SIGINT)

signal.signal(signal.SIGINT, signal.default_int_handler)
with ended_by_second_ctrl_c(), noted_signals():
    threading.Thread(target=press).start()
    hashlib.pbkdf2_hmac("sha256", b"", b"", 2**31 - 1)  # minutes in which Python calls no handler
"""


def test_a_second_ctrl_c_ends_a_process_whose_main_thread_does_not_react():
    began = time.monotonic()
    done = subprocess.run([sys.executable, "-c", BUSY], cwd=ROOT, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (130, "")
    assert done.stderr == "interrupted; the same command continues from what is finished\n"
    assert time.monotonic() - began < 20


LEFT = """
import os, signal, time
from sarwmix_jax.processes import ended_by_second_ctrl_c
signal.signal(signal.SIGINT, lambda *_: None)
with ended_by_second_ctrl_c():
    for number in (signal.SIGINT, signal.SIGUSR1, signal.SIGINT)[:COUNT]:
        signal.signal(number, lambda *_: None)
        os.kill(os.getpid(), number)
time.sleep(1.5)
print("went on")
"""


@pytest.mark.parametrize("count", [0, 2, 3])
def test_a_process_that_reacts_ends_by_itself(count):
    program = LEFT.replace("COUNT", str(count))
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, "went on\n", "")


def test_child_processes_get_none_of_the_signals():
    def start():
        return subprocess.Popen([sys.executable, "-c", "import time; print(flush=True); time.sleep(60)"], stdout=-1)

    with signals_kept_from_children():
        kept = start()
    with signals_kept_from_children(False):
        other = start()
    for child in (kept, other):
        child.stdout.read(1)
        for number in SIGNALS:
            child.send_signal(number)
    assert other.wait(20) < 0
    assert kept.poll() is None
    for child in (kept, other):
        child.kill()
        child.wait()
        child.stdout.close()
    assert not signal.pthread_sigmask(signal.SIG_BLOCK, ()) & set(SIGNALS)


@pytest.mark.parametrize(("arguments", "code"), [((), 0), (("pretrain",), 2)])
def test_a_reader_that_has_gone_leaves_the_exit_code_as_it_is(arguments, code):
    """Python would end with 120, as it cannot write what is left."""
    reader, writer = os.pipe()
    os.close(reader)
    command = [sys.executable, "-c", "import sys; from sarwmix_jax.cli.main import main; sys.exit(main())", *arguments]
    done = subprocess.run(command, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=writer, check=False)
    os.close(writer)
    assert done.returncode == code


class Full(io.StringIO):
    """A stream that takes nothing, as on a full disk."""

    def write(self, text):
        raise OSError(errno.ENOSPC, "No space left on device")

    flush = fileno = lambda self: self.write("")


@pytest.mark.parametrize("stream", [None, Full()])
def test_a_message_that_cannot_be_printed_raises_nothing(stream, monkeypatch):
    def mistake():
        raise UserError("what")

    monkeypatch.setattr(sys, "stderr", stream)
    assert guarded(mistake) == 2
