"""An audit finds what differs by one bit, and nothing where nothing does."""

import json
import shutil

import jax
import numpy as np
import pytest

from sarwmix_jax.checkpoints.integrity import complete_steps
from sarwmix_jax.checkpoints.store import Checkpoints
from sarwmix_jax.cli.main import main
from sarwmix_jax.errors import FAILED
from sarwmix_jax.training.audit import TIMES, plan_audit, repeat
from sarwmix_jax.training.history import parts_of_run
from sarwmix_jax.training.logs import FILE_NAME
from sarwmix_jax.training.loop import train
from sarwmix_jax.training.run import abstract_state, set_up
from tests.test_cli import mistake

pytestmark = pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")

LONG = {"optimizer__stop_after_epochs": 4.0, "checkpoint__keep": 3, "log__every_steps": 20}
"""Two steps an epoch: lines of steps 1, 2, 4, 6 and 8, checkpoints of 4, 6 and 8."""


@pytest.fixture(scope="module")
def finished(run_settings, tmp_path_factory):
    """A run of eight steps that is over."""
    workdir = tmp_path_factory.mktemp("audited") / "run"
    train(run_settings(**LONG), workdir)
    assert complete_steps(workdir / "checkpoints") == [4, 6, 8]
    return workdir


@pytest.fixture
def workdir(finished, tmp_path):
    return shutil.copytree(finished, tmp_path / "run")


def edited_log(workdir, edit):
    """Write the log again with each entry as `edit` gives it, without those for which it gives None."""
    path = workdir / FILE_NAME
    entries = [json.loads(line) for line in path.read_text().splitlines()]
    path.write_text("".join(json.dumps(new) + "\n" for entry in entries if (new := edit(dict(entry))) is not None))


def with_flipped_bit(workdir, step, settings, name, bit):
    """Write a checkpoint again, with other checksums, after one bit of the first number of a parameter was flipped."""
    with_old = Checkpoints(workdir / "checkpoints")
    found = with_old.restore(abstract_state(set_up(settings), stored=True)._asdict(), step)
    with_old.close()
    leaves, structure = jax.tree_util.tree_flatten_with_path(found.state["params"])
    changed = []
    for path, leaf in leaves:
        array = np.array(leaf)
        if jax.tree_util.keystr(path, simple=True, separator="/") == name:
            array.reshape(-1).view(np.uint32)[0] ^= 1 << bit
        changed.append(jax.numpy.asarray(array))
    shutil.rmtree(workdir / "checkpoints" / str(step))
    checkpoints = Checkpoints(workdir / "checkpoints")
    state = found.state | {"params": jax.tree.unflatten(structure, changed)}
    checkpoints.save(step, state, found.description)
    checkpoints.close()


def content(folder):
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return {path: (path.read_bytes(), path.stat().st_mtime_ns) for path in files}


@pytest.mark.parametrize(
    ("flags", "first", "last", "lines"),
    [([], 7, 8, 1), pytest.param(["--step=0", "--count=5"], 1, 5, 3, marks=pytest.mark.slow)],
)
def test_an_untouched_run_is_equal_and_stays_untouched(finished, capsys, flags, first, last, lines):
    before = content(finished)
    assert main(["audit", str(finished), *flags]) == 0
    printed = capsys.readouterr().out.splitlines()
    origin = "its initial parameters" if first == 1 else "its checkpoint at step 6"
    assert printed[0] == f"repeating steps {first} to {last} of {finished} from {origin}"
    assert f"{lines} lines of the log (grad_norm, loss, " in printed[1]
    assert "learning_rate" in printed[1] and not any(name in printed[1] for name in TIMES)
    assert " arrays of the checkpoint at step " in printed[1]
    assert printed[2:] == ["equal, bit for bit"]
    assert content(finished) == before


@pytest.mark.slow
def test_a_flipped_bit_in_the_checkpoint_that_is_reached_and_an_altered_rate_are_named(workdir, run_settings, capsys):
    name = "encoder/stages/0/blocks/0/norm1/scale"
    with_flipped_bit(workdir, 8, run_settings(**LONG), name, bit=0)

    def other_rate(entry):
        if (entry["event"], entry.get("step")) == ("train", 8):
            entry["learning_rate"] = float(np.nextafter(entry["learning_rate"], 1))
        return entry

    edited_log(workdir, other_rate)
    assert main(["checkpoints", "verify", str(workdir)]) == 0  # its checksums fit
    capsys.readouterr()
    assert main(["audit", str(workdir)]) == FAILED
    printed = capsys.readouterr()
    differences = printed.out.splitlines()[2:]
    assert len(differences) == 2
    assert differences[0].startswith("step 8: learning_rate is ")
    assert differences[1].startswith(f"checkpoint at step 8: params {name} differs (1 of ")
    assert printed.err.splitlines()[-1] == (
        f"error: {workdir} differs from its repetition: {differences[0]} (2 differences)"
    )


