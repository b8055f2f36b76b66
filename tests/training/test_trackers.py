"""Trackers: numbers and pictures are read back over several starts, and nothing appears twice or out of order."""

import dataclasses
import itertools
import json
import os
import subprocess
import sys

import numpy as np
import pytest

from sarwmix_jax.cli.main import main
from sarwmix_jax.errors import UserError
from sarwmix_jax.settings.sections import LogSettings, MaskSettings, PretrainingSettings
from sarwmix_jax.training import trackers
from sarwmix_jax.training.logs import RunLog
from sarwmix_jax.training.loop import train
from tests.training.tracked import tensorboard_points, wandb_rows


@pytest.fixture
def wandb_offline(monkeypatch):
    """Weights & Biases without a network; skips where it is not installed."""
    pytest.importorskip("wandb", reason="the extra `wandb` is not installed")
    monkeypatch.setenv("WANDB_MODE", "offline")


def tracked(*names, **changes):
    return PretrainingSettings(log=LogSettings(trackers=names), **changes)


def write(settings, workdir, first, last, value=1.0):
    """Logs the steps of one start, a validation and a picture at its end."""
    with RunLog(workdir, 10, bands=("VH", "VV")) as log:
        log.track(settings, workdir, first)
        for step in range(first + 1, last + 1):
            log.write("train", step=step, loss=value * step, loss_per_band=[1.0, 2.0], worst=float("nan"))
        log.write("validation", step=last, loss=value)
        log.picture("reconstruction", last, lambda: np.zeros((6, 8, 4), np.uint8))


def test_tensorboard_shows_each_step_once_after_a_restart_from_an_earlier_one(tmp_path):
    settings = tracked("tensorboard")
    write(settings, tmp_path, 0, 5)
    write(settings, tmp_path, 3, 6, value=2.0)  # within the same second
    points = tensorboard_points(tmp_path / "tensorboard")
    assert points["train/loss"] == [(1, 1.0), (2, 2.0), (3, 3.0), (4, 8.0), (5, 10.0), (6, 12.0)]
    assert points["train/loss_per_band/VV"] == [(step, 2.0) for step in range(1, 7)]
    assert points["validation/loss"] == [(6, 2.0)]
    assert points["reconstruction"] == [(6, (6, 8))]
    assert "train/worst" not in points


def test_nothing_is_written_or_drawn_without_a_tracker(tmp_path):
    with RunLog(tmp_path, 10) as log:
        log.track(tracked(), tmp_path, 0)
        log.write("train", step=1, loss=1.0)
        log.picture("reconstruction", 1, lambda: 1 / 0)
    assert [path.name for path in tmp_path.iterdir()] == ["log.jsonl"]


def test_other_processes_track_nothing(tmp_path):
    with RunLog(tmp_path, 10, quiet=True) as log:
        log.track(tracked("tensorboard"), tmp_path, 0)
        log.write("train", step=1, loss=1.0)
    assert list(tmp_path.iterdir()) == []


