"""Turns on a device whose memory runs out, and failures at every point.

The children are scripted here: what they need and when they fail is what a GPU would decide. The real ones are run
in test_command.py.
"""

import itertools
import json
import re
from argparse import Namespace
from dataclasses import asdict
from typing import ClassVar

import pytest

from benchmarks import runner
from benchmarks.__main__ import FLAGS
from benchmarks.programs import Program
from benchmarks.report import Results, speed_ratio
from sarwmix_jax.cli.main import Parser

WORKLOAD = ("pretrain", "base", 8, "bfloat16", "gpu")
CAPACITY = 80
ENDED = "the budget of time ended before more could be measured"


def program(name, kind="jax", **script):
    return Program(*WORKLOAD, name, kind, {"name": name, "seconds": 0.1, "memory": 9, **script})


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
            return {"failed": self.script["fails"]}
        if "steps" in request:
            ScriptedChild.rounds.append(self.script["name"])
            taken = self.script["seconds"] * request["steps"]
            return {"steps": request["steps"], "seconds": taken, "peak_bytes": 2**30}
        if sum(child.script["memory"] for child in ScriptedChild.alive) > CAPACITY:
            return {"failed": "RESOURCE_EXHAUSTED"}
        first = {"loss": self.script.get("loss", 1.0)}
        return {"step_seconds": self.script["seconds"], "first": first, "compile_seconds": 1.0}

    def close(self):
        ScriptedChild.alive.discard(self)


@pytest.fixture
def measure(tmp_path, monkeypatch):
    monkeypatch.setattr(runner, "Child", ScriptedChild)
    ScriptedChild.alive.clear()
    ScriptedChild.rounds.clear()
    parser = Parser()
    for name, about in FLAGS.items():
        parser.add_argument(f"--{name}", **about)

    def measured(*group, seconds=60.0):
        programs = list(group)
        arguments = [f"--budget={seconds / 60}", "--rounds=2", "--round-seconds=1", "--device=gpu", "--out=x"]
        results = Results(tmp_path / "out", arguments, [programs])
        runner.Bench(parser.parse_args(arguments), results).run([programs])
        assert not ScriptedChild.alive
        written = json.loads((tmp_path / "out" / "bench.json").read_text())
        assert written["programs"] == [asdict(each) for each in results.programs]
        assert written["finished"]
        return {row["name"]: row for row in written["programs"]}, (tmp_path / "out" / "bench.md").read_text()

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


def test_what_does_not_fit_beside_the_first_is_a_row_with_its_reason(measure):
    rows, report = measure(
        program("default", memory=30), program("a", memory=40), program("huge", memory=60), program("b")
    )
    assert (rows["huge"]["rounds"], rows["huge"]["reason"]) == ([], "RESOURCE_EXHAUSTED")
    assert [waves(rows[name]) for name in ("default", "a", "b")] == [[1, 1, 2, 2], [1, 1], [2, 2]]
    assert "RESOURCE_EXHAUSTED |" in report


@pytest.mark.parametrize("when", [0, 1, 2])
@pytest.mark.parametrize("which", ["default", "bad"])
def test_a_failure_leaves_the_others_alone(measure, when, which):
    scripts = {name: {} for name in ("default", "bad", "b")}
    scripts[which] = {"fails_at": when, "fails": "PyTorch is not installed"}
    rows, report = measure(*(program(name, **script) for name, script in scripts.items()))
    others = scripts.keys() - {which}
    assert all(waves(rows[name]) == [1, 1] for name in others)
    assert len(rows[which]["rounds"]) == max(0, when - 1)
    assert rows[which]["reason"] == "PyTorch is not installed"
    assert "PyTorch is not installed |" in report


def test_a_variant_that_computes_something_else_is_not_timed(measure):
    rows, _ = measure(program("default"), program("odd", loss=1.02), program("peer", "eager", loss=3.0))
    assert rows["odd"]["reason"] == "its first step gives loss 1.02, that of default 1"
    assert not rows["odd"]["rounds"]
    assert waves(rows["peer"]) == [1, 1]  # on other images


def test_a_first_step_that_is_not_a_number_disagrees():
    reference, odd = program("default"), program("odd")
    reference.setup = {"first": {"loss": 1.0}}
    assert runner.disagreement(odd, {"first": {"loss": float("nan")}}, [reference, odd])
    assert runner.disagreement(odd, {"first": {"loss": 1.009}}, [reference, odd]) is None


def test_a_set_up_leaves_the_others_their_rounds(measure):
    rows, _ = measure(program("default"), program("b"), seconds=1.5)
    # The rounds of the default need 2 s, so nothing further may be set up; it is measured all the same.
    assert (waves(rows["default"]), rows["b"]["reason"]) == ([1, 1], ENDED)


def test_no_time_no_measurement(measure):
    rows, report = measure(program("default"), program("b"), seconds=0)
    assert {row["reason"] for row in rows.values()} == {ENDED}
    assert not ScriptedChild.rounds
    assert report.count(f"{ENDED} |") == 2


def test_both_files_are_whole_after_each_measurement(measure, tmp_path, monkeypatch):
    seen = []
    inner = ScriptedChild.answer

    def answer(self, *arguments, **request):
        data = json.loads((tmp_path / "out" / "bench.json").read_text())
        report = (tmp_path / "out" / "bench.md").read_text()
        measured = sum(len(row["rounds"]) for row in data["programs"])
        assert not data["finished"] and "**Not finished" in report
        assert sum(int(count) for count in re.findall(r"\| (\d+) rounds", report)) == measured
        seen.append(measured)
        return inner(self, *arguments, **request)

    monkeypatch.setattr(ScriptedChild, "answer", answer)
    measure(program("default"), program("b"))
    assert seen == [0, 0, 0, 1, 2, 3]


def test_flags_and_memory_of_a_child(monkeypatch):
    monkeypatch.setenv("XLA_FLAGS", "--a=1")
    environment = runner.Bench(Namespace(budget=1.0), None).environment(Program(*WORKLOAD, xla_flags="--b=2"))
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
