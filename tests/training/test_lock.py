"""Two runs never work in one directory."""

import json
import multiprocessing
import os
import subprocess
import sys
from dataclasses import asdict

import pytest

from sarwmix_jax.errors import UserError
from sarwmix_jax.training import lock
from sarwmix_jax.training.lock import LOCK_FILE, only_run, this_process
from tests.test_cli import mistake, pretrain, records  # noqa: F401  # a fixture

CHILD = "import sys, time\nfrom pathlib import Path\nfrom sarwmix_jax.training.lock import only_run\n"


def left_by(folder, **changes):
    (folder / LOCK_FILE).write_text(json.dumps(asdict(this_process()) | changes))


def test_a_second_run_is_refused_and_the_first_one_releases(tmp_path):
    with only_run(tmp_path) as note:
        assert note is None and json.loads((tmp_path / LOCK_FILE).read_text())["process"] == os.getpid()
        with pytest.raises(UserError) as caught, only_run(tmp_path):
            pass
        assert f"is in use by another run (process {os.getpid()} on " in str(caught.value)
        assert "\n" not in str(caught.value)
    assert not any(tmp_path.iterdir())


def test_another_process_is_refused_while_it_lives_and_its_lock_is_taken_over_after_a_kill(tmp_path):
    code = f"{CHILD}\nwith only_run(Path(sys.argv[1])):\n    print('held', flush=True)\n    time.sleep(60)\n"
    child = subprocess.Popen([sys.executable, "-c", code, str(tmp_path)], stdout=subprocess.PIPE, text=True)
    assert child.stdout.readline() == "held\n"
    with pytest.raises(UserError, match=f"process {child.pid} on "), only_run(tmp_path):
        pass
    child.kill()
    child.communicate()
    with only_run(tmp_path) as note:
        assert f"took over from process {child.pid} of " in note and "which has ended" in note
    assert not any(tmp_path.iterdir())


def test_a_process_with_the_same_number_is_not_the_owner(tmp_path):
    left_by(tmp_path, process_start="another")
    with only_run(tmp_path) as note:
        assert "took over" in note


@pytest.mark.parametrize("other", [{"host": "node7"}, {"processes": "pid:[1]"}])
def test_owners_that_cannot_be_seen_are_not_replaced(tmp_path, other):
    left_by(tmp_path, process=2**22 + 1, process_start="another", **other)
    with pytest.raises(UserError) as caught, only_run(tmp_path):
        pass
    if "host" in other:
        assert "run of another host (process 4194305 on node7, started " in str(caught.value)
        assert str(caught.value).endswith(f"if it has ended, remove {tmp_path / LOCK_FILE}")
    assert (tmp_path / LOCK_FILE).exists()


@pytest.mark.parametrize("text", ["", "{", "[]", "{}"])
def test_a_damaged_lock_is_one_line(tmp_path, text):
    (tmp_path / LOCK_FILE).write_text(text)
    with pytest.raises(UserError, match="if no process works there, remove this file"), only_run(tmp_path):
        pass


def test_without_hard_links(tmp_path, monkeypatch):
    def link(*_):
        raise PermissionError

    monkeypatch.setattr(lock.os, "link", link)
    with only_run(tmp_path):
        with pytest.raises(UserError, match="in use"), only_run(tmp_path):
            pass
    assert not any(tmp_path.iterdir())


def _try(folder, start, results):
    start.wait()
    try:
        with only_run(folder):
            results.put(True)
            start.wait()  # all have tried
    except UserError:
        results.put(False)
        start.wait()


def test_of_many_that_find_the_lock_of_an_ended_run_one_gets_it(tmp_path):
    context = multiprocessing.get_context("spawn")
    left_by(tmp_path, process_start="another")
    start, results = context.Barrier(6), context.Queue()
    runs = [context.Process(target=_try, args=(tmp_path, start, results)) for _ in range(6)]
    for run in runs:
        run.start()
    assert sorted(results.get(timeout=60) for _ in runs) == [False] * 5 + [True]
    for run in runs:
        run.join()


def test_a_command_is_refused_before_it_writes_anything(records, tmp_path, capsys):  # noqa: F811
    workdir = tmp_path / "run"
    with only_run(workdir):
        line = mistake(pretrain(f"--workdir={workdir}", records=records), capsys)
        assert f"{workdir} is in use by another run (process {os.getpid()} on " in line
        assert [path.name for path in workdir.iterdir()] == [LOCK_FILE]
