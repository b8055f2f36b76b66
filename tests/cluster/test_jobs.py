"""Two and four processes with two devices each compute what one process computes, and stop and end together."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from functools import cache
from pathlib import Path

import numpy as np
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
    "validation__every_epochs": 2.0,
    "checkpoint__keep": 9,
    "checkpoint__every_epochs": 1.0,
}
PRETRAINING, FINETUNING = "pretrain --config=demo", "finetune --config=finetune_demo"


def command(what, records, workdir, place, **more):  # noqa: F811
    group = {"batch__mix_group": 2} if what == PRETRAINING else {"init_from": None}
    changed = jobs.changes(**CHANGES | group | more)
    return [*what.split(), f"--config.data.records={records}", f"--workdir={workdir}", f"--compiled={place}", *changed]


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    return tmp_path_factory.mktemp("jobs")


@pytest.fixture(scope="module")
def whole(place, records, labelled_records):  # noqa: F811
    """Work directory of an undisturbed run of one process with four devices, by what it trains; made when asked for."""

    @cache
    def made(what):
        folder = records if what == PRETRAINING else labelled_records
        jobs.run(command(what, folder, place / what.split()[0], place / "compiled"), 1, devices=4)
        return place / what.split()[0]

    return made


def series(workdir):
    """Loss and norm of the gradient of every step, and the scores of every validation."""
    entries = read_log(workdir)
    steps = {e["step"]: (e["loss"], e["grad_norm"]) for e in entries if e["event"] == "train"}
    scores = [{k: v for k, v in e.items() if k != "time"} for e in entries if e["event"] == "validation"]
    return steps, scores


def printed(outputs):
    """What these processes printed themselves; Gloo's threads print from C++, into each other's lines."""
    lines = [line for pair in outputs for text in pair for line in text.splitlines()]
    return [line for line in lines if line and not re.search(r"\[Gloo\]|connected peer ranks is", line)]


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
    assert len(scores) == len(other_scores) > 0
    for before, after in zip(scores, other_scores, strict=True):
        assert before.keys() == after.keys()
        numbers = [name for name, value in before.items() if isinstance(value, float)]
        np.testing.assert_allclose([after[n] for n in numbers], [before[n] for n in numbers], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    ("what", "processes"),
    [
        pytest.param(PRETRAINING, 2, marks=pytest.mark.slow),
        *(pytest.param(*both, marks=pytest.mark.soak) for both in ((PRETRAINING, 4), (FINETUNING, 2), (FINETUNING, 4))),
    ],
)
def test_several_processes_train_like_one(what, processes, whole, place, records, labelled_records, tmp_path):  # noqa: F811
    folder = records if what == PRETRAINING else labelled_records
    outputs = jobs.run(command(what, folder, tmp_path / "run", place / f"compiled{processes}"), processes)
    assert_equal_runs(whole(what), tmp_path / "run")
    one, other = means_of_gradients(whole(what)), means_of_gradients(tmp_path / "run")
    for name, value in one.items():
        np.testing.assert_allclose(other[name], value, rtol=1e-5, atol=1e-7, err_msg=name)
    assert "compiling the training step" in outputs[0][1]
    assert not printed(outputs[1:])
    (start, end) = (e for e in read_log(tmp_path / "run") if e["event"] in ("start", "end"))
    assert end["seconds"].keys() == set(SPENT) and end["seconds"]["compilation"] > end["seconds"]["productive"] > 0
    taken = sum(value for name, value in end["seconds"].items() if name != "initialisation")
    assert taken == pytest.approx(end["time"] - start["time"], abs=1)


@pytest.mark.soak
def test_two_processes_evaluate_like_one(whole, place, labelled_records, tmp_path):  # noqa: F811
    found = []
    for processes in (1, 2):
        out = tmp_path / str(processes)
        flags = [f"--checkpoint={whole(FINETUNING)}", f"--records={labelled_records}", "--split=validation"]
        outputs = jobs.run(["evaluate", *flags, "--replicates=20", "--batch=2", f"--out={out}"], processes)
        (place_of_scores,) = (
            out.rglob("result*.json") if list(out.rglob("result*.json")) else out.rglob("*scores*.json")
        )
        found.append(json.loads(place_of_scores.read_text()))
        assert "tables and pictures" in outputs[0][0] and not printed(outputs[1:])
    assert_close(*found)


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


def resumed(source, workdir, records, place, processes, devices):  # noqa: F811
    shutil.copytree(source, workdir)
    jobs.run(command(PRETRAINING, records, workdir, place / f"compiled{processes}"), processes, devices=devices)
    return workdir


@pytest.mark.soak
def test_a_run_of_two_processes_goes_on_with_one_and_with_four(whole, place, records, tmp_path):  # noqa: F811
    begun = tmp_path / "begun"
    two = command(PRETRAINING, records, begun, place / "compiled2", optimizer__stop_after_steps=2)
    jobs.run(two, 2)
    for processes in (1, 4):
        workdir = resumed(begun, tmp_path / f"on{processes}", records, place, processes, 2)
        assert_equal_runs(whole(PRETRAINING), workdir)


@pytest.mark.soak
@pytest.mark.parametrize("divided", [False, True])
def test_a_run_of_two_processes_that_was_stopped_is_the_one_that_was_not(divided, place, records, tmp_path):  # noqa: F811
    """Bit for bit, also where the processes share the optimiser's state."""
    kept = {"optimizer__shard_state": divided, "model__decoder_dim": 64}  # with large kernels
    for name, ends in (("undisturbed", [STEPS]), ("stopped", [2, STEPS])):
        for end in ends:
            flags = kept | {"optimizer__stop_after_steps": end}
            jobs.run(command(PRETRAINING, records, tmp_path / name, place / f"kept{divided}", **flags), 2)
    runs = [tmp_path / name for name in ("undisturbed", "stopped")]
    assert series(runs[0]) == series(runs[1])
    contents = [Reader(run / "checkpoints").contents(STEPS) for run in runs]
    assert contents[0] == contents[1] and contents[0]["optimizer"]


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


