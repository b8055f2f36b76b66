"""Running a study: order, resumption, failures, claims. Without a model, which other tests have."""

import json
import os
import subprocess
import sys
from dataclasses import asdict

import pytest

from sarwmix_jax.cli.main import main
from sarwmix_jax.errors import FAILED, MISTAKE, STOPPED, UserError
from sarwmix_jax.studies import run
from sarwmix_jax.studies.claims import CLAIM, claimed
from sarwmix_jax.studies.listing import listing
from sarwmix_jax.studies.run import chosen_steps, run_steps
from sarwmix_jax.studies.steps import do_step
from sarwmix_jax.training.lock import this_process
from tests.studies.studies import PLAIN, WHOLE, config_file, opened, study


@pytest.fixture
def counted(monkeypatch):
    """Names of the steps whose work is done, in order."""
    names = []

    def do(study, out, step):
        names.append(step.name)
        return do_step(study, out, step)

    monkeypatch.setattr(run, "do_step", do)
    return names


def test_a_study_runs_every_step_once_in_order_and_nothing_at_its_second_start(tmp_path, counted):
    folder = opened(tmp_path / "study", **PLAIN)
    assert "0 of 3 steps are done; the rest: no estimate yet" in listing(folder, folder.steps)
    estimated = opened(tmp_path / "study", **PLAIN, minutes=("scenes 1", "baseline 2.5"))
    assert "the rest: about 6 min in one process" in listing(estimated, folder.steps)
    assert run_steps(folder, folder.steps) == 0
    assert counted == ["scenes", "baseline/seed0", "baseline/seed1"]
    assert run_steps(opened(tmp_path / "study", **PLAIN), folder.steps) == 0
    assert len(counted) == 3
    assert [line.split()[1] for line in listing(folder, folder.steps).splitlines()[:3]] == ["done"] * 3
    assert not list(tmp_path.rglob(CLAIM))


def test_steps_can_be_run_by_name_and_only_after_what_they_need(tmp_path, counted, capsys):
    folder = opened(tmp_path / "study", **PLAIN)
    folder.at("scenes").mkdir()
    (folder.at("scenes") / CLAIM).write_text(json.dumps(asdict(this_process()) | {"process_start": "another"}))
    assert run_steps(folder, chosen_steps(folder, ["baseline/seed1"])) == FAILED  # who had claimed it is gone
    assert counted == []
    assert "error: baseline/seed1: needs scenes, which is not done" in capsys.readouterr().err
    assert run_steps(folder, chosen_steps(folder, ["scenes", "baseline/seed1"])) == 0
    assert counted == ["scenes", "baseline/seed1"]
    with pytest.raises(UserError, match="no step 'baseline/seed'; --list prints all"):
        chosen_steps(folder, ["baseline/seed"])


def test_a_failed_step_is_noted_what_needs_it_is_not_run_and_the_rest_goes_on(tmp_path, counted, capsys):
    changes = WHOLE | {"variants": ("fine", "wrong mask.ratio=0.01"), "measured": ("reconstruction", "baseline")}
    folder = opened(tmp_path / "study", **changes)
    names = ["scenes", "pretrain/wrong", "reconstruct/wrong", "baseline"]
    assert run_steps(folder, chosen_steps(folder, names)) == FAILED
    assert counted == ["scenes", "pretrain/wrong/seed0", "baseline/seed0"]
    text = capsys.readouterr().err
    assert "error: pretrain/wrong/seed0: --config.mask.ratio 0.01" in text
    assert "error: reconstruct/wrong/seed0: needs pretrain/wrong/seed0, which failed" in text
    states = dict(line.split(maxsplit=1) for line in listing(folder, folder.steps).splitlines()[:-1])
    assert states["pretrain/wrong/seed0"].startswith("failed: --config.mask.ratio 0.01")
    assert (states["baseline/seed0"], states["pretrain/fine/seed0"]) == ("done", "open")


