"""Two and four processes with two devices each compute what one process computes, and stop and end together."""

import json
import os
import shutil
import sys
import time

import numpy as np
import pyarrow.parquet
import pytest

from sarwmix_jax.checkpoints.integrity import complete_steps
from sarwmix_jax.checkpoints.loading import load_parameters
from sarwmix_jax.checkpoints.reading import Reader
from sarwmix_jax.models.state import flatten_names
from sarwmix_jax.training.history import read_log
from sarwmix_jax.training.throughput import SPENT
from tests.cluster import jobs
from tests.training.conftest import labelled_records, records  # noqa: F401

STEPS = 4
CHANGES = {
    "batch__global_batch": 16,
    "optimizer__schedule_epochs": 40.0,
    "optimizer__stop_after_epochs": 40.0,
    "optimizer__stop_after_steps": STEPS,
    "validation__every_epochs": 40.0,
    "checkpoint__keep": 9,
    "checkpoint__every_epochs": 40.0,
    "checkpoint__at_epochs": (1.0,),  # and at the end; an epoch has one step
}
SEVERAL = pytest.mark.parametrize(
    "processes", [pytest.param(2, marks=pytest.mark.slow), pytest.param(4, marks=pytest.mark.soak)]
)
PRETRAINING, FINETUNING = "pretrain --config=demo", "finetune --config=finetune_demo"


def command(what, records, workdir, place, **more):  # noqa: F811
    # evaluations are compared by themselves, which is faster than as validations of finetuning
    group = {"batch__mix_group": 2} if what == PRETRAINING else {"init_from": None, "validation__split": None}
    changed = jobs.changes(**CHANGES | group | more)
    return [*what.split(), f"--config.data.records={records}", f"--workdir={workdir}", f"--compiled={place}", *changed]


@pytest.fixture(scope="module")
def whole(place, records, labelled_records):  # noqa: F811
    """Work directories of undisturbed runs of one process with four devices."""
    for what, folder in ((PRETRAINING, records), (FINETUNING, labelled_records)):
        jobs.run(command(what, folder, place / what.split()[0], place / "compiled1"), 1, devices=4)
    return {what: place / what.split()[0] for what in (PRETRAINING, FINETUNING)}


def series(workdir):
    """Loss and norm of the gradient of every step, and the scores of every validation, as last done."""
    entries = read_log(workdir)
    steps = {e["step"]: (e["loss"], e["grad_norm"]) for e in entries if e["event"] == "train"}
    scores = {e["step"]: {k: v for k, v in e.items() if k != "time"} for e in entries if e["event"] == "validation"}
    return steps, list(scores.values())


def means_of_gradients(workdir, step=1):
    """AdamW's first moments after the first step: a tenth of its gradients."""
    reader = Reader(workdir / "checkpoints")
    items = reader._read_here(step, ["optimizer"])["optimizer"]
    found = {name: np.asarray(value) for name, value in items.items() if "mu" in name.split("/")}
    assert found
    return found


def assert_equal_runs(one, other):
    (steps, scores), (others, other_scores) = series(one), series(other)
    assert list(steps) == list(others) == list(range(1, STEPS + 1))
    np.testing.assert_allclose(list(others.values()), list(steps.values()), rtol=1e-5, atol=1e-6)
    assert len(scores) == len(other_scores)
    for before, after in zip(scores, other_scores, strict=True):
        assert before.keys() == after.keys()
        numbers = [name for name, value in before.items() if isinstance(value, float)]
        np.testing.assert_allclose([after[n] for n in numbers], [before[n] for n in numbers], rtol=1e-5, atol=1e-6)


@pytest.fixture(scope="module")
def two(place, records):  # noqa: F811
    """Work directory of a pretraining run of two processes, and what they printed."""
    workdir = place / "two"
    return workdir, jobs.run(command(PRETRAINING, records, workdir, place / "compiled2"), 2)


def assert_like_one(whole, workdir, outputs):
    """A run is that of one process, with all gradients of its first step; process 0 prints, the log has all times."""
    assert_equal_runs(whole, workdir)
    one, other = means_of_gradients(whole), means_of_gradients(workdir)
    for name, value in one.items():
        np.testing.assert_allclose(other[name], value, rtol=1e-5, atol=1e-7, err_msg=name)
    assert "compiling the training step" in outputs[0][1]
    assert not jobs.printed(outputs[1:])
    (start, end) = (e for e in read_log(workdir) if e["event"] in ("start", "end"))
    assert end["seconds"].keys() == set(SPENT) and end["seconds"]["compilation"] > end["seconds"]["productive"] > 0
    taken = sum(value for name, value in end["seconds"].items() if name != "initialisation")
    assert taken == pytest.approx(end["time"] - start["time"], abs=1)


@pytest.mark.slow
def test_two_processes_pretrain_like_one(whole, two):
    assert series(whole[PRETRAINING])[1]  # scores of a validation
    assert_like_one(whole[PRETRAINING], *two)


@pytest.mark.soak
def test_four_processes_pretrain_like_one(whole, place, records, tmp_path):  # noqa: F811
    flags = command(PRETRAINING, records, tmp_path / "run", place / "compiled4")
    assert_like_one(whole[PRETRAINING], tmp_path / "run", jobs.run(flags, 4))


@SEVERAL
def test_several_processes_finetune_like_one(processes, whole, place, labelled_records, tmp_path):  # noqa: F811
    flags = command(FINETUNING, labelled_records, tmp_path / "run", place / f"finetuning{processes}")
    assert_like_one(whole[FINETUNING], tmp_path / "run", jobs.run(flags, processes))


