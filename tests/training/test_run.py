import jax
import pytest

from sarwmix_jax.checkpoints.restore import Previous, changes
from sarwmix_jax.errors import UserError
from sarwmix_jax.preparation.synthetic import write_synthetic_records
from sarwmix_jax.settings.config import as_json, cut_batch, pretraining_config, resolve
from sarwmix_jax.settings.sections import MixedBatchSettings, PretrainingSettings
from sarwmix_jax.training.dry_run import plan_lines
from sarwmix_jax.training.history import read_log
from sarwmix_jax.training.loop import train
from sarwmix_jax.training.run import set_up


def config(**changes):
    result = pretraining_config()
    result.data.records = ("records",)
    result.update_from_flattened_dict({name.replace("__", "."): value for name, value in changes.items()})
    return result


def resolved(**changes):
    return resolve(config(**changes), PretrainingSettings)


def test_defaults_are_the_published_base():
    model = resolved().model
    assert (model.embed_dim, model.depths, model.window_sides) == (128, (2, 2, 18, 2), (8, 8, 8, 4))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"model__image_size": 130}, "image side 130 is not a multiple of 32; use 128 or 160"),
        ({"model__windows": (8, 8, 8, 3)}, "window 3 of stage 4 does not divide"),
        ({"model__dtype": "float16"}, "model.dtype is 'float16'"),
        ({"weighting__mode": "both"}, "weighting.mode is 'both'"),
        ({"batch__global_batch": 100, "batch__micro_batch": 16}, "use 96 or 112"),
        ({"batch__micro_batch": 16, "batch__mix_group": 5}, "use 15 or 20"),
        ({"optimizer__stop_after_epochs": 2000.0}, "beyond --config.optimizer.schedule_epochs 1024"),
        ({"optimizer__warmup_epochs": 1024.0}, "shorten the warm-up"),
        ({"data__statistics": "bigearthnet"}, "use one of bigearthnet_v1, bigearthnet_v2"),
        ({"data__records": ()}, "data.records is not set"),
        ({"data__mix_weights": (1.0,)}, "1 numbers for 1 record sets; unset it, --config.data.mix_weights="),
        ({"data__records": ("a", "b/../a/")}, "data.records names b/../a/ twice; name each set once"),
        ({"data__records": ("a", "b")}, "0 numbers for 2 record sets; give one for each"),
        ({"mask__ratio": 0.01}, "mask none or all of the 16 cells"),
        ({"mask__ratio": 0.5, "mask__range_mask_ratio": 0.5}, "mask none or all"),
        ({"optimizer__base_lr": float("nan")}, "optimizer.base_lr is nan; give a number above 0"),
        ({"optimizer__clip_grad": 0.0}, "optimizer.clip_grad is 0.0"),
        ({"augment__vertical_flip": 1.5}, "give a number from 0 to 1"),
        ({"log__every_steps": 0}, "log.every_steps is 0"),
    ],
)
def test_wrong_values_are_refused_in_one_line(change, message):
    with pytest.raises(UserError, match=message.replace(".", r"\.")) as caught:
        resolved(**change)
    assert "\n" not in str(caught.value)
    assert "--config." in str(caught.value)


def test_batch_is_cut_over_devices():
    settings = resolved(batch__global_batch=64, batch__micro_batch=4)
    assert cut_batch(settings.batch, 1) == MixedBatchSettings(64, micro_batch=4, mix_group=4)
    assert cut_batch(settings.batch, 8) == MixedBatchSettings(64, micro_batch=4, mix_group=4)


def test_mix_group_stays_when_devices_change():
    settings = resolved(batch__global_batch=64)
    assert cut_batch(settings.batch, 8).mix_group == 8
    assert cut_batch(settings.batch, 1, frozen_mix_group=8) == MixedBatchSettings(64, 64, 8)
    with pytest.raises(UserError, match="mix group of 8 images does not divide the device's micro-batch of 4"):
        cut_batch(settings.batch, 16, frozen_mix_group=8)


@pytest.mark.parametrize(
    ("micro", "odd", "message"),
    [(1, "refuse", "only image"), (1, "faithful", "only image"), (3, "refuse", "middle image"), (3, "faithful", None)],
)
def test_images_that_would_mix_with_themselves_are_refused(micro, odd, message):
    batch = MixedBatchSettings(6, micro, odd_group=odd)
    if message is None:
        assert cut_batch(batch, 1).mix_group == 3
        return
    with pytest.raises(UserError, match=rf"in a mix group of {micro} its {message} would mix with itself"):
        cut_batch(batch, 1)


@pytest.mark.parametrize(
    ("batch", "devices", "message"),
    [((64, None), 3, "not a multiple of 3 devices; use 63 or 66"), ((64, 16), 8, "use 8"), ((2, None), 4, "use 4")],
)
def test_devices_that_do_not_fit(batch, devices, message):
    settings = resolved(batch__global_batch=batch[0], **({"batch__micro_batch": batch[1]} if batch[1] else {}))
    with pytest.raises(UserError, match=message):
        cut_batch(settings.batch, devices)


def test_a_kernel_that_this_machine_lacks_is_refused_at_the_start(run_settings):
    if jax.default_backend() == "gpu":
        pytest.skip("there is a GPU")
    line = r"^model\.kernel fused needs a GPU and this machine computes on cpu; use --config\.model\.kernel=xla$"
    with pytest.raises(UserError, match=line):
        set_up(run_settings(model__kernel="fused"))


def test_a_run_may_go_on_with_another_kernel():
    old, new = (resolved(model__kernel=kernel) for kernel in ("xla", "fused"))
    assert changes(Previous(1, "pretraining", as_json(old), {}), new) == []


@pytest.mark.slow
def test_validation_where_there_is_any(run_settings, tmp_path, capsys):
    run = set_up(run_settings(validation__split="if_any"))
    assert ([len(source) for source in run.held_out], run.notes) == ([6], ())
    assert "validation:  6 records, validation" in plan_lines(run)
    write_synthetic_records(tmp_path / "one place", train=9, side=64)
    changes = {"data__records": (str(tmp_path / "one place"),), "optimizer__stop_after_steps": 1}
    train(run_settings(validation__split="if_any", **changes), tmp_path / "run")
    assert f"no validation: {tmp_path}/one place has no split 'validation'\n" in capsys.readouterr().err
    assert [entry["event"] for entry in read_log(tmp_path / "run") if entry["event"] == "validation"] == []
    with pytest.raises(UserError, match="no split 'validation' in"):
        set_up(run_settings(validation__split="validation", **changes))
    with pytest.raises(UserError, match=r"9 records are fewer .* such as --config\.batch\.global_batch=8, or more"):
        set_up(run_settings(validation__split="if_any", batch__global_batch=16, **changes))
    both = {"data__records": (run_settings().data.records[0], str(tmp_path / "one place"))}
    statistics = {"data__mix_weights": (1.0, 1.0), "data__statistics": "bigearthnet_v2"}
    assert set_up(run_settings(validation__split="if_any", **both, **statistics)).held_out == ()