def test_entries_may_be_added_and_everything_else_is_refused_with_the_difference(tmp_path):
    opened(tmp_path, **PLAIN)
    opened(tmp_path, **PLAIN | {"seeds": (0, 1, 2), "score": "ap_micro"})
    with pytest.raises(UserError, match=r"other settings \(settings\.seeds: \[0, 1, 2\] -> \[0\]\); name another"):
        opened(tmp_path, **PLAIN | {"seeds": (0,)})
    more = {"seeds": (0, 1, 2)}
    with pytest.raises(UserError, match=r"settings\.landscape: 'large_parcels' -> 'small_parcels'"):
        opened(tmp_path, **PLAIN | more | {"landscape": "small_parcels"})
    with pytest.raises(UserError, match=r"recipes\.pretraining\.optimizer\.base_lr: 0\.0256 -> 0\.5"):
        opened(tmp_path, **PLAIN | more | {"pretraining": "demo optimizer.base_lr=0.5"})
    opened(tmp_path, **PLAIN | more | {"pretraining": "demo log.every_steps=3 data.threads=4"})
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "file").touch()
    with pytest.raises(UserError, match="holds something other than a study"):
        opened(tmp_path / "other", **PLAIN)


def test_a_step_belongs_to_one_process_at_a_time_and_that_of_a_dead_one_is_taken_over(tmp_path, capsys):
    step = tmp_path / "step"
    with claimed(step) as first, claimed(step) as second:
        assert (first, second) == (True, False)
    assert not (step / CLAIM).exists()
    gone = subprocess.run([sys.executable, "-c", "import os; print(os.getpid())"], capture_output=True, text=True)
    own = asdict(this_process())
    dead = own | {"process": int(gone.stdout)}
    reused = own | {"process_start": "another"}
    for owner in (dead, reused):  # a number may belong to a later process
        (step / CLAIM).write_text(json.dumps(owner))
        with claimed(step) as free:
            assert free
        assert f"step: took over from process {owner['process']} of " in capsys.readouterr().err
    (step / CLAIM).write_text(json.dumps(dead | {"host": "another"}))
    with claimed(step) as free:
        assert not free
    assert json.loads((step / CLAIM).read_text())["host"] == "another"


@pytest.mark.slow
def test_two_processes_share_the_steps_of_a_study(tmp_path):
    """Started at the same time; none is done twice, and both end when all are done."""
    config = config_file(tmp_path / "plain.py", **PLAIN | {"seeds": tuple(range(6))})
    out = tmp_path / "study"
    command = [sys.executable, "-m", "sarwmix_jax", "study", f"--config={config}", f"--workdir={out}"]
    both = [subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True) for _ in range(2)]
    texts = [process.communicate(timeout=300)[1] for process in both]
    assert [process.returncode for process in both] == [0, 0], texts
    ran = [line.split(": ")[1].split(";")[0] for text in texts for line in text.splitlines() if line[:5] == "step "]
    assert sorted(ran) == sorted(["scenes", *(f"baseline/seed{seed}" for seed in range(6))])


def test_termination_gives_the_claim_back_and_has_its_exit_code(tmp_path, monkeypatch):
    def terminated(*_):
        os.kill(os.getpid(), 15)

    folder = opened(tmp_path / "study", **PLAIN)
    monkeypatch.setattr(run, "do_step", terminated)
    assert run_steps(folder, folder.steps) == STOPPED
    assert not list(tmp_path.rglob(CLAIM)) and not folder.results()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"measured": ("probes",)}, "--config.measured names 'probes'; known are finetuned"),
        ({"fractions": (0.5, 1.5)}, "--config.fractions has 1.5"),
        ({"variants": ("a", "a weighting.mode=off")}, "--config.variants names a twice"),
        ({"variants": ("random",)}, "each with its own name"),
        ({"variants": ("../up",)}, "needs a name of letters"),
        ({"variants": (), "random": False}, "a study needs one or more initialisations"),
        ({"scenes": (8, 8)}, "needs three numbers above 0"),
        ({"seeds": ()}, "one or more seeds"),
        ({"minutes": ("pretrain long",)}, "--config.minutes has 'pretrain long'"),
    ],
)
def test_settings_that_do_not_fit_are_refused(changes, message):
    with pytest.raises(UserError, match=message):
        study(**PLAIN | changes)


def test_configs_of_other_kinds_are_refused(tmp_path, capsys):
    assert main(["study", "--config=demo", f"--workdir={tmp_path}"]) == MISTAKE
    assert "not that of a study" in capsys.readouterr().err
    assert main(["pretrain", "--config=study_labels", f"--workdir={tmp_path}"]) == MISTAKE
    assert "run it with sarwmix study" in capsys.readouterr().err