@pytest.mark.slow
def test_a_flipped_bit_in_the_checkpoint_that_is_repeated_from_is_found(workdir, run_settings):
    with_flipped_bit(workdir, 6, run_settings(**LONG), "encoder/stages/0/blocks/0/norm1/scale", bit=4)
    differences = repeat(plan_audit(workdir)).differences
    assert differences and differences[-1].startswith("checkpoint at step 8: params ")


@pytest.mark.slow
def test_a_lost_line_does_not_change_what_the_next_one_is_compared_with(workdir):
    edited_log(workdir, lambda entry: None if (entry["event"], entry.get("step")) == ("train", 6) else entry)
    audit = plan_audit(workdir, 5, 4)
    assert (audit.begin, audit.end, list(audit.lines), audit.checkpoints) == (4, 8, [8], (6, 8))
    outcome = repeat(audit)
    assert (outcome.lines, list(outcome.arrays), outcome.differences) == (1, [6, 8], [])


@pytest.mark.slow
def test_finetuning_is_repeated(finetuning_settings, tmp_path):
    settings = finetuning_settings(head__class_weights="balanced", data__label_fraction=0.9, checkpoint__keep=1)
    train(settings, tmp_path / "run")
    audit = plan_audit(tmp_path / "run", 0)
    assert (audit.begin, audit.end) == (0, 4)
    outcome = repeat(audit)
    assert outcome.differences == [] and outcome.lines == 4 and outcome.arrays.keys() == {4}


def test_a_damaged_checkpoint_and_missing_steps_are_mistakes(workdir, tmp_path, capsys):
    shutil.rmtree(workdir / "checkpoints" / "6" / "checksums")
    assert "checkpoint at step 6 of" in mistake(["audit", str(workdir)], capsys)
    assert "no logged steps after a checkpoint at or before step 8; its checkpoints are at 4, 6, 8" in mistake(
        ["audit", str(workdir), "--step=8"], capsys
    )
    assert "lacks log.jsonl or checkpoints" in mistake(["audit", str(tmp_path / "nothing")], capsys)
    (workdir / FILE_NAME).write_text("")
    assert "no logged steps" in mistake(["audit", str(workdir)], capsys)


def test_other_devices_and_versions_are_stated_first(workdir):
    def elsewhere(entry):
        if entry["event"] == "start":
            entry |= {"devices": ["NVIDIA H100"] * 8, "versions": {"sarwmix_jax": "0.1", "jax": "0.9"}}
        return entry

    edited_log(workdir, elsewhere)
    (note,) = plan_audit(workdir).notes
    assert note.startswith("the run used 8 x NVIDIA H100, sarwmix_jax 0.1, jax 0.9; here are 1 x cpu, ")
    assert note.endswith("bits may differ without any damage")


STATED = {"data": {"threads": 2}, "batch": {"micro_batch": 8}}


def log_of(*starts):
    """Lines of starts at steps, each with the steps it logged and changes of the line about it."""
    for first, last, changes in starts:
        yield {"event": "start", "step": first, "devices": ["cpu"], "settings": STATED} | changes
        yield from ({"event": "train", "step": step, "start": first} for step in range(first + 1, last + 1))


def test_what_a_later_start_did_again_counts_for_it():
    parts = parts_of_run(list(log_of((0, 7, {}), (4, 6, {}), (6, 9, {}))))
    assert [(part.first, part.last) for part in parts] == [(0, 4), (4, 6), (6, 9)]
    assert all(line["start"] == part.first for part in parts for line in part.lines.values())


@pytest.mark.parametrize(
    ("changes", "end"),
    [
        ({}, 8),
        ({"settings": STATED | {"data": {"threads": 4}}}, 8),
        ({"settings": STATED | {"batch": {"micro_batch": 4}}}, 6),
        ({"devices": ["cpu", "cpu"]}, 6),
    ],
)
def test_steps_after_a_restart_are_repeated_if_it_computes_alike(workdir, changes, end):
    starts = log_of((0, 6, {"versions": {}}), (6, 8, {"versions": {}} | changes))
    (workdir / FILE_NAME).write_text("".join(json.dumps(entry) + "\n" for entry in starts))
    audit = plan_audit(workdir, 4, 8)
    assert (audit.begin, audit.end, audit.checkpoints) == (4, end, (6, 8)[: 1 + (end == 8)])
    assert any("after step 6 the run went on with " in note for note in audit.notes) == (end == 6)
