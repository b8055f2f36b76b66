"""Waves of contenders on a device whose memory runs out, and failures at every point.

The children are scripted here: what they need and when they fail is what a GPU would decide. The real ones are run
in test_command.py.
"""

import json
import time
from typing import ClassVar

import pytest

from benchmarks import in_turn
from benchmarks.in_turn import Desk, run_group
from benchmarks.plan import Contender, Group, Options, Workload
from benchmarks.results import Results
from benchmarks.run import about
from benchmarks.variants import Variant

OPTIONS = Options("gpu", rounds=2, round_seconds=1.0)
WORKLOAD = Workload("pretrain", "base", 8, "bfloat16", "gpu")
CAPACITY = 80


def contender(name, **script):
    return Contender(name, variant=Variant(name, script))


class ScriptedChild:
    """Needs `memory` of CAPACITY; `fails_at` a request with `fails`; takes `seconds` a step."""

    alive: ClassVar[set["ScriptedChild"]] = set()
    asked: ClassVar[list[tuple[str, str]]] = []

    def __init__(self, spec, log, environment):
        self.script, self.environment = spec["changes"], environment
        ScriptedChild.alive.add(self)

    def ask(self, request, seconds):
        answer = self._answer(request["do"], request)
        if "failed" in answer:
            self.close()
        return answer

    def _answer(self, what, request):
        ScriptedChild.asked.append((self.script.get("as", ""), what))
        if self.script.get("fails_at") == what:
            return {"failed": self.script["fails"], "memory": "memory" in self.script["fails"]}
        if what == "set_up":
            if sum(child.script["memory"] for child in ScriptedChild.alive) > CAPACITY:
                return {"failed": "RESOURCE_EXHAUSTED", "memory": True}
            return {"step_seconds": self.script["seconds"], "first": {"loss": self.script.get("loss", 1.0)}}
        if what == "round":
            return {"steps": request["steps"], "seconds": self.script["seconds"] * request["steps"]}
        return {"step_seconds": [self.script["seconds"]] * 3} if what == "steps" else {"peak_bytes": 1}

    def close(self):
        ScriptedChild.alive.discard(self)


@pytest.fixture
def measure(tmp_path, monkeypatch):
    monkeypatch.setattr(in_turn, "Child", ScriptedChild)
    ScriptedChild.alive.clear()
    ScriptedChild.asked.clear()

    def run(*contenders, seconds=60.0):
        results = Results(tmp_path / "out", about(OPTIONS))
        desk = Desk(OPTIONS, results, time.monotonic() + seconds, tmp_path, lambda text: None)
        run_group(Group(WORKLOAD, contenders), desk)
        assert not ScriptedChild.alive
        written = json.loads((tmp_path / "out" / "bench.json").read_text())
        assert len(written["rows"]) == len(contenders)
        return {row.contender["name"]: row for row in results.rows}, (tmp_path / "out" / "bench.md").read_text()

    return run


def waves(row):
    """Waves of the rounds in turn, after the first look."""
    assert [each["wave"] for each in row.rounds].count(0) == 1
    return [each["wave"] for each in row.rounds if each["wave"]]


def test_all_at_once_where_there_is_room(measure):
    rows, report = measure(
        contender("default", memory=30, seconds=0.1),
        contender("slow", memory=30, seconds=0.2),
        contender("b", memory=9, seconds=0.1),
    )
    assert [waves(row) for row in rows.values()] == [[1, 1]] * 3
    assert [row.rounds[0]["steps"] for row in rows.values()] == [10, 5, 10]
    assert "| slow | 40.0 | 2.000 | 200.0 / 200.0 |" in report


def test_those_without_room_come_in_a_later_wave_beside_the_reference(measure):
    rows, report = measure(
        contender("default", memory=30, seconds=0.1),
        contender("first", memory=40, seconds=0.2),
        contender("second", memory=45, seconds=0.3),
    )
    assert (waves(rows["default"]), waves(rows["first"]), waves(rows["second"])) == ([1, 1, 2, 2], [1, 1], [2, 2])
    assert not rows["second"].alone
    assert "| second | 26.7 | 3.000 |" in report


