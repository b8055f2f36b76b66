"""Exit codes after signals: 130 after Ctrl-C, 75 of a run that was saved at another signal; one line, no traceback."""

import os
import signal
import subprocess
import sys
import time

import pytest

from sarwmix_jax import processes
from sarwmix_jax.checkpoints.store import complete_steps
from sarwmix_jax.cli.demonstration_labels import check_finished
from sarwmix_jax.cli.main import guarded, main
from sarwmix_jax.processes import SIGNALS
from sarwmix_jax.training import loop
from tests.test_cli import ROOT, pretrain, records  # noqa: F401  # a fixture


@pytest.fixture(autouse=True)
def ctrl_c_counts():
    """Jobs in the background of a shell start with Ctrl-C ignored, and so would all that the tests start."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


LONG = ("--config.optimizer.stop_after_epochs=8", "--config.checkpoint.every_epochs=8")


@pytest.mark.parametrize(
    ("number", "code"),
    [pytest.param(number, 75, marks=pytest.mark.slow) for number in SIGNALS[1:]] + [(signal.SIGINT, 130)],
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


def interrupt(command, seconds, until=lambda: True, limit_seconds=300, number=signal.SIGINT):
    """Exit code and standard error of a command that gets a signal so long after `until` holds."""
    process = subprocess.Popen(
        [sys.executable, *map(str, command)],
        cwd=ROOT,
        env=os.environ | {"PYTHONPATH": str(ROOT), "JAX_PLATFORMS": "cpu", "GLIBC_TUNABLES": "glibc.malloc.hugetlb=0"},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )
    end = time.monotonic() + limit_seconds
    while not until() and process.poll() is None and time.monotonic() < end:
        time.sleep(0.01)
    time.sleep(seconds)
    assert process.poll() is None, f"it ended before the signal: {process.stderr.read()}"
    process.send_signal(number)
    _, output = process.communicate(timeout=limit_seconds)
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
