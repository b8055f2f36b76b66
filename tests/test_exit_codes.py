"""Exit codes after signals: 130 after Ctrl-C, 75 of a run that was saved at another signal; one line, no traceback."""

import itertools
import os
import pty
import select
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from sarwmix_jax import processes
from sarwmix_jax.checkpoints.integrity import complete_steps
from sarwmix_jax.cli.demonstration_labels import check_finished
from sarwmix_jax.cli.main import guarded, main
from sarwmix_jax.processes import SIGNALS
from sarwmix_jax.training import loop
from sarwmix_jax.training.history import read_log
from tests.soak import COUNT, SEED
from tests.test_cli import ROOT, pretrain, records  # noqa: F401  # a fixture
from tests.training.test_loop import losses


@pytest.fixture(autouse=True)
def ctrl_c_counts():
    """Jobs in the background of a shell start with Ctrl-C ignored, and so would all that the tests start."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


LONG = ("--config.optimizer.stop_after_epochs=8", "--config.checkpoint.every_epochs=8")
ENDLESS = (
    "--config.optimizer.schedule_epochs=1e6",
    "--config.optimizer.stop_after_epochs=1e6",
    "--config.checkpoint.every_epochs=1e6",
    "--config.validation.every_epochs=1e6",
)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("number", "code"),
    [(signal.SIGINT, 130), *((number, 75) for number in SIGNALS[1:])],
)
def test_a_signal_saves_a_run_and_shows_in_the_exit_code(number, code, records, tmp_path, capsys, monkeypatch):  # noqa: F811
    take_step = loop.take_step

    def interrupted(run, progress, *more):
        take_step(run, progress, *more)
        if progress.step == 2:
            signal.raise_signal(number)

    monkeypatch.setattr(loop, "take_step", interrupted)
    assert main(pretrain(f"--workdir={tmp_path}/run", *LONG, records=records)) == code
    assert complete_steps(tmp_path / "run" / "checkpoints") == [2]
    output = capsys.readouterr().err.splitlines()[-1]
    assert output == f"{signal.Signals(number).name}: saved at step 2; the same command continues from there"


def test_a_second_ctrl_c_ends_a_run_at_once_in_one_line(records, tmp_path, capsys, monkeypatch):  # noqa: F811
    def impatient(*_):
        signal.raise_signal(signal.SIGINT)
        signal.raise_signal(signal.SIGINT)

    monkeypatch.setattr(loop, "take_step", impatient)
    monkeypatch.setattr(processes, "GRACE_SECONDS", 300.0)  # the tests' process is to go on, however busy
    assert main(pretrain(f"--workdir={tmp_path}/run", *LONG, records=records)) == 130
    assert capsys.readouterr().err.splitlines()[-1].startswith("interrupted; ")
    assert complete_steps(tmp_path / "run" / "checkpoints") == []


def test_signals_within_a_demo_have_their_exit_codes(capsys):
    for name, code in (("SIGINT", 130), ("SIGUSR1", 75)):
        assert guarded(lambda name=name: check_finished(loop.Progress(None, interrupted=name))) == code
    assert capsys.readouterr().err.splitlines()[1].startswith("SIGUSR1: stopped; the same command continues")


def interrupt(command, seconds, until=lambda: True, limit_seconds=300, number=signal.SIGINT, target=lambda own: own):
    """Exit code and standard error of a command that gets a signal so long after `until` holds.

    `target` gives the process to send it to by that of the command.
    """
    process = subprocess.Popen(
        [sys.executable, *map(str, command)],
        cwd=ROOT,
        env=os.environ | {"PYTHONPATH": str(ROOT), "JAX_PLATFORMS": "cpu", "GLIBC_TUNABLES": "glibc.malloc.hugetlb=0"},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )
    end = time.monotonic() + limit_seconds
    try:
        while not until() and process.poll() is None and time.monotonic() < end:
            time.sleep(0.01)
        time.sleep(seconds)
        assert process.poll() is None, f"it ended before the signal: {process.stderr.read()}"
        os.kill(target(process.pid), number)
        _, output = process.communicate(timeout=limit_seconds)
    finally:
        process.kill()
    return process.returncode, output


def loaded(*modules):
    """A program that starts a script and gets Ctrl-C at the moment when it imports a module."""
    return (
        "import os, runpy, signal, sys\n"
        "class Finder:\n"
        "    def find_spec(self, name, path=None, target=None):\n"
        f"        if name in {modules!r}:\n"
        "            signal.raise_signal(signal.SIGINT)\n"
        "sys.meta_path.insert(0, Finder())\n"
        "sys.argv = sys.argv[1:]\n"
        "runpy.run_path(sys.argv[0], run_name='__main__')\n"
    )


@pytest.mark.parametrize(
    ("command", "module"),
    [
        (("sarwmix_jax/cli/main.py", "pretrain", "--config=configs/demo.py", "--workdir=x"), "jax"),
        (("sarwmix_jax/cli/main.py", "reconstruct", "--checkpoint=x", "--records=x", "--out=x"), "orbax"),
        (("sarwmix_jax/cli/main.py", "demo", "--workdir=x"), "flax"),
        (("convert_torch_ckpt.py", "--list"), "sarwmix_jax.conversion.identity"),
    ],
    ids=("pretrain", "reconstruct", "demo", "convert"),
)
def test_ctrl_c_while_a_command_starts(command, module, tmp_path):
    done = subprocess.run(
        [sys.executable, "-c", loaded(module), str(ROOT / command[0]), *command[1:]],
        cwd=ROOT,
        env=os.environ | {"PYTHONPATH": str(ROOT), "JAX_PLATFORMS": "cpu", "GLIBC_TUNABLES": "glibc.malloc.hugetlb=0"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stdout) == (130, "")
    assert done.stderr.startswith("interrupted; ") and done.stderr.count("\n") == 1


@pytest.mark.slow
@pytest.mark.parametrize("workers", [1, 2])
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_while_records_are_prepared(number, workers, tmp_path):
    command = ("data_prep/synthetic_scenes.py", f"--out={tmp_path}/out", "--train=2000", f"--workers={workers}")
    partial = tmp_path / "out.partial"
    begun = lambda: any(partial.glob("progress/*.json"))  # noqa: E731
    found = interrupt((*command, "--records-per-shard=5"), 0.3, begun, number=number)
    what, code = ("interrupted", 130) if number == signal.SIGINT else ("SIGTERM: stopped", 75)
    assert found == (code, f"{what}; the same command continues from what is finished\n")
    assert not (tmp_path / "out").exists()


@pytest.mark.slow
@pytest.mark.parametrize("seconds", [0.0, 1.0, 3.0, 6.0])
def test_ctrl_c_at_any_moment_of_a_run(seconds, records, tmp_path):  # noqa: F811
    arguments = pretrain(f"--workdir={tmp_path}/run", *LONG, "--config.optimizer.schedule_epochs=4000", records=records)
    arguments.append("--config.optimizer.stop_after_epochs=4000")
    code, output = interrupt(("-m", "sarwmix_jax.cli.main", *arguments), seconds, (tmp_path / "run").exists)
    assert code == 130
    assert "Traceback" not in output
    assert output.splitlines()[-1].startswith(("interrupted; ", "SIGINT: saved at step "))


BUSY = """
import sys, threading, time
from sarwmix_jax.cli.main import main
threading.Thread(target=time.sleep, args=(120,)).start()
print("begun")
sys.exit(main())
"""


def test_a_run_that_fails_ends_at_once_whatever_its_threads_do():
    """Those of a failed save wait for up to 20 minutes."""
    begun = time.monotonic()
    environment = os.environ | {"GLIBC_TUNABLES": "glibc.malloc.hugetlb=0", "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [sys.executable, "-c", BUSY, "pretrain", "--config=demo"], capture_output=True, text=True, env=environment
    )
    assert (done.returncode, done.stdout) == (2, "begun\n")
    assert done.stderr.startswith("error: --workdir is not given")
    assert time.monotonic() - begun < 100


@pytest.mark.slow
def test_a_run_whose_output_is_no_longer_read_goes_on(records, tmp_path):  # noqa: F811
    reader, writer = os.pipe()
    os.close(reader)
    command = [sys.executable, "-m", "sarwmix_jax.cli.main", *pretrain(f"--workdir={tmp_path}/run", records=records)]
    done = subprocess.run(command, cwd=ROOT, stdout=writer, stderr=writer, check=False)
    os.close(writer)
    assert done.returncode == 0
    assert sorted(losses(tmp_path / "run")) == [1, 2, 3, 4]
    assert complete_steps(tmp_path / "run" / "checkpoints") == [2, 4]


TERMINAL = """
import fcntl, os, signal, sys, termios
fcntl.ioctl(0, termios.TIOCSCTTY, 0)
signal.signal(signal.SIGHUP, signal.Handlers(int(sys.argv[1])))
os.execv(sys.argv[2], sys.argv[2:])
"""
"""A program that takes its input as its terminal and a handler for the end of it, and becomes another program."""


@pytest.mark.slow
@pytest.mark.parametrize(("handler", "code"), [(signal.SIG_DFL, 75), (signal.SIG_IGN, 0)], ids=["plain", "nohup"])
def test_a_terminal_that_is_closed_saves_a_run_or_with_nohup_changes_nothing(handler, code, records, tmp_path):  # noqa: F811
    master, slave = pty.openpty()
    stop = f"--config.optimizer.stop_after_epochs={1000 if code else 200}"
    arguments = pretrain(f"--workdir={tmp_path}/run", *ENDLESS, stop, records=records)

    process = subprocess.Popen(
        [sys.executable, "-c", TERMINAL, str(int(handler)), sys.executable, "-m", "sarwmix_jax.cli.main", *arguments],
        cwd=ROOT,
        stdin=slave,
        stdout=slave,
        stderr=slave,
        start_new_session=True,
    )
    os.close(slave)
    log = tmp_path / "run" / "log.jsonl"
    while not (log.exists() and log.read_text().count('"train"') > 5) and process.poll() is None:
        if select.select([master], [], [], 0.05)[0]:
            os.read(master, 4096)
    os.close(master)
    assert process.wait(300) == code
    ended = read_log(tmp_path / "run")[-1]
    assert (ended["event"], ended["interrupted"]) == ("end", "SIGHUP" if code else None)
    assert complete_steps(tmp_path / "run" / "checkpoints")[-1] == ended["step"]


def stopped(folder, workdir, seconds, expected, workers, until=None, **how):
    """Last line of an endless run that is stopped some seconds after `until` or its start; one before is continued."""
    arguments = pretrain(f"--workdir={workdir}", *ENDLESS, f"--config.data.workers={workers}", records=folder)
    until = until or (workdir / "running.json").exists
    code, output = interrupt(("-m", "sarwmix_jax.cli.main", *arguments), seconds, until, **how)
    assert code == expected and "Traceback" not in output, output
    return output.splitlines()[-1]


def assert_never_stopped(workdir, folder, whole):
    """The losses of a run, stopped once more in training, are those of one that was not; returns their number."""
    log = workdir / "log.jsonl"
    before = len(losses(workdir)) if log.exists() else 0
    stopped(folder, workdir, 0, 75, 0, lambda: log.exists() and len(losses(workdir)) > before, number=signal.SIGTERM)
    step = complete_steps(workdir / "checkpoints")[-1]
    done = pretrain(f"--workdir={whole}", *ENDLESS, f"--config.optimizer.stop_after_steps={step}", records=folder)
    assert main(done) == 0
    assert losses(whole) == losses(workdir) and len(losses(workdir)) == step
    return step


@pytest.mark.slow
@pytest.mark.damage
def test_signals_at_random_moments(records, tmp_path):  # noqa: F811
    """A run that is stopped again and again is in the end the run that was not."""
    rng, counts = np.random.default_rng(SEED), Counter()
    for turn in range(COUNT // 5):
        number = SIGNALS[turn % len(SIGNALS)]
        code = 130 if number == signal.SIGINT else 75
        line = stopped(records, tmp_path / "run", rng.uniform(0, 6), code, int(rng.integers(3)), number=number)
        assert line.startswith(("interrupted; ", f"{number.name}: ")), line
        counts["saved" if ": saved at step" in line else "before the first step"] += 1
    print(f"signals: {dict(counts)}, {assert_never_stopped(tmp_path / 'run', records, tmp_path / 'whole')} steps")


def reader_of(process):
    """A process that reads records for this one, once there is one."""
    while True:
        children = [path.read_text().split() for path in Path(f"/proc/{process}/task").glob("*/children")]
        for child in itertools.chain(*children):
            if "spawn_main" in Path(f"/proc/{child}/cmdline").read_text():
                return int(child)
        time.sleep(0.05)


@pytest.mark.slow
@pytest.mark.damage
def test_readers_killed_at_random_moments(records, tmp_path):  # noqa: F811
    rng, counts, run = np.random.default_rng(SEED), Counter(), tmp_path / "run"
    for turn in range(COUNT // 10):
        line = stopped(records, run, rng.uniform(0, 6), 2, 1 + turn % 2, number=signal.SIGKILL, target=reader_of)
        assert line.startswith("error: a process that reads records has ended"), line
        counts["saved" if "; the run is saved at step" in line else "before a step"] += 1
    print(f"readers killed: {dict(counts)}, {assert_never_stopped(run, records, tmp_path / 'whole')} steps")
