"""A run gives the same results with every feed."""

import json

import numpy as np
import pytest

from sarwmix_jax.data.records import Contract, Record
from sarwmix_jax.errors import UserError
from sarwmix_jax.preparation.landscapes import make_scene
from sarwmix_jax.training import dry_run, resources
from sarwmix_jax.training.device_cache import ResidentFeed, bytes_per_device
from sarwmix_jax.training.dry_run import memory_text, step_memory
from sarwmix_jax.training.history import read_log
from sarwmix_jax.training.logs import RunLog
from sarwmix_jax.training.loop import train
from sarwmix_jax.training.run import LoaderFeed, abstract_state, set_up
from tests.record_sets import write_records

from .test_loop import losses, same

STOCHASTIC = {
    "batch__micro_batch": 4,
    "batch__mix_group": 2,
    "model__drop_path": 0.3,
    "model__dropout": 0.1,
    "validation__split": None,
}
RECORD_BYTES = 2 * 64 * 64 * 2


def quiet(tmp_path):
    return RunLog(tmp_path, 0, quiet=True)


@pytest.mark.slow
def test_two_steps_of_the_loader_and_two_of_records_held_equal_four_of_the_loader(run_settings, tmp_path):
    unvalidated = {"validation__split": None}
    loaded = train(run_settings(**unvalidated), tmp_path / "loaded")
    train(run_settings(**unvalidated, optimizer__stop_after_steps=2), tmp_path / "parts")
    parts = train(run_settings(**unvalidated, data__resident=True), tmp_path / "parts")
    assert losses(tmp_path / "loaded") == losses(tmp_path / "parts") and len(losses(tmp_path / "parts")) == 4
    same(loaded.state, parts.state)
    (resident,) = [entry for entry in read_log(tmp_path / "parts") if entry["event"] == "resident"]
    assert (resident["records"], resident["bytes_per_device"]) == (20, 20 * RECORD_BYTES)


@pytest.mark.slow
def test_the_feed_may_change_at_every_restart(run_settings, tmp_path):
    held = train(run_settings(**STOCHASTIC, data__resident=True), tmp_path / "held")
    for stop in (1, 2, 3, 4):
        settings = run_settings(**STOCHASTIC, data__resident=stop % 2 == 1, optimizer__stop_after_steps=stop)
        parts = train(settings, tmp_path / "parts")
    assert losses(tmp_path / "held") == losses(tmp_path / "parts") and len(losses(tmp_path / "parts")) == 4
    same(held.state, parts.state)


def write_masked(folder, count, seed):
    """Scenes with a fifth of their pixels invalid."""
    rng = np.random.default_rng(seed)
    scenes = [
        Record(make_scene(rng, 64).image_db, f"{folder.name}_{number}", valid_pixels=rng.random((64, 64)) < 0.8)
        for number in range(count)
    ]
    contract = Contract(folder.name, "1.0.0", "test", "sigma0", 64, 64, has_valid_pixels=True)
    write_records(folder, contract, {"train": scenes})


@pytest.mark.slow
def test_weighted_sets_with_masks_have_the_losses_of_the_loader(run_settings, tmp_path):
    for number in (1, 2):
        write_masked(tmp_path / f"set{number}", 9 + number, number)
    mixed = {
        "data__records": (str(tmp_path / "set1"), str(tmp_path / "set2")),
        "data__mix_weights": (0.7, 0.3),
        "data__nodata_aware": True,
        "data__statistics": "bigearthnet_v2",
        "validation__split": None,
        "optimizer__stop_after_steps": 3,
    }
    for name in ("loaded", "resident"):
        train(run_settings(**mixed, data__resident=name == "resident"), tmp_path / name)
    assert losses(tmp_path / "loaded") == losses(tmp_path / "resident") and len(losses(tmp_path / "loaded")) == 3


def test_both_feeds_give_the_same_batches_to_the_same_program(run_settings, tmp_path):
    runs = [set_up(run_settings(data__resident=resident, validation__split=None)) for resident in (False, True)]
    feeds = [LoaderFeed(runs[0], 1), ResidentFeed(runs[1], 1, quiet(tmp_path))]
    for _ in range(4):
        loaded, held = (next(feed) for feed in feeds)
        np.testing.assert_array_equal(loaded.records, held.records)
        np.testing.assert_array_equal(loaded.arrays["image"], held.arrays["image"])
        assert loaded.arrays["image"].sharding == held.arrays["image"].sharding
    state, rate = abstract_state(runs[0]), np.float32(0)
    programs = [
        run.train_step.lower(state, batch.arrays, rate).as_text()
        for run, batch in zip(runs, (loaded, held), strict=True)
    ]
    assert programs[0] == programs[1]
    for feed in feeds:
        feed.close()


@pytest.mark.slow
def test_a_loss_that_is_not_finite_names_the_records_held(run_settings, tmp_path):
    settings = run_settings(optimizer__base_lr=1e30, data__resident=True, validation__split=None)
    with pytest.raises(UserError, match=r"not finite at step \d; .* records of the batch: synthetic_train_") as caught:
        train(settings, tmp_path)
    step = int(str(caught.value).split("at step ")[1][0])
    report = json.loads((tmp_path / f"not_finite_step_{step}_process_0.json").read_text())
    batches = LoaderFeed(set_up(run_settings()), step)
    assert report["records"] == [f"synthetic_train_{number:06d}" for number in next(batches).records]
    batches.close()


@pytest.mark.slow
def test_a_validation_loss_that_is_not_finite_is_one_line(run_settings, tmp_path):
    line = r"the validation loss is not finite at step 2; last good checkpoint: none; lower --config.optimizer.base_lr"
    with pytest.raises(UserError, match=line):
        train(run_settings(optimizer__base_lr=1e30), tmp_path)
    assert not list(tmp_path.glob("not_finite*"))


@pytest.mark.slow
def test_the_plan_counts_the_records_held_and_refuses_what_does_not_fit(run_settings, monkeypatch):
    run = set_up(run_settings(data__resident=True, validation__split=None))
    state = abstract_state(run)
    needed, held = step_memory(run, state), 20 * RECORD_BYTES
    assert bytes_per_device(run) == held
    assert f"for a training step and {held / 2**30:.2f} for its share of the training records, " in memory_text(
        run, state
    )
    monkeypatch.setattr(dry_run, "step_memory", lambda *_: needed)  # not compiled again
    monkeypatch.setattr(resources, "device_memory", lambda: needed + held)
    memory_text(run, state)
    monkeypatch.setattr(resources, "device_memory", lambda: needed + held - 1)
    remedy = r"share of the training records 0.0, .*; give --config.data.resident=false, use more"
    with pytest.raises(UserError, match=remedy):
        memory_text(run, state)
    assert "records" not in memory_text(set_up(run_settings()), state)


def test_a_run_whose_records_do_not_fit_beside_the_state_begins_nothing(run_settings, tmp_path, monkeypatch):
    settings = run_settings(data__resident=True)
    state = resources.tree_bytes(abstract_state(set_up(settings)))
    monkeypatch.setattr(resources, "device_memory", lambda: state + 20 * RECORD_BYTES - 1)
    remedy = r"records need 0.0 GiB on each of 1 devices .*; give --config.data.resident=false"
    with pytest.raises(UserError, match=remedy):
        train(settings, tmp_path / "run")
    assert not (tmp_path / "run").exists()
    monkeypatch.setattr(resources, "device_memory", lambda: state + 20 * RECORD_BYTES)
    resources.check_records_fit(20 * RECORD_BYTES, state, 1)
