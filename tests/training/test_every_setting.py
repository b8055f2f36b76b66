"""Every setting of every config changes something: one alternative value and one observable for each."""

from pathlib import Path

import pytest
from ml_collections import config_dict

from sarwmix_jax.preparation.synthetic import write_synthetic_records
from sarwmix_jax.settings.config import pretraining_config, resolve
from sarwmix_jax.settings.declarations import setting_types
from sarwmix_jax.settings.recipes import load_config
from sarwmix_jax.settings.sections import PretrainingSettings
from tests.training.conftest import TINY_RUN
from tests.training.observables import (
    Place,
    adam,
    cut,
    division,
    get,
    kept,
    limit,
    numbers,
    probed,
    program,
    reading,
    reduced,
    schedule,
    sources,
    spikes,
    start,
    traced,
    tracked,
)

CONFIGS = [p for p in sorted((Path(__file__).parents[2] / "configs").glob("*.py")) if not p.stem.startswith("finetune")]

TABLE = {
    "seed": ((1, 2), reading),
    "model.bands": ((("VV", "VH"), ("VH",)), sources),
    "init_from": (("nowhere", "elsewhere"), start),
    "model.image_size": ((96, 128), numbers),
    "model.embed_dim": ((16, 24), numbers),
    "model.depths": (((1, 2, 1, 1), (1, 1, 2, 1)), numbers),
    "model.num_heads": (((1, 2, 1, 1), (2, 2, 2, 2)), numbers),
    "model.windows": (((4, 4, 4, 2), (8, 4, 4, 2)), numbers),
    "model.mlp_ratio": ((2, 3), numbers),
    "model.decoder_dim": ((16, 24), numbers),
    "model.decoder_depth": ((2, 3), numbers),
    "model.decoder_heads": ((2, 4), numbers),
    "model.drop_path": ((0.5, 0.4), numbers),
    "model.dropout": ((0.1, 0.2), numbers),
    "model.dtype": (("bfloat16", "float32"), numbers),
    "model.recompute": (("block", "none"), program),
    "model.scan": ((True, False), program),
    "model.attention": (("plain", "auto"), program),
    "model.decoder": (("full", "auto"), program),
    "model.kernel": (("fused", "xla"), traced),
    "model.kernels": ((("xla", "xla", "xla", "xla", "xla", "fused"), ("fused",) * 6), traced),
    "mask.ratio": ((0.25, 0.75), numbers),
    "mask.range_mask_ratio": ((0.4, 0.3), numbers),
    "weighting.mode": (("shared_power", "off"), numbers),
    "weighting.power_of": (("standardised", "backscatter"), numbers),
    "weighting.granularity": (("token", "pixel"), numbers),
    "weighting.exp_scale": ((0.5, 2.0), numbers),
    "loss.norm_pix": ((False, True), numbers),
    "data.records": ((("nowhere",), ("elsewhere",)), sources),
    "data.mix_weights": (((0.5, 0.5), (0.2, 0.8)), reading),
    "data.split": (("train[:50%]", "validation"), sources),
    "validation.split": (("validation", "train"), sources),
    "data.statistics": (("bigearthnet_v1", "bigearthnet_v2"), sources),
    "data.quantity": (("gamma0", "beta0"), sources),
    "data.nodata_aware": ((True, False), sources),
    "data.threads": ((4, 3), reading),
    "data.workers": ((1, 2), reading),
    "data.prefetch": ((6, 5), reading),
    "data.resident": ((True, False), reading),
    "probe.records": (("nowhere", "elsewhere"), probed),
    "probe.task": (("single_label", "multilabel"), probed),
    "probe.train": (("train[:50%]", "validation"), probed),
    "probe.split": (("train", "validation"), probed),
    "probe.every_epochs": ((0.5, 3.0), schedule),
    "augment.horizontal_flip": ((0.0, 1.0), numbers),
    "augment.vertical_flip": ((0.0, 1.0), numbers),
    "batch.global_batch": ((16, 32), cut),
    "batch.micro_batch": ((2, 1), cut),
    "batch.mix_group": ((2, 4), cut),
    "batch.odd_group": (("faithful", "refuse"), cut),
    "batch.reduce_dtype": (("bfloat16", "float32"), reduced),
    "optimizer.base_lr": ((1e-3, 2e-3), schedule),
    "optimizer.min_lr": ((1e-6, 1e-5), schedule),
    "optimizer.beta1": ((0.8, 0.7), adam),
    "optimizer.beta2": ((0.999, 0.99), adam),
    "optimizer.eps": ((1e-3, 1e-2), adam),
    "optimizer.weight_decay": ((0.1, 0.2), adam),
    "optimizer.clip_grad": ((0.01, 0.02), adam),
    "optimizer.warmup_epochs": ((1.0, 2.0), schedule),
    "optimizer.schedule_epochs": ((9.0, 10.0), schedule),
    "optimizer.stop_after_epochs": ((3.0, 4.0), schedule),
    "optimizer.stop_after_steps": ((7, 8), schedule),
    "optimizer.on_divergence": (("skip", "stop"), program),
    "optimizer.max_skipped": ((3, 4), limit),
    "optimizer.shard_state": ((True, False), division),
    "checkpoint.every_epochs": ((0.5, 3.0), schedule),
    "checkpoint.keep": ((1, 3), kept),
    "checkpoint.powers_of_two": ((True, False), schedule),
    "checkpoint.at_epochs": (((1.5,), (2.5,)), schedule),
    "checkpoint.best": ((False, True), kept),
    "log.every_steps": ((7, 5), schedule),
    "log.spike_window": ((50, 0), spikes),
    "log.spike_factor": ((3.0, 9.0), spikes),
    "log.trackers": ((("tensorboard",), ()), tracked),
    "validation.every_epochs": ((0.5, 3.0), schedule),
}
"""Alternative values and the observable that must differ."""
DEEP_HEADS = {"model.embed_dim": 16, "model.num_heads": (1, 2, 4, 8), "model.decoder_dim": 16}
"""Heads that the kernels support."""
CONTEXT = {
    "model.image_size": {"model.windows": (8, 4, 2, 1)},  # windows that fit both
    "model.kernel": DEEP_HEADS,
    "model.kernels": DEEP_HEADS,
    "model.scan": {"model.scan": False, "model.depths": (1, 1, 3, 1)},  # None is one of both, by the device
    "batch.odd_group": {"batch.global_batch": 6, "batch.micro_batch": 3},
    "batch.mix_group": {"batch.global_batch": 32},
    "batch.reduce_dtype": {"batch.micro_batch": 2, "model.decoder_dim": 64},  # two devices, a large kernel
    "optimizer.shard_state": {"model.decoder_dim": 64},  # a large kernel
    "optimizer.max_skipped": {"optimizer.on_divergence": "skip"},
    "checkpoint.keep": {"checkpoint.best": False},
    "checkpoint.best": {
        "checkpoint.keep": 1,
        "checkpoint.every_epochs": 5.0,
        "validation.every_epochs": 0.5,
        "optimizer.base_lr": 3.0,  # so high that the loss rises at first: the best comes before the last
        "optimizer.stop_after_steps": 8,
    },
}
"""What else a setting needs to show."""