@pytest.mark.parametrize(
    "processes", [pytest.param(1, marks=pytest.mark.slow), pytest.param(4, marks=pytest.mark.soak)]
)
def test_a_run_of_two_processes_goes_on_with_one_and_with_four(processes, whole, two, place, records, tmp_path):  # noqa: F811
    workdir = shutil.copytree(two[0], tmp_path / "run")
    shutil.rmtree(workdir / "checkpoints" / str(STEPS))
    flags, devices = command(PRETRAINING, records, workdir, place / f"compiled{processes}"), 4 if processes == 1 else 2
    outputs = jobs.run(flags, processes, devices=devices)
    assert "continuing at step 1" in outputs[0][1] and not jobs.printed(outputs[1:])
    assert_equal_runs(whole[PRETRAINING], workdir)
    again = [entry["step"] for entry in read_log(workdir) if entry["event"] == "train"]
    assert again == [*range(1, STEPS + 1), *range(2, STEPS + 1)]


@SEVERAL
def test_several_processes_evaluate_and_embed_like_one(processes, whole, labelled_records, tmp_path):  # noqa: F811
    scores, features = [], []
    for number in (1, processes):
        out, rows = tmp_path / str(number), tmp_path / f"{number}.parquet"
        flags = [f"--checkpoint={whole[FINETUNING]}", f"--records={labelled_records}", "--split=validation"]
        outputs = jobs.run(["evaluate", *flags, "--replicates=20", "--batch=2", f"--out={out}"], number)
        assert "tables and pictures" in outputs[0][0] and not jobs.printed(outputs[1:])
        (file,) = out.rglob("result.json")
        scores.append(json.loads(file.read_text()))
        outputs = jobs.run(["embed", *flags, "--batch=2", f"--out={rows}"], number)
        assert f"wrote {rows}" in outputs[0][0] and not jobs.printed(outputs[1:])
        features.append(pyarrow.parquet.read_table(rows).to_pydict())
    assert_close(*scores)
    assert_close(*features)


def assert_close(one, other):
    if isinstance(one, dict):
        assert one.keys() == other.keys()
        for name in one:
            assert_close(one[name], other[name])
    elif isinstance(one, list):
        assert len(one) == len(other)
        for pair in zip(one, other, strict=True):
            assert_close(*pair)
    elif isinstance(one, float):
        assert other == pytest.approx(one, rel=1e-5, abs=1e-6)
    elif not isinstance(one, str):
        assert one == other


LONG = {
    "optimizer__stop_after_steps": None,
    "optimizer__schedule_epochs": 4000.0,
    "optimizer__stop_after_epochs": 4000.0,
    "validation__split": None,
    "checkpoint__every_epochs": 2.0,  # so that signals come after a save
    "checkpoint__keep": 3,
}


def started(records, workdir, place, *flags):  # noqa: F811
    """Two processes in the middle of a run of 4,000 steps."""
    both = jobs.start([*command(PRETRAINING, records, workdir, place / "compiled2", **LONG), *flags], 2)
    await_steps(workdir, both)
    return both


def await_steps(workdir, processes):
    """Wait until a run is in its fourth step."""
    latest = time.monotonic() + 120
    while not (workdir / "log.jsonl").exists() or len(series(workdir)[0]) < 3:
        lost = time.monotonic() > latest or any(each.poll() is not None for each in processes)
        assert not lost, [jobs.outcome(each, 5) for each in processes]
        time.sleep(0.1)


def signalled(how, records, workdir, place):  # noqa: F811
    """Outcomes of two processes, of which the second gets signals when it first opens an array of a checkpoint."""
    program = (sys.executable, "-m", "tests.cluster.signals", how)
    flags = command(PRETRAINING, records, workdir, place / "compiled2", **LONG)
    return [jobs.outcome(each, 100) for each in jobs.start(flags, 2, program=program)]


@pytest.mark.slow
def test_signals_to_one_process_while_it_writes_or_reads_a_checkpoint(place, records, tmp_path):  # noqa: F811
    workdir = tmp_path / "run"
    reached = 0
    for how, begin in (("SIGUSR1", ""), ("SIGTERM", "continuing at step")):  # in a save, and then in a restore
        found = signalled(how, records, workdir, place)
        assert [code for code, _, _ in found] == [75, 75], found
        step = complete_steps(workdir / "checkpoints")[-1]
        assert f"saved at step {step}; the same command continues" in found[0][2] and begin in found[0][2]
        assert reached < step < 20 and max(series(workdir)[0]) == step
        assert flatten_names(load_parameters(str(workdir)).params)
        reached = step
    before = time.monotonic()
    found = signalled("SIGINT,SIGINT", records, workdir, place)  # and the process would go on reading for a minute
    assert found[1][0] == 130 and found[0][0] in (76, 130) and time.monotonic() - before < 50, found
    assert all("Traceback" not in err for _, _, err in found), found
    assert complete_steps(workdir / "checkpoints")[-1] == reached


@pytest.mark.parametrize("lost", [pytest.param(0, marks=pytest.mark.slow), pytest.param(1, marks=pytest.mark.soak)])
def test_the_other_process_ends_with_one_that_is_killed(lost, place, records, tmp_path):  # noqa: F811
    both = started(records, tmp_path / "run", place)
    both[lost].kill()
    before = time.monotonic()
    code, _, err = jobs.outcome(both[1 - lost], 60)
    assert time.monotonic() - before < 12
    line = jobs.printed([("", err)])[-1]
    assert code == 76 and line.startswith(f"error: process {lost} of 2 on {os.uname().nodename} has ended without"), err
    assert "Traceback" not in err and "JAX distributed service" not in err, err
    assert (tmp_path / "run" / "running.json").exists() == (lost == 0)  # whose file it is
    jobs.outcome(both[lost], 10)
