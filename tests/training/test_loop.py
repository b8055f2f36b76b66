import json
import os
import shutil
import signal
import threading
import time

import jax
import numpy as np
import pytest

from sarwmix_jax.checkpoints.integrity import complete_steps, named
from sarwmix_jax.checkpoints.loading import load_parameters
from sarwmix_jax.checkpoints.reading import Reader
from sarwmix_jax.errors import UserError
from sarwmix_jax.models.state import unstack_blocks
from sarwmix_jax.training.history import read_log, training_curve
from sarwmix_jax.training.loop import train


def same(one, other):
    one, other = named(one), named(other)
    assert one.keys() == other.keys()
    for name, leaf in one.items():
        np.testing.assert_array_equal(leaf, other[name], err_msg=name)


def losses(workdir):
    return {entry["step"]: entry["loss"] for entry in training_curve(read_log(workdir))}


@pytest.fixture(scope="module")
def finished(run_settings, tmp_path_factory):
    """A run of four steps that is over: its workdir and its progress."""
    workdir = tmp_path_factory.mktemp("finished") / "run"
    return workdir, train(run_settings(), workdir)


@pytest.fixture
def workdir(finished, tmp_path):
    """A copy of its workdir to continue in."""
    return shutil.copytree(finished[0], tmp_path / "run")


def test_a_run_leaves_checkpoints_settings_and_a_log(finished):
    workdir, progress = finished
    assert progress.step == 4
    assert complete_steps(workdir / "checkpoints") == [2, 4]
    entries = read_log(workdir)
    assert [entry["event"] for entry in entries].count("train") == 4
    assert [entry["step"] for entry in entries if entry["event"] == "validation"] == [2, 4]
    assert "compile_time" in training_curve(entries)[0]
    wanted = {"loss", "loss_per_band", "weight_mean", "grad_norm", "learning_rate", "epoch"}
    assert wanted | {"images_per_second", "step_time", "data_wait"} <= training_curve(entries)[1].keys()
    assert json.loads((workdir / "settings.json").read_text())["batch"]["global_batch"] == 8
    loaded = load_parameters(workdir)
    same(loaded.params, unstack_blocks(progress.state.params))
    assert loaded.description["progress"]["mix_group"] == 8
    assert loaded.settings.window_sides == (8, 8, 4, 2)


def assert_two_parts_equal(changes, run_settings, workdir, whole_workdir, whole):
    """A run stopped after two steps and started again, held to one that was not."""
    train(run_settings(**changes, optimizer__stop_after_steps=2), workdir)
    parts = train(run_settings(**changes), workdir)
    assert losses(whole_workdir) == losses(workdir)
    same(whole.state, parts.state)
    # and the checkpoint of step 2, written while training continued, is that of the run that stopped there
    target = jax.tree.map(np.asarray, unstack_blocks(whole.state)._asdict())
    one, other = (Reader(place / "checkpoints").restore(target, 2) for place in (whole_workdir, workdir))
    same(one.state, other.state)


@pytest.mark.smoke
def test_four_steps_equal_two_a_restart_and_two(run_settings, finished, tmp_path):
    assert_two_parts_equal({}, run_settings, tmp_path, *finished)


@pytest.mark.slow
def test_the_same_with_accumulation_and_drop_path(run_settings, tmp_path):
    changes = {"batch__micro_batch": 4, "batch__mix_group": 2, "model__drop_path": 0.3}
    whole = train(run_settings(**changes), tmp_path / "whole")
    assert_two_parts_equal(changes, run_settings, tmp_path / "parts", tmp_path / "whole", whole)


@pytest.mark.slow
def test_a_run_goes_on_with_its_blocks_stacked_or_one_by_one(run_settings, tmp_path):
    changes = {"model__depths": (1, 1, 3, 1), "model__drop_path": 0.3}
    train(run_settings(**changes, model__scan=False), tmp_path / "whole")
    train(run_settings(**changes, model__scan=True, optimizer__stop_after_steps=2), tmp_path / "parts")
    assert "encoder/stages/2/blocks/2/norm1/scale" in named(load_parameters(tmp_path / "parts").params)
    train(run_settings(**changes, model__scan=False, optimizer__stop_after_steps=3), tmp_path / "parts")
    train(run_settings(**changes, model__scan=True), tmp_path / "parts")
    parts, whole = losses(tmp_path / "parts"), losses(tmp_path / "whole")
    assert parts.keys() == whole.keys()
    np.testing.assert_allclose(list(parts.values()), list(whole.values()), rtol=2e-5)


def test_another_run_in_the_workdir_is_refused_with_the_difference(run_settings, workdir):
    other = run_settings(optimizer__warmup_epochs=1.0, optimizer__stop_after_epochs=2.5)
    with pytest.raises(UserError, match=r"holds a run with other settings \(optimizer.warmup_epochs: 0.5 -> 1.0\)"):
        train(other, workdir)
    assert train(other, workdir, override=True).step == 5


def test_a_finished_run_has_nothing_to_do(run_settings, workdir, capsys):
    assert train(run_settings(), workdir).first_loss is None
    assert "nothing to do: 4 of 4 steps are done" in capsys.readouterr().err


def test_sigterm_saves_and_the_run_goes_on(run_settings, tmp_path):
    long = {f"{name}_epochs": 800.0 for name in ("optimizer__schedule", "optimizer__stop_after", "checkpoint__every")}

    def stop_when_training():
        log, usual = tmp_path / "log.jsonl", signal.getsignal(signal.SIGTERM)
        while not log.exists() or '"event": "train"' not in log.read_text():
            time.sleep(0.01)
        if signal.getsignal(signal.SIGTERM) is not usual:  # else it would end this process, and the tests with it
            os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=stop_when_training, daemon=True).start()
    progress = train(run_settings(**long), tmp_path)
    assert progress.interrupted == "SIGTERM"
    assert complete_steps(tmp_path / "checkpoints")[-1] == progress.step < 1600
    ended = run_settings(**long, optimizer__stop_after_steps=progress.step)
    assert train(ended, tmp_path).step == progress.step


def test_loss_that_is_not_finite_stops_the_run_and_names_the_records(run_settings, workdir):
    with pytest.raises(
        UserError, match=r"not finite at step \d; last good checkpoint: step 4; records of the batch: synthetic_train_"
    ) as caught:
        train(run_settings(optimizer__base_lr=1e30, optimizer__stop_after_epochs=5.0), workdir, override=True)
    step = int(str(caught.value).split("at step ")[1][0])
    report = json.loads((workdir / f"not_finite_step_{step}_process_0.json").read_text())
    assert len(report["records"]) == 8
    assert complete_steps(workdir / "checkpoints") == [2, 4]


def test_a_run_starts_from_another_checkpoint_and_reports_what_it_took(run_settings, finished, tmp_path, capsys):
    workdir, first = finished
    second = train(run_settings(init_from=str(workdir), optimizer__stop_after_steps=1), tmp_path)
    same(first.state.params, second.state.params)  # the first step's learning rate is 0
    count = len(named(unstack_blocks(first.state.params)))
    assert f"initialised from {workdir} (step 4): took {count} parameters" in capsys.readouterr().err


def test_too_few_records_are_refused_before_anything_is_written(run_settings, tmp_path):
    with pytest.raises(UserError, match="20 records are fewer than one global batch of 24"):
        train(run_settings(batch__global_batch=24), tmp_path / "run")
    assert not (tmp_path / "run").exists()
