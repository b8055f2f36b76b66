"""Steps whose loss is not finite: stop, skip, or roll back; spikes. Resumed runs equal those that were not stopped."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from sarwmix_jax.checkpoints.integrity import complete_steps
from sarwmix_jax.checkpoints.reading import Reader
from sarwmix_jax.errors import UserError
from sarwmix_jax.training.audit import plan_audit, repeat
from sarwmix_jax.training.device_cache import ResidentFeed
from sarwmix_jax.training.divergence import skipped_before
from sarwmix_jax.training.history import read_log
from sarwmix_jax.training.loop import train
from sarwmix_jax.training.run import LoaderFeed, abstract_state, set_up
from sarwmix_jax.training.throughput import Spikes
from tests.training.test_loop import losses, same

STEPS = 6
LONG = {"validation__split": None, "optimizer__stop_after_epochs": 8.0}


@pytest.fixture
def infinite(run_settings, monkeypatch):
    """Makes the images of some steps infinite, however often they are read."""

    def make(*steps):
        feed = LoaderFeed(set_up(run_settings(**LONG)), 0)
        numbers = [next(feed).records.tolist() for _ in range(max(steps) + 1)]
        feed.close()
        for kind in (LoaderFeed, ResidentFeed):

            def changed(self, following=kind.__next__):
                batch = following(self)
                if batch.records.tolist() not in [numbers[step] for step in steps]:
                    return batch
                fill = {name: jnp.full_like(x, jnp.inf, device=x.sharding) for name, x in batch.arrays.items()}
                return batch._replace(arrays=fill)

            monkeypatch.setattr(kind, "__next__", changed)

    return make


def events(workdir, kind):
    return [entry for entry in read_log(workdir) if entry["event"] == kind]


def diverging(run_settings, how, stop=STEPS, **changes):
    return run_settings(**LONG, optimizer__on_divergence=how, optimizer__stop_after_steps=stop, **changes)


@pytest.mark.parametrize(
    ("how", "stops"),
    [
        pytest.param("roll_back", (4,), marks=pytest.mark.slow),
        pytest.param("roll_back", (1, 2, 3, 5), marks=pytest.mark.slow),
        pytest.param("skip", (1, 3, 4, 5), marks=pytest.mark.slow),
    ],
)
def test_a_run_goes_on_without_the_step_and_resumes_bit_for_bit(how, stops, infinite, run_settings, tmp_path, capsys):
    infinite(3)
    whole = train(diverging(run_settings, how), tmp_path / "whole")
    assert (whole.step, int(whole.state.step), whole.skipped) == (STEPS, STEPS, (3,))
    (skipped,) = events(tmp_path / "whole", "skipped")
    assert (skipped["step"], len(skipped["records"]), skipped["metrics"]["loss"]) == (3, 8, "nan")
    what = "rolled back to step 2, to leave it out" if how == "roll_back" else "its update is left out"
    assert f"step 3: the loss is not finite; {what} (records in the log: synthetic_train_" in capsys.readouterr().err
    assert sorted(losses(tmp_path / "whole")) == [1, 2, 3, 5, 6]
    for stop in (*stops, STEPS):
        parts = train(diverging(run_settings, how, stop), tmp_path / "parts")
    assert losses(tmp_path / "parts") == losses(tmp_path / "whole")
    assert parts.skipped == (3,)
    same(parts.state, whole.state)
    audited = repeat(plan_audit(tmp_path / "whole", 0, STEPS))
    assert (audited.lines, list(audited.arrays), audited.differences) == (5, [4, 6], [])


def params_at(workdir, step):
    return Reader(workdir / "checkpoints").parameters(step)["params"]


@pytest.mark.slow
def test_all_ways_to_leave_a_step_out_are_the_same(infinite, run_settings, tmp_path):
    """Whenever it is noticed, from whichever checkpoint, records held or read; and the step itself changes nothing."""
    infinite(1)
    every_step = {"checkpoint__every_epochs": 0.5, "checkpoint__keep": 9}
    rare = {"log__every_steps": 5, "checkpoint__every_epochs": 8.0}
    runs = {
        "skipped": ("skip", every_step),
        "skipped_late": ("skip", {"log__every_steps": 5}),
        "from_checkpoints": ("roll_back", every_step),
        "from_scratch": ("roll_back", rare),
        "held": ("roll_back", rare | {"data__resident": True}),
    }
    states = {
        name: train(diverging(run_settings, how, **changes), tmp_path / name).state
        for name, (how, changes) in runs.items()
    }
    assert events(tmp_path / "from_scratch", "skipped")[0]["how"] == "rolled back to step 0, to leave it out"
    assert complete_steps(tmp_path / "skipped" / "checkpoints") == [1, 2, 3, 4, 5, 6]
    same(params_at(tmp_path / "skipped", 1), params_at(tmp_path / "skipped", 2))
    same(states["skipped"], states["skipped_late"])
    for name in ("from_scratch", "held"):
        same(states["from_checkpoints"], states[name])
    one, other = (list(losses(tmp_path / name).values()) for name in ("skipped", "from_checkpoints"))
    np.testing.assert_allclose(one, other, rtol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("how", ["roll_back", "skip"])
def test_too_many_steps_in_a_row_stop_the_run(how, infinite, run_settings, tmp_path):
    infinite(0, 2, 3, 4)
    line = (
        r"not finite at step 4, after 2 skipped steps; last good checkpoint: step \d; records of the batch: synthetic"
    )
    with pytest.raises(UserError, match=line):
        train(diverging(run_settings, how, optimizer__max_skipped=2), tmp_path)
    assert [entry["step"] for entry in events(tmp_path, "skipped")] == [0, 2, 3]
    assert len(events(tmp_path, "not_finite")) == 1


@pytest.mark.slow
def test_only_skip_changes_the_compiled_program(run_settings):
    def lowered(how):
        run = set_up(diverging(run_settings, how))
        batch = {"image": jax.ShapeDtypeStruct((8, 2, 64, 64), np.float16)}
        return run.train_step.lower(abstract_state(run), batch, np.float32(0)).as_text()

    stop, skip, roll_back = map(lowered, ("stop", "skip", "roll_back"))
    assert stop == roll_back != skip
    assert "is_finite" not in stop and "is_finite" in skip


def test_steps_in_a_row():
    assert [skipped_before((0, 1, 4, 5, 6), step) for step in (0, 2, 3, 4, 7)] == [0, 2, 0, 0, 3]


def found(losses, window, factor):
    spikes = Spikes(window, factor)
    return [spike for step, loss in enumerate(losses) if (spike := spikes.add(step, loss, np.array([step])))]


def test_spikes_lie_above_the_window_by_the_factor():
    calm = [1.0, 3.0] * 5  # mean 2, standard deviation 1
    assert found([*calm, 4.99], 10, 3.0) == []
    (spike,) = found([*calm, 5.01, 2.0], 10, 3.0)
    assert (spike.step, spike.loss, spike.mean, spike.records.tolist()) == (10, 5.01, 2.0, [10])
    assert math.isclose(spike.deviations, 3.01)
    assert found([*calm, -50.0], 10, 3.0) == []
    assert found([*calm[:9], 50.0], 10, 3.0) == []  # the window is not full
    assert found([*calm, 50.0], 0, 3.0) == []
    assert [spike.step for spike in found([2.0] * 10 + [2.05, 2.07], 10, 3.0)] == [11]  # deviation of 1 % at least
    assert [spike.step for spike in found([*calm, 50.0, 50.0], 10, 3.0)] == [10]  # then it is part of the window


@pytest.mark.slow
def test_a_spike_is_logged_with_its_records(run_settings, tmp_path, capsys):
    """With a window of one step and no distance, every rise of the loss is one."""
    settings = run_settings(**LONG, log__spike_window=1, log__spike_factor=1e-9, optimizer__stop_after_steps=STEPS)
    train(settings, tmp_path)
    by_step = losses(tmp_path)
    rises = [step - 1 for step in range(2, STEPS + 1) if by_step[step] > by_step[step - 1]]
    logged = events(tmp_path, "spike")
    assert [entry["step"] for entry in logged] == rises != []
    first = logged[0]
    assert first["loss"] == by_step[first["step"] + 1] > first["mean"] == by_step[first["step"]]
    assert len(first["records"]) == 8 and first["records"][0].startswith("synthetic_train_")
    assert f"step {rises[0]}: loss {first['loss']:.4f} is " in capsys.readouterr().err
