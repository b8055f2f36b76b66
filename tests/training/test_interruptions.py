"""What ends a run in the middle of reading: one line after the state so far is saved, and never a wait for ever."""

import multiprocessing
import os
import re
import shutil
import signal
from pathlib import Path

import pytest

from sarwmix_jax.checkpoints.integrity import complete_steps
from sarwmix_jax.errors import UserError
from sarwmix_jax.training import loop
from sarwmix_jax.training.loop import train
from tests.training.test_loop import losses, same

STOP = 12
LONG = {
    "checkpoint__every_epochs": 8.0,
    "validation__split": None,
    "optimizer__stop_after_epochs": 8.0,
    "optimizer__stop_after_steps": STOP,
}


def at_step(monkeypatch, step, event):
    """Let something happen after a step of the next run, once."""
    take_step = loop.take_step

    def watched(run, progress, *more):
        take_step(run, progress, *more)
        if progress.step == step:
            monkeypatch.setattr(loop, "take_step", take_step)
            event()

    monkeypatch.setattr(loop, "take_step", watched)


def stopped_run(settings, workdir, line):
    """Step at which a run ended with this line; it is the last of its checkpoints."""
    with pytest.raises(UserError, match=line) as caught:
        train(settings, workdir)
    step = int(re.search(r"; the run is saved at step (\d+)$", str(caught.value))[1])
    assert complete_steps(workdir / "checkpoints")[-1] == step < STOP
    return step


def kill_one_reader():
    os.kill(multiprocessing.active_children()[-1].pid, signal.SIGKILL)


@pytest.mark.slow
@pytest.mark.parametrize("workers", [1, 2])
def test_a_killed_reader_ends_a_run_after_a_save(workers, run_settings, tmp_path, monkeypatch):
    settings = run_settings(**LONG, data__workers=workers, data__prefetch=1)  # else it may have read all before
    at_step(monkeypatch, 3, kill_one_reader)
    stopped_run(settings, tmp_path / "run", r"a process that reads records has ended.*exit code -9")
    assert multiprocessing.active_children() == []
    parts, whole = train(settings, tmp_path / "run"), train(run_settings(**LONG), tmp_path / "whole")
    assert losses(tmp_path / "run") == losses(tmp_path / "whole") and len(losses(tmp_path / "run")) == STOP
    same(parts.state, whole.state)


def shards_of(folder, split):
    found = sorted(Path(folder).glob(f"*-{split}.array_record-*"))
    assert found
    return found


@pytest.mark.slow
@pytest.mark.parametrize("damage", ["truncated", "overwritten"])
def test_a_damaged_file_ends_a_run_after_a_save(damage, records, run_settings, tmp_path, monkeypatch):
    folder = shutil.copytree(records, tmp_path / "records")

    def harm():
        for path in shards_of(folder, "train"):
            size = path.stat().st_size
            if damage == "truncated":
                os.truncate(path, size // 3)
            else:
                with path.open("r+b") as file:
                    file.write(bytes(size))

    at_step(monkeypatch, 2, harm)
    settings = run_settings(**LONG, data__records=(str(folder),))
    stopped_run(settings, tmp_path / "run", r"record \d+ of .* cannot be read")
    with pytest.raises(UserError, match="records"):
        train(settings, tmp_path / "run")
    for path in shards_of(folder, "train"):
        shutil.copy(records / path.name, path)
    assert train(settings, tmp_path / "run").step == STOP


@pytest.mark.slow
def test_files_that_vanish_end_a_run_after_a_save(records, run_settings, tmp_path, monkeypatch):
    """A file that is open stays readable, but each validation has a process of its own that opens the files."""
    folder = shutil.copytree(records, tmp_path / "records")
    at_step(monkeypatch, 2, lambda: [path.unlink() for path in shards_of(folder, "validation")])
    validated = LONG | {"validation__split": "validation", "validation__every_epochs": 2.0}
    settings = run_settings(**validated, data__records=(str(folder),), data__workers=1)
    assert stopped_run(settings, tmp_path / "run", r"record \d+ of .* cannot be read") == 4


def test_nothing_is_saved_where_no_step_was_done(records, run_settings, tmp_path, monkeypatch):
    folder = shutil.copytree(records, tmp_path / "records")
    monkeypatch.setattr(loop, "begin", lambda *them, begin=loop.begin: (harm_all(folder), begin(*them))[1])
    with pytest.raises(UserError, match=r"record \d+ of .* cannot be read") as caught:
        train(run_settings(**LONG, data__records=(str(folder),)), tmp_path / "run")
    assert str(caught.value).endswith("prepare the records again")
    assert complete_steps(tmp_path / "run" / "checkpoints") == []


def harm_all(folder):
    for path in shards_of(folder, "train"):
        os.truncate(path, 0)