@pytest.mark.soak
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGUSR1])
def test_a_signal_to_one_of_two_processes_saves_both_at_one_step(number, place, records, tmp_path):  # noqa: F811
    both = started(records, tmp_path / "run", place)
    both[1].send_signal(number)
    found = [jobs.outcome(each, 60) for each in both]
    assert [code for code, _, _ in found] == [75, 75], found
    step = complete_steps(tmp_path / "run" / "checkpoints")[-1]
    assert f"saved at step {step}; the same command continues" in found[0][2]
    assert max(series(tmp_path / "run")[0]) == step
    assert flatten_names(load_parameters(str(tmp_path / "run")).params)


@pytest.mark.parametrize(
    ("number", "how"),
    [
        pytest.param(signal.SIGKILL, "has ended without an error of its own", marks=pytest.mark.soak),
        pytest.param(signal.SIGSTOP, "has not answered for 5 s", marks=pytest.mark.slow),
    ],
)
def test_the_other_process_ends_with_one_that_is_lost(number, how, place, records, tmp_path):  # noqa: F811
    both = started(records, tmp_path / "run", place, "--silent-seconds=5")
    both[1].send_signal(number)
    before = time.monotonic()
    try:
        code, _, err = jobs.outcome(both[0], 60)
        assert time.monotonic() - before < 12
        assert code == 76 and f"error: process 1 of 2 on {os.uname().nodename} {how}" in err, err
        assert not (tmp_path / "run" / "running.json").exists()
    finally:
        both[1].kill()
        jobs.outcome(both[1], 10)


@pytest.mark.soak
def test_the_script_for_one_machine_passes_signals_and_the_exit_code_on(place, records, tmp_path):  # noqa: F811
    workdir = tmp_path / "run"
    flags = command(PRETRAINING, records, workdir, place / "compiled2", **LONG)
    more = {"PROCESSES": "2", "PORT": str(jobs.free_port()), "SARWMIX": str(Path(sys.executable).parent / "sarwmix")}
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    script = subprocess.Popen(
        [jobs.ROOT / "launch" / "local.sh", *flags], cwd=jobs.ROOT, env=jobs.environment(2, **more), **pipes
    )
    await_steps(workdir, [script])
    script.terminate()
    code, _, err = jobs.outcome(script, 60)
    assert code == 75 and "SIGTERM: saved at step" in err, err
