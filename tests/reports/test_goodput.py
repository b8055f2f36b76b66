"""The share of productive time, over starts that ended, were stopped, and were killed."""

import pytest

from sarwmix_jax.reports.goodput import goodput, goodput_note, spent
from sarwmix_jax.reports.lines import read_lines
from sarwmix_jax.reports.project_log import read_project_log
from tests.reports import logs


def seconds(productive, initialisation=10.0, checkpoint=0.0):
    return {"productive": productive, "initialisation": initialisation, "checkpoint": checkpoint, "lost_work": 0.0}


KILLED = [
    logs.start(0, 100.0, logs.PRETRAINING),
    logs.line("checkpoint", 10, 160.0, seconds=seconds(50.0)),
    logs.line("checkpoint", 20, 220.0, seconds=seconds(100.0, checkpoint=10.0)),
    logs.line("train", 25, 250.0, loss=1.0),  # killed soon after
]
RESUMED = [
    {"event": "begin", "time": 1000.0, "from": "own checkpoint"},
    logs.start(20, 1001.0, logs.PRETRAINING),
    {"event": "end", "time": 1071.0, "step": 30, "interrupted": None, "seconds": seconds(60.0)},
]


def test_time_after_the_last_checkpoint_of_a_killed_start_is_lost():
    found = spent(KILLED + RESUMED)
    assert found == {"productive": 160.0, "lost_work": 30.0, "initialisation": 20.0, "checkpoint": 10.0}
    assert next(iter(found)) == "productive"
    assert goodput(found) == pytest.approx(160 / 220)
    assert goodput_note(found) == [
        "72.7% of 4 min were productive; lost work 13.6%, initialisation 9.1%, checkpoint 4.5%"
    ]


def test_a_start_without_a_checkpoint_is_lost_as_a_whole():
    assert spent([*KILLED[:1], logs.line("train", 5, 140.0, loss=1.0), *RESUMED])["lost_work"] == 40.0


def test_logs_without_these_numbers_have_no_goodput():
    assert spent(logs.pretraining()) is None and goodput(None) is None and goodput_note(None) == []


def test_the_report_shows_it(tmp_path):
    path = tmp_path / "log.jsonl"
    logs.write(path, KILLED + RESUMED)
    run = read_project_log(path, *read_lines(path))
    assert run.row()["goodput"] == pytest.approx(160 / 220)
    assert any("72.7% of 4 min were productive" in note for note in run.notes)