SLOW = (numbers, program, traced, reduced, kept, start, probed)
"""Observables that compile."""


def config_arguments():
    for path in (path for path in CONFIGS if not path.stem.startswith("study")):
        sizes = ("base", "large", "huge") if path.stem.startswith("pretrain") else ("",)
        yield from (f"{path}:{size}" if size else str(path) for size in sizes)


def test_the_table_is_complete():
    assert sorted(TABLE) == sorted(setting_types(PretrainingSettings))


@pytest.mark.parametrize("config", config_arguments())
def test_every_config_has_all_settings_and_the_table_another_value(config):
    loaded = load_config(config)
    leaves = config_dict.FrozenConfigDict(loaded)
    for name in setting_types(PretrainingSettings):
        assert any(value != get(leaves, name) for value in TABLE[name][0]), name


def test_no_group_is_left_out():
    assert {name.split(".")[0] for name in TABLE} == set(PretrainingSettings.__dataclass_fields__)


@pytest.fixture(scope="module")
def two_record_sets(tmp_path_factory):
    folder = tmp_path_factory.mktemp("data")
    for number in (1, 2):
        write_synthetic_records(folder / f"records{number}", train=40, validation=8, side=64, seed=number)
    return folder


def settings_with(records, **changes):
    config = pretraining_config()
    config.data.records = (str(records / "records1"),)
    config.update_from_flattened_dict(TINY_RUN | {"optimizer.schedule_epochs": 8.0, "optimizer.stop_after_epochs": 5.0})
    config.update_from_flattened_dict(changes)
    return resolve(config, PretrainingSettings)


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=pytest.mark.slow if look in SLOW else []) for name, (_, look) in TABLE.items()]
)
def test_setting_changes_something(name, two_record_sets, tmp_path):
    values, look = TABLE[name]
    context = CONTEXT.get(name, {})
    if name == "data.mix_weights":
        both = tuple(str(two_record_sets / f"records{number}") for number in (1, 2))
        context = {"data.records": both, name: (0.7, 0.3), "data.statistics": "bigearthnet_v2"}
    if name in ("probe.task", "probe.train", "probe.split"):
        context = {"probe.records": str(two_record_sets / "records1")}
    records = two_record_sets
    before = settings_with(records, **context)
    changed = next(value for value in values if value != get(before, name))
    after = settings_with(records, **context | {name: changed})
    seen = [look(settings, Place(tmp_path / str(turn))) for turn, settings in enumerate((before, after))]
    assert seen[0] != seen[1]
