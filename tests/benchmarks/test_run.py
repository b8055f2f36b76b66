"""Turns on a device whose memory runs out, and failures at every point.

The children are scripted here: what they need and when they fail is what a GPU would decide. The real ones are run
in test_command.py.
"""

import itertools
import json
from argparse import Namespace
from typing import ClassVar

import pytest

from benchmarks import run
from benchmarks.__main__ import FLAGS
from benchmarks.plan import Group, Program, Workload
from benchmarks.report import Results, markdown, speed_ratio
from sarwmix_jax.command_line import Parser

WORKLOAD = Workload("pretrain", "base", 8, "bfloat16", "gpu")
CAPACITY = 80


def program(name, kind="jax", **script):
    return Program(name, kind, {"name": name, "seconds": 0.1, "memory": 9, **script})


class ScriptedChild:
    """Needs `memory` of CAPACITY; answers with `fails` at its `fails_at`-th answer; takes `seconds` a step."""

    alive: ClassVar[set["ScriptedChild"]] = set()
    rounds: ClassVar[list[str]] = []

    def __init__(self, log, environment):
        self.script, self.answers = {"memory": 0}, itertools.count()
        ScriptedChild.alive.add(self)

    def answer(self, seconds, **request):
        self.script = request.get("changes", self.script)
        if next(self.answers) == self.script.get("fails_at"):
            return {"failed": self.script["fails"], "memory": False, "late": self.script.get("late", False)}
        if "steps" in request:
            ScriptedChild.rounds.append(self.script["name"])
            taken = self.script["seconds"] * request["steps"]
            return {"steps": request["steps"], "seconds": taken, "peak_bytes": 2**30}
        if sum(child.script["memory"] for child in ScriptedChild.alive) > CAPACITY:
            return {"failed": "RESOURCE_EXHAUSTED", "memory": True}
        first = {"loss": self.script.get("loss", 1.0)}
        return {"step_seconds": self.script["seconds"], "first": first, "compile_seconds": 1.0}

    def close(self):
        ScriptedChild.alive.discard(self)


@pytest.fixture
def measure(tmp_path, monkeypatch):
    monkeypatch.setattr(run, "Child", ScriptedChild)
    ScriptedChild.alive.clear()
    ScriptedChild.rounds.clear()
    parser = Parser()
    for name, about in FLAGS.items():
        parser.add_argument(f"--{name}", **about)

    def measured(*programs, seconds=60.0):
        arguments = [f"--budget={seconds / 60}", "--rounds=2", "--round-seconds=1", "--device=gpu", "--out=x"]
        results = Results(tmp_path / "out", arguments)
        run.Bench(parser.parse_args(arguments), results).run([Group(WORKLOAD, programs)])
        assert not ScriptedChild.alive
        written = json.loads((tmp_path / "out" / "bench.json").read_text())
        assert written["rows"] == results.rows
        assert written["finished"]
        return {row["program"]["name"]: row for row in written["rows"]}, (tmp_path / "out" / "bench.md").read_text()

    return measured


def waves(row):
    return [each["wave"] for each in row["rounds"]]


def test_all_take_turns_where_there_is_room(measure):
    rows, report = measure(program("default"), program("slow", seconds=0.2), program("b"))
    assert ScriptedChild.rounds == ["default", "slow", "b", "b", "slow", "default"]
    assert [waves(row) for row in rows.values()] == [[1, 1]] * 3
    assert [row["rounds"][0]["steps"] for row in rows.values()] == [10, 5, 10]
    assert "| slow | 40 | 2.000 | 200 (200 to 200) | 1.00 GiB |" in report


def test_those_without_room_come_later_beside_the_first(measure):
    rows, report = measure(
        program("default", memory=30),
        program("a", memory=40),
        program("b", memory=45, seconds=0.3),
        program("c", memory=5),
    )
    assert (waves(rows["default"]), waves(rows["a"])) == ([1, 1, 2, 2], [1, 1])
    assert waves(rows["b"]) == [2, 2]
    assert "| b | 26.667 | 3.000 |" in report


def test_each_is_started_for_each_round_where_there_is_no_room_beside_the_first(measure):
    rows, report = measure(program("default", memory=30), program("large", memory=70, seconds=0.2), program("small"))
    assert waves(rows["large"]) == [3, 3]
    turns = [["default", name, name, "default"] for name in ("large", "small")]
    assert ScriptedChild.rounds == [*["default"] * 4, *turns[0], *turns[1]]
    assert "| large | 40 | 2.000 |" in report
    assert rows["small"]["status"] == "measured"


def test_what_never_fits_is_a_row_with_its_reason(measure):
    rows, report = measure(program("default", memory=30), program("huge", memory=90))
    assert (rows["huge"]["status"], rows["huge"]["reason"]) == ("failed", "RESOURCE_EXHAUSTED")
    assert waves(rows["default"])[:2] == [1, 1]
    assert "failed: RESOURCE_EXHAUSTED |" in report