def test_alone_where_there_is_no_room_beside_the_reference(measure):
    rows, report = measure(
        contender("default", memory=30, seconds=0.1),
        contender("large", memory=70, seconds=0.2),
        contender("small", memory=10, seconds=0.1),
    )
    assert (waves(rows["default"]), waves(rows["large"]), waves(rows["small"])) == ([1, 1, 3, 3], [2, 2], [3, 3])
    assert rows["large"].alone
    assert "| large | 40.0 |  |" in report
    assert "not in turn" in report


def test_what_never_fits_is_a_row_with_its_reason(measure):
    rows, report = measure(contender("default", memory=30, seconds=0.1), contender("huge", memory=90, seconds=0.2))
    assert (rows["huge"].status, rows["huge"].reason) == ("failed", "RESOURCE_EXHAUSTED")
    assert waves(rows["default"]) == [1, 1]
    assert "- huge: failed: RESOURCE_EXHAUSTED" in report


@pytest.mark.parametrize("when", ["set_up", "round"])
def test_a_failure_leaves_the_others_alone(measure, when):
    rows, report = measure(
        contender("default", memory=30, seconds=0.1),
        contender("bad", memory=9, seconds=0.1, fails_at=when, fails="PyTorch is not installed"),
        contender("b", memory=9, seconds=0.1),
    )
    assert [row.status for row in rows.values()] == ["measured", "failed", "measured"]
    assert waves(rows["b"]) == [1, 1]
    assert "- bad: failed: PyTorch is not installed" in report


def test_memory_that_runs_out_in_a_round_is_tried_again_with_fewer(measure):
    rows, _ = measure(
        contender("default", memory=30, seconds=0.1),
        contender("bad", memory=9, seconds=0.1, fails_at="round", fails="out of memory"),
        contender("b", memory=9, seconds=0.1),
    )
    assert (rows["bad"].status, rows["bad"].reason) == ("failed", "out of memory")
    assert rows["b"].status == "measured"
    assert [what for name, what in ScriptedChild.asked].count("set_up") == 4


def test_without_the_reference_the_others_are_still_measured(measure):
    rows, report = measure(
        contender("default", memory=30, seconds=0.1, fails_at="set_up", fails="XLA gave up"),
        contender("a", memory=9, seconds=0.1),
        contender("b", memory=9, seconds=0.1),
    )
    assert [row.status for row in rows.values()] == ["failed", "measured", "measured"]
    assert "| a | 80.0 |  |" in report


def test_a_variant_that_computes_something_else_is_not_timed(measure):
    rows, _ = measure(contender("default", memory=9, seconds=0.1), contender("odd", memory=9, seconds=0.1, loss=1.02))
    assert rows["odd"].status == "failed"
    assert rows["odd"].reason == "its first step gives loss 1.02, that of default 1"
    assert rows["odd"].rounds == []


def test_a_long_set_up_leaves_the_others_their_rounds(measure):
    rows, report = measure(
        contender("default", memory=9, seconds=0.1), contender("b", memory=9, seconds=0.1), seconds=1.5
    )
    # The rounds of the default need 2 s, so nothing further may be set up; it is measured all the same.
    assert (waves(rows["default"]), rows["b"].status) == ([1, 1], "skipped")
    assert "| default | 80.0 |" in report


def test_no_time_no_measurement(measure):
    rows, report = measure(
        contender("default", memory=9, seconds=0.1), contender("b", memory=9, seconds=0.1), seconds=-1
    )
    assert {row.status for row in rows.values()} == {"skipped"}
    assert not ScriptedChild.asked
    assert "- default: skipped: the time was over before it could be measured" in report


def test_flags_and_memory_of_a_child(tmp_path, monkeypatch):
    monkeypatch.setenv("XLA_FLAGS", "--a=1")
    desk = Desk(OPTIONS, None, 0.0, tmp_path, print)
    variant = Contender("v", variant=Variant("v", xla_flags=("--b=2",)))
    environment = in_turn.environment(variant, Group(WORKLOAD, (variant,)), desk)
    assert environment["XLA_FLAGS"] == "--a=1 --b=2"
    assert environment["XLA_PYTHON_CLIENT_PREALLOCATE"] == "false"
