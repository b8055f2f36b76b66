import io
import json
import sys

import pytest

from sarwmix_jax.errors import UserError
from sarwmix_jax.progress import _board, progress
from sarwmix_jax.training.history import read_log, training_curve
from sarwmix_jax.training.logs import RunLog, scalars
from sarwmix_jax.training.throughput import Throughput


class Terminal(io.StringIO):
    def isatty(self):
        return True


FIRST = {"loss": 2.5, "epoch": 0.5, "learning_rate": 1e-3}
STEP = FIRST | {"images_per_second": 120.0}


def test_lines_are_json_even_with_numbers_that_are_not(tmp_path):
    with RunLog(tmp_path, 10) as log:
        log.write("train", step=1, loss=float("nan"), parts=[{"x": float("inf")}])
    (line,) = (tmp_path / "log.jsonl").read_text().splitlines()
    entry = json.loads(line, parse_constant=lambda name: 1 / 0)
    assert (entry["event"], entry["loss"], entry["parts"]) == ("train", "nan", [{"x": "inf"}])


@pytest.mark.parametrize("tail", [b'{"event": "tra', b"\0" * 40, b"\xff\xfe"])
def test_what_follows_a_line_that_was_cut_off_is_not_lost_with_it(tmp_path, capsys, tail):
    place = tmp_path / "log.jsonl"
    whole = b'{"event": "start", "step": 0}\n5\n{"no": "event"}\n'
    place.write_bytes(whole + tail)
    for _ in range(2):
        with RunLog(tmp_path, 10) as log:
            log.write("start", step=0)
    assert [entry["event"] for entry in read_log(tmp_path)] == ["start"] * 3
    assert place.read_bytes().startswith(whole + tail + b"\n")
    lines = [line for line in capsys.readouterr().err.splitlines() if "cut off" in line]
    assert lines == [f"{place}: its last line is cut off, as by a kill, and is left out from now on"]


def test_a_log_that_cannot_be_written_is_one_line(tmp_path):
    (tmp_path / "log.jsonl").mkdir()
    with pytest.raises(UserError, match=r"cannot write .*log.jsonl: Is a directory; choose another --workdir"):
        RunLog(tmp_path, 10)


@pytest.fixture
def clock(monkeypatch):
    """A clock that tests set: seconds in its only entry."""
    now = [1000.0]
    monkeypatch.setattr("sarwmix_jax.progress.now", lambda: now[0])
    return now


def test_plain_lines_where_there_is_no_terminal(tmp_path, clock, capsys):
    """The first step, then one line in ten seconds, and the last; each with the time that is left."""
    with RunLog(tmp_path, 1000) as log:
        clock[0] += 40  # the compiler's, which does not count
        log.advance(1, FIRST)
        for step in range(2, 1001):
            clock[0] += 0.5
            log.advance(step, STEP)
    lines = capsys.readouterr().err.splitlines()
    assert lines[:2] == [
        "step 1/1000  epoch 0.50  loss 2.5000  lr 1.00e-03",
        "step 21/1000  epoch 0.50  loss 2.5000  lr 1.00e-03  120 images/s  about 8 min left",
    ]
    assert lines[-1] == "step 1000/1000  epoch 0.50  loss 2.5000  lr 1.00e-03  120 images/s"
    assert len(lines) == 51


def test_no_minute_of_silence_between_the_lines_of_steps(tmp_path, clock, capsys):
    """Without waiting for the device: what is finished, and the time that is left."""
    with RunLog(tmp_path, 100) as log:
        log.advance(11, STEP)
        for step in range(12, 44):
            clock[0] += 2
            log.advance(step)
    assert capsys.readouterr().err.splitlines()[1:] == ["training: 41/100 steps, 0.5 steps/s, about 2 min left"]


def test_a_terminal_gets_a_bar_with_speed(tmp_path, monkeypatch):
    stream = Terminal()
    monkeypatch.setattr(sys, "stderr", stream)
    monkeypatch.setenv("COLUMNS", "140")
    with RunLog(tmp_path, 10) as log:
        log.advance(10, STEP)
        log.show("hello")
        with progress("loading", 30) as advance:
            advance(20)
            _board._bars.refresh()
    assert "10/10" in stream.getvalue()
    assert "120 images/s" in stream.getvalue()
    assert "hello" in stream.getvalue()
    assert "20/30" in stream.getvalue() and "loading" in stream.getvalue()
    assert "step 10/10" not in stream.getvalue()


def test_quiet_processes_write_nothing(tmp_path, capsys):
    with RunLog(tmp_path, 10, quiet=True) as log:
        log.write("train", step=1)
        log.show("hello")
        log.advance(1, STEP)
    assert capsys.readouterr().err == ""
    assert list(tmp_path.iterdir()) == []


class Loss:
    """The loss of a step that the device has finished, or not yet."""

    def __init__(self, ready):
        self.is_ready = lambda: ready


def test_finished_steps_are_known_without_waiting_for_the_device():
    throughput = Throughput(8, 1)
    assert throughput.in_flight == 0
    for step, ready in enumerate((True, True, False, False, False)):
        throughput.add(step, {"loss": Loss(ready)}, None)
    assert throughput.in_flight == 3


def test_curve_drops_what_a_restart_did_again(tmp_path):
    with RunLog(tmp_path, 10) as log:
        log.write("start", step=0)
        for step in (1, 2, 3):
            log.write("train", step=step, loss=step)
        log.write("start", step=1)
        log.write("train", step=2, loss=20)
    with (tmp_path / "log.jsonl").open("a") as file:
        file.write('{"event": "train", "ste')
    assert [entry["loss"] for entry in training_curve(read_log(tmp_path))] == [1, 20]


def test_scalars_name_the_bands():
    values = {"step": 3, "loss": 1.0, "loss_per_band": [1.0, 2.0], "note": "x"}
    assert dict(scalars(values, ("VH", "VV"))) == {"loss": 1.0, "loss_per_band/VH": 1.0, "loss_per_band/VV": 2.0}