def test_a_tracker_that_is_not_installed_is_one_line_before_anything_is_read(tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(trackers.MODULES, "wandb", "no_such_module_of_wandb")
    arguments = ["--config=demo", "--config.data.records=nowhere", "--config.log.trackers=wandb"]
    assert main(["pretrain", *arguments, f"--workdir={tmp_path / 'run'}", "--compiled=off"]) == 2
    error = capsys.readouterr().err.splitlines()[-1]
    assert "pip install 'sarwmix_jax[wandb]'" in error and "--config.log.trackers has wandb" in error
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(("names", "message"), [(("board",), "use tensorboard or wandb"), (("wandb",) * 2, "twice")])
def test_unknown_trackers_are_refused(names, message, run_settings):
    with pytest.raises(UserError, match=message):
        run_settings(log__trackers=names)


@pytest.mark.slow
def test_wandb_has_one_run_with_each_step_once_over_all_starts(tmp_path, wandb_offline):
    settings = tracked("wandb")
    write(settings, tmp_path, 0, 5)
    write(settings, tmp_path, 3, 6)
    write(dataclasses.replace(settings, log=LogSettings(7, trackers=("wandb",))), tmp_path, 6, 8)
    rows = wandb_rows(tmp_path)
    assert len({row["id"] for row in rows}) == 1
    assert [(row["step"], row["train/loss"]) for row in rows if "train/loss" in row] == [(n, n) for n in range(1, 9)]
    assert [row["step"] for row in rows if "validation/loss" in row] == [5, 6, 8]
    assert [row["step"] for row in rows if any(name.startswith("reconstruction") for name in row)] == [5, 6, 8]
    assert [row["_step"] for row in rows] == list(range(len(rows)))
    assert all(one["step"] <= two["step"] for one, two in itertools.pairwise(rows))
    assert len(list(tmp_path.glob("wandb/offline-run-*/files/media/images/*.png"))) == 3


@pytest.mark.slow
def test_settings_that_change_the_computation_begin_a_run_of_their_own(tmp_path, wandb_offline):
    write(tracked("wandb"), tmp_path, 0, 2)
    write(tracked("wandb", mask=MaskSettings(0.25)), tmp_path, 1, 2)
    rows = wandb_rows(tmp_path)
    assert [row["step"] for row in rows if "train/loss" in row] == [1, 2, 2]
    assert len({row["id"] for row in rows}) == 2


@pytest.mark.slow
def test_a_wandb_that_cannot_start_is_one_line(tmp_path):
    pytest.importorskip("wandb", reason="the extra `wandb` is not installed")
    code = (
        "import sys\nfrom pathlib import Path\nfrom sarwmix_jax.cli.main import guarded\n"
        "from sarwmix_jax.settings.sections import LogSettings, PretrainingSettings\n"
        "from sarwmix_jax.training.trackers import open_trackers\n"
        "settings = PretrainingSettings(log=LogSettings(trackers=('wandb',)))\n"
        f"sys.exit(guarded(lambda: open_trackers(settings, Path({str(tmp_path)!r}), 0) and 0))"
    )
    known = {name: value for name, value in os.environ.items() if not name.startswith("WANDB")}
    done = subprocess.run(
        [sys.executable, "-c", code],
        env=known | {"HOME": str(tmp_path), "NETRC": str(tmp_path / "none"), "WANDB_CONFIG_DIR": str(tmp_path)},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 2, done.stderr
    assert "set WANDB_MODE=offline" in done.stderr.splitlines()[-1]
    assert "Traceback" not in done.stderr


def test_a_damaged_state_of_wandb_is_refused(tmp_path):
    (tmp_path / "wandb.json").write_text("{}")
    with pytest.raises(UserError, match=r"wandb.json is damaged"):
        trackers._stored(tmp_path / "wandb.json", {})


@pytest.mark.slow
@pytest.mark.parametrize("norm_pix", [True, False])
def test_a_run_gives_its_reconstructions_at_each_validation(run_settings, tmp_path, norm_pix):
    changes = {"loss__norm_pix": norm_pix, "log__trackers": ("tensorboard",)}
    for steps in (2, 4):
        train(run_settings(**changes, optimizer__stop_after_steps=steps), tmp_path)
    points = tensorboard_points(tmp_path / "tensorboard")
    assert [step for step, _ in points["train/loss"]] == [1, 2, 3, 4]
    pictures = points["reconstruction"]
    assert [step for step, _ in pictures] == [2, 4]
    assert min(pictures[0][1]) > 200
    lines = [json.loads(line) for line in (tmp_path / "log.jsonl").read_text().splitlines()]
    assert sum(line["event"] == "validation" for line in lines) == 2


@pytest.mark.slow
def test_finetuning_gives_numbers_without_pictures(finetuning_settings, tmp_path):
    train(finetuning_settings(log__trackers=("tensorboard",), optimizer__stop_after_steps=2), tmp_path)
    points = tensorboard_points(tmp_path / "tensorboard")
    assert "validation/ap_macro" in points and "reconstruction" not in points
