import io
import json

from sarwmix_jax.training.logs import RunLog, read_log, scalars, training_curve


class Terminal(io.StringIO):
    def isatty(self):
        return True


STEP = {"loss": 2.5, "epoch": 0.5, "learning_rate": 1e-3, "images_per_second": 120.0}


def test_lines_are_json_even_with_numbers_that_are_not(tmp_path):
    with RunLog(tmp_path, 10, stream=io.StringIO()) as log:
        log.write("train", step=1, loss=float("nan"), parts=[{"x": float("inf")}])
    (line,) = (tmp_path / "log.jsonl").read_text().splitlines()
    entry = json.loads(line, parse_constant=lambda name: 1 / 0)
    assert (entry["event"], entry["loss"], entry["parts"]) == ("train", "nan", [{"x": "inf"}])


def test_plain_lines_where_there_is_no_terminal(tmp_path):
    stream = io.StringIO()
    with RunLog(tmp_path, 10, stream=stream) as log:
        log.advance(1)
        log.advance(2, STEP)
    assert stream.getvalue() == "step 2/10  epoch 0.50  loss 2.5000  lr 1.00e-03  120 images/s\n"


def test_a_terminal_gets_a_bar_with_speed(tmp_path):
    stream = Terminal()
    with RunLog(tmp_path, 10, stream=stream) as log:
        log.advance(10, STEP)
        log.say("hello")
    assert "10/10" in stream.getvalue()
    assert "120 images/s" in stream.getvalue()
    assert "hello" in stream.getvalue()


def test_work_before_the_steps_has_a_bar_of_its_own_on_a_terminal(tmp_path):
    stream = Terminal()
    with RunLog(tmp_path, 10, stream=stream) as log:
        with log.task("loading", 30) as advance:
            advance(12)
            advance(8)
            log._bar.refresh()
            assert "20/30" in stream.getvalue() and "loading" in stream.getvalue()
        assert [task.total for task in log._bar.tasks] == [10]
    plain = io.StringIO()
    with RunLog(tmp_path, 10, stream=plain) as log, log.task("loading", 30) as advance:
        advance(30)
    assert plain.getvalue() == ""


def test_quiet_processes_write_nothing(tmp_path):
    stream = io.StringIO()
    with RunLog(tmp_path, 10, quiet=True, stream=stream) as log:
        log.write("train", step=1)
        log.say("hello")
        log.advance(1, STEP)
    assert stream.getvalue() == ""
    assert list(tmp_path.iterdir()) == []


def test_curve_drops_what_a_restart_did_again(tmp_path):
    with RunLog(tmp_path, 10, stream=io.StringIO()) as log:
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


def test_tensorboard_gets_the_numbers_where_it_is_installed(tmp_path):
    with RunLog(tmp_path, 10, stream=io.StringIO()) as log:
        log.write("train", step=1, loss=1.0)
        written = log._board is not None
    assert bool(list(tmp_path.glob("tensorboard/events*"))) == written