@pytest.mark.parametrize("when", [0, 1, 2])
@pytest.mark.parametrize("which", ["default", "bad"])
def test_a_failure_leaves_the_others_alone(measure, when, which):
    scripts = {name: {} for name in ("default", "bad", "b")}
    scripts[which] = {"fails_at": when, "fails": "PyTorch is not installed"}
    rows, report = measure(*(program(name, **script) for name, script in scripts.items()))
    others = scripts.keys() - {which}
    assert all(waves(rows[name]) == [1, 1] for name in others)
    assert len(rows[which]["rounds"]) == max(0, when - 1)
    if when < 2:
        assert (rows[which]["status"], rows[which]["reason"]) == ("failed", "PyTorch is not installed")
        assert "failed: PyTorch is not installed |" in report


def test_a_variant_that_computes_something_else_is_not_timed(measure):
    rows, _ = measure(program("default"), program("odd", loss=1.02), program("peer", "eager", loss=3.0))
    assert rows["odd"]["reason"] == "its first step gives loss 1.02, that of default 1"
    assert (rows["odd"]["status"], rows["odd"]["rounds"]) == ("failed", [])
    assert rows["peer"]["status"] == "measured"  # on other images


def test_a_first_step_that_is_not_a_number_disagrees(tmp_path):
    results = Results(tmp_path, [])
    reference, row = (results.row(WORKLOAD, program(name)) for name in ("default", "odd"))
    reference["setup"] = {"first": {"loss": 1.0}}
    assert run.disagreement(row, {"first": {"loss": float("nan")}}, results.rows)
    assert run.disagreement(row, {"first": {"loss": 1.009}}, results.rows) is None


def test_a_set_up_leaves_the_others_their_rounds(measure):
    rows, _ = measure(program("default"), program("b"), seconds=1.5)
    # The rounds of the default need 2 s, so nothing further may be set up; it is measured all the same.
    assert (waves(rows["default"]), rows["b"]["status"]) == ([1, 1], "skipped")


def test_a_set_up_that_the_budget_ends_is_no_failure(measure):
    rows, report = measure(program("default"), program("b", fails_at=0, fails="no answer within 9 s", late=True))
    assert (waves(rows["default"]), rows["b"]["status"]) == ([1, 1], "skipped")
    assert "skipped: no answer within 9 s" in report


def test_no_time_no_measurement(measure):
    rows, report = measure(program("default"), program("b"), seconds=0)
    assert {row["status"] for row in rows.values()} == {"skipped"}
    assert not ScriptedChild.rounds
    assert report.count("skipped: the budget of time ended before it could be measured") == 2


def test_both_files_are_whole_after_each_measurement(measure, tmp_path, monkeypatch):
    seen = []
    inner = ScriptedChild.answer

    def answer(self, *arguments, **request):
        data = json.loads((tmp_path / "out" / "bench.json").read_text())
        assert (tmp_path / "out" / "bench.md").read_text() == markdown(data)
        assert not data["finished"]
        seen.append(sum(len(row["rounds"]) for row in data["rows"]))
        return inner(self, *arguments, **request)

    monkeypatch.setattr(ScriptedChild, "answer", answer)
    measure(program("default"), program("b"))
    assert seen == [0, 0, 0, 1, 2, 3]


def test_flags_and_memory_of_a_child(tmp_path, monkeypatch):
    monkeypatch.setenv("XLA_FLAGS", "--a=1")
    row = Results(tmp_path, []).row(WORKLOAD, Program("v", xla_flags="--b=2"))
    environment = run.Bench(Namespace(budget=1.0), None).environment(row)
    assert environment["XLA_FLAGS"] == "--a=1 --b=2"
    assert environment["XLA_PYTHON_CLIENT_PREALLOCATE"] == "false"
    assert "JAX_PLATFORMS" not in environment


def rounds(*speeds, wave=1):
    """Rounds of 10 steps at these steps a second."""
    return [{"wave": wave, "number": n, "steps": 10, "seconds": 10 / speed} for n, speed in enumerate(speeds)]


def test_ratio_pairs_rounds_that_took_turns():
    # The machine becomes slower over time, both alike: each pair still gives 2.
    assert speed_ratio(rounds(8.0, 4.0, 2.0), rounds(4.0, 2.0, 1.0)) == "2.000"
    assert speed_ratio(rounds(8.0, 4.0, 2.0), rounds(4.0, 2.0)) == "2.000"
    assert speed_ratio(rounds(8.0, 8.0, 8.0), rounds(4.0, 1.0, 2.0)) == "4.000"
    assert speed_ratio(rounds(8.0), rounds(4.0, wave=2)) == ""
    assert speed_ratio([*rounds(8.0), *rounds(6.0, wave=2)], rounds(4.0, wave=2)) == "1.500"
