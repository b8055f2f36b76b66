"""Labelled tasks in the training loop."""

import json
import signal

import jax
import numpy as np
import pytest

from sarwmix_jax.checkpoints.integrity import complete_steps, named
from sarwmix_jax.checkpoints.loading import load_parameters
from sarwmix_jax.checkpoints.store import Checkpoints
from sarwmix_jax.models.state import flatten_names
from sarwmix_jax.training import loop
from sarwmix_jax.training.history import read_log, training_curve
from sarwmix_jax.training.loop import train
from sarwmix_jax.training.run import first_state, set_up
from tests.training.conftest import CLASSES, labelled_scene
from tests.training.test_loop import losses, same

RANDOM = {"model__drop_path": 0.2, "optimizer__stop_after_epochs": 8.0, "checkpoint__keep": 1}
"""With flips, which are on unless switched off."""


pytestmark = pytest.mark.slow


@pytest.fixture
def whole_and_parts(finetuning_settings, tmp_path, monkeypatch):
    """Runs to the end, and again with a signal after some step and a second start; gives the progress, held equal."""
    take_step = loop.take_step

    def run(changes, signal_after):
        def interrupted(run, progress, *more):
            take_step(run, progress, *more)
            if progress.step == signal_after:
                signal.raise_signal(signal.SIGTERM)

        settings = finetuning_settings(**changes)
        whole = train(settings, tmp_path / "whole")
        with monkeypatch.context() as patch:
            patch.setattr(loop, "take_step", interrupted)
            first = train(settings, tmp_path / "parts")
        assert (first.step, first.interrupted) == (signal_after, "SIGTERM")
        parts = train(settings, tmp_path / "parts")
        assert losses(tmp_path / "whole") == losses(tmp_path / "parts")
        same(whole.state, parts.state)  # parameters, moments of the optimiser, step
        assert (whole.step, whole.best, whole.stale) == (parts.step, parts.best, parts.stale)
        stored = [load_parameters(tmp_path / name).description["progress"] for name in ("whole", "parts")]
        assert stored[0] == stored[1]
        return whole

    return run


def test_a_multilabel_run_learns_goes_on_bit_for_bit_and_keeps_what_each_rule_selects(whole_and_parts, tmp_path):
    changes = RANDOM | {"batch__micro_batch": 4, "checkpoint__every_epochs": 8.0}
    whole = whole_and_parts(changes, signal_after=7)  # in the middle of the fourth epoch
    assert whole.step == 16
    curve = losses(tmp_path / "whole")
    assert 1.2 < curve[1] < 1.8
    assert np.mean([curve[step] for step in (14, 15, 16)]) < 0.25 * curve[1]
    assert not (tmp_path / "whole" / "samples.json").exists()
    assert set(whole.best) == {"weighted", "sum", "most_best", "lowest_loss"}
    steps = {best["step"] for best in whole.best.values()}
    assert complete_steps(tmp_path / "whole" / "checkpoints") == sorted(steps | {16})
    validations = {entry["step"]: entry for entry in read_log(tmp_path / "whole") if entry["event"] == "validation"}
    for rule, best in whole.best.items():
        assert best["metrics"]["loss"] == validations[best["step"]]["loss"]
        assert max(step for step, entry in validations.items() if rule in entry["best"]) == best["step"]
    assert whole.best["lowest_loss"]["metrics"]["loss"] == min(entry["loss"] for entry in validations.values())
    best = load_parameters(tmp_path / "whole", whole.best["weighted"]["step"])
    assert (best.kind, best.description["class_names"]) == ("classifier", list(CLASSES))


@pytest.mark.smoke
def test_a_flood_run_learns_and_goes_on_bit_for_bit(whole_and_parts, pairs, tmp_path):
    changes = RANDOM | {"task": "flood", "data__records": (str(pairs),), "batch__micro_batch": 4}
    whole = whole_and_parts(changes, signal_after=3)
    curve = losses(tmp_path / "whole")
    assert 0.5 < curve[1] < 1.0
    assert curve[8] < 0.8 * curve[1]
    assert set(whole.best) == {"accuracy", "lowest_loss"}


PART = {
    "head__frozen_encoder": True,
    "head__class_weights": "balanced",
    "data__label_fraction": 0.5,
    "data__fraction_seed": 3,
    "validation__split": "held_out",
    "validation__share": 0.2,
}
"""2 of 10 acquisitions are held out, half of the 16 scenes of the others train: one step an epoch."""


def test_a_frozen_encoder_on_a_balanced_half_of_the_labels_with_acquisitions_held_out(finetuning_settings, tmp_path):
    stop = {"optimizer__stop_after_steps": 4}
    settings = finetuning_settings(**PART, **stop)
    run = set_up(settings)
    before = flatten_names(jax.device_get(first_state(run, Checkpoints(tmp_path / "none"))[0].params))
    after = named(train(settings, tmp_path / "run").state.params)
    assert before.keys() == after.keys()
    changed = {name for name, leaf in before.items() if not np.array_equal(leaf, after[name])}
    assert changed == {"head/kernel", "head/bias"}

    (chosen,) = json.loads((tmp_path / "run" / "samples.json").read_text()).values()
    training, held_out = ([int(name.removeprefix("scene_")) for name in chosen[part]] for part in chosen)
    assert list(chosen) == ["training", "held_out"]
    assert (len(training), len(held_out)) == (8, 4)
    assert training == sorted(training) and held_out == sorted(held_out)
    acquisitions = [{number // 2 for number in part} for part in (training, held_out)]
    assert len(acquisitions[1]) == 2 and acquisitions[0].isdisjoint(acquisitions[1])
    assert sorted(training) == sorted(int(run.sources[0].name_of(n).removeprefix("scene_")) for n in range(8))

    counts = [sum(name in labelled_scene(number).labels for number in training) for name in CLASSES]
    np.testing.assert_allclose(run.task.class_weights, [(8 - count) / count for count in counts])

    # written once; replaced only for other settings
    (tmp_path / "run" / "samples.json").write_text('["kept"]')
    train(settings, tmp_path / "run")
    assert (tmp_path / "run" / "samples.json").read_text() == '["kept"]'
    train(finetuning_settings(**PART | {"data__fraction_seed": 4}, **stop), tmp_path / "run", override=True)
    (other,) = json.loads((tmp_path / "run" / "samples.json").read_text()).values()
    assert other["held_out"] == chosen["held_out"] and other["training"] != chosen["training"]


def test_a_run_without_progress_runs_out_of_patience(finetuning_settings, tmp_path, capsys):
    still = {"optimizer__base_lr": 1e-30, "optimizer__min_lr": 0.0, "optimizer__warmup_epochs": 0.0}
    settings = finetuning_settings(**PART, **still, validation__patience=2, optimizer__stop_after_epochs=8.0)
    progress = train(settings, tmp_path)
    # the first validation is the best, two more bring nothing better
    assert (progress.step, progress.stale, progress.interrupted) == (3, 2, None)
    assert {best["step"] for best in progress.best.values()} == {1}
    assert complete_steps(tmp_path / "checkpoints")[-1] == 3
    assert "step 3: 2 validations without improvement; the run ends here" in capsys.readouterr().err
    assert train(settings, tmp_path).first_loss is None
    assert len(training_curve(read_log(tmp_path))) == 3
