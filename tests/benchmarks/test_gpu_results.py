"""Stored results of the GPU program: written, compared, checked again; and what a dry run takes from them."""

import subprocess
import sys
from dataclasses import replace

import jax
import pytest

from benchmarks.gpu_program import compiling, guard
from benchmarks.gpu_program.__main__ import main
from benchmarks.gpu_program.compiling import missing_wheels
from benchmarks.gpu_program.report import figures
from benchmarks.gpu_program.results import ALLOWED, STORED, Result, as_json, read_result, regressions
from benchmarks.gpu_program.steps import TASKS, settings_of
from benchmarks.gpu_program.targets import target_of
from sarwmix_jax.errors import UserError
from sarwmix_jax.facts import gpu_memory
from tests.benchmarks.gpu_programs import GIVEN, ROOT, compiling_environment


@pytest.mark.parametrize("name", ALLOWED)
def test_a_figure_that_grows_is_a_regression(name):
    more = 1000 * (1 + ALLOWED[name])
    assert regressions(GIVEN, replace(GIVEN, figures=GIVEN.figures | {name: more})) == []
    (line,) = regressions(GIVEN, replace(GIVEN, figures=GIVEN.figures | {name: more + 1}))
    assert line.startswith(f"{name}: 1,000 -> ")


def test_less_is_no_regression_and_a_lost_figure_is_one():
    assert regressions(GIVEN, replace(GIVEN, figures=dict.fromkeys(GIVEN.figures, 0))) == []
    lost = {name: value for name, value in GIVEN.figures.items() if name != "spilling_kernels"}
    assert regressions(GIVEN, replace(GIVEN, figures=lost)) == ["spilling_kernels: 1,000 -> not found"]
    with pytest.raises(UserError, match="cannot be compared"):
        regressions(GIVEN, replace(GIVEN, case=replace(GIVEN.case, batch=128)))


def write(folder, result):
    path = folder / "result.json"
    path.write_bytes(as_json(result))
    return path


def test_results_are_read_as_they_were_written(tmp_path):
    result = replace(GIVEN, case=replace(GIVEN.case, changes=("--config.model.scan=true",)))
    assert read_result(write(tmp_path, result)) == result


@pytest.fixture
def compiles(monkeypatch, small):
    """In place of the compiler: the stored program, with this peak memory."""

    def given(peak):
        found = compiling.Compiled("", peak, 10, (), 0.0)
        monkeypatch.setattr(guard, "compile_case", lambda case, settings: (found, small))

    return given


def test_check_fails_on_more_memory_and_passes_on_as_much(tmp_path, compiles, small, capsys):
    case = replace(GIVEN.case, jax=jax.__version__)
    stored = Result(case, figures(small, target_of("h200"), {"peak_bytes": 1000}, 0))
    path = write(tmp_path, stored)
    compiles(1000)
    assert main(["--check", str(path)]) == 0
    assert f"{path}: no figure is above the stored one" in capsys.readouterr().out
    compiles(1020)
    assert main(["--check", str(path)]) == 1
    assert "peak_bytes: 1,000 -> 1,020 (+2.0%, 1.0% allowed)" in capsys.readouterr().out


def test_results_of_another_jax_are_skipped(tmp_path, capsys):
    path = write(tmp_path, replace(GIVEN, case=replace(GIVEN.case, jax="0.0.1")))
    assert main(["--check", str(path)]) == 0
    assert (
        f"skipped, for it was compiled by jax 0.0.1 and jax {jax.__version__} is installed" in capsys.readouterr().out
    )


STORED_RESULTS = sorted(STORED.glob("*.json"))


@pytest.mark.parametrize("path", STORED_RESULTS, ids=lambda path: path.stem)
def test_stored_results_are_what_their_names_state(path):
    result = read_result(path)
    case, figure = result.case, result.figures
    devices = f"x{case.devices}" if case.devices > 1 else ""
    size = "shallow" if "--config.model.depths=1,1,1,1" in case.changes else case.size
    assert path.stem == f"{case.task}_{size}_{case.kernel}_{case.gpu}{devices}"
    assert settings_of(case.task, case.size, case.batch, case.devices, case.changes).model.kernel == case.kernel
    assert sum(row["kernels"] for row in result.families.values()) == figure["kernels"]
    assert sum(row["bytes"] for row in result.families.values()) == figure["bytes"]
    assert sum(row["operations"] for row in result.products.values()) == figure["operations"]
    assert 0 < figure["state_bytes"] < figure["peak_bytes"]


def test_a_dry_run_knows_the_stored_steps():
    found = {}
    for case, figure in ((result.case, result.figures) for result in map(read_result, STORED_RESULTS)):
        model = settings_of(case.task, case.size, case.batch, case.devices, case.changes).model
        published = {change.split("=")[0].rpartition(".")[2] for change in case.changes} <= {"kernel", "recompute"}
        if TASKS[case.task].training and case.devices == 1 and published:
            step = gpu_memory.CompiledStep(case.batch, figure["peak_bytes"], figure["state_bytes"])
            found[case.task, case.size, model.kernel, model.recompute] = step
    assert found == gpu_memory.STEPS


@pytest.mark.slow
def test_no_figure_has_grown():
    """The package's step, compiled for a GPU at a small depth as it was for the stored result."""
    path = STORED / "pretraining_shallow_fused_h200.json"
    if reason := missing_wheels():
        pytest.skip(reason)
    if read_result(path).case.jax != jax.__version__:
        pytest.skip(f"{path.name} is of jax {read_result(path).case.jax}, jax {jax.__version__} is installed")
    command = [sys.executable, "-m", "benchmarks.gpu_program", "--check", str(path)]
    done = subprocess.run(command, cwd=ROOT, env=compiling_environment(), capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "no figure is above the stored one" in done.stdout
