"""Every setting of every config changes something: one alternative value and one observable for each."""

import itertools
import time
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from ml_collections import config_dict

from sarwmix_jax.checkpoints.store import Checkpoints, complete_steps
from sarwmix_jax.data.sources import RecordSource, open_records
from sarwmix_jax.errors import UserError
from sarwmix_jax.models.state import merge_model, split_model
from sarwmix_jax.preparation.synthetic import write_synthetic_records
from sarwmix_jax.settings.config import pretraining_config, resolve
from sarwmix_jax.settings.declarations import setting_types
from sarwmix_jax.settings.recipes import load_config
from sarwmix_jax.settings.sections import PretrainingSettings
from sarwmix_jax.tasks.gradients import open_all
from sarwmix_jax.training import run as run_module
from sarwmix_jax.training.device_cache import ResidentFeed
from sarwmix_jax.training.divergence import can_skip
from sarwmix_jax.training.logs import RunLog
from sarwmix_jax.training.loop import train
from sarwmix_jax.training.optimizer import Schedule, make_optimizer
from sarwmix_jax.training.run import (
    LoaderFeed,
    abstract_state,
    cut_batch,
    describe_sources,
    first_state,
    set_up,
)
from sarwmix_jax.training.throughput import NonFiniteLoss, Spikes
from tests.training.conftest import TINY_RUN

CONFIGS = [p for p in sorted((Path(__file__).parents[2] / "configs").glob("*.py")) if not p.stem.startswith("finetune")]
STEPS_PER_EPOCH = 10


@dataclass(frozen=True)
class Place:
    """What observables may use."""

    folder: Path


def get(settings, name):
    """Value of a setting by its dotted name."""
    for part in name.split("."):
        settings = getattr(settings, part)
    return settings


def from_settings_alone(observe):
    """An observable that needs no place: what many tests start from is computed once."""
    once = cache(observe)
    return lambda settings, place: once(settings)


def schedule(settings, place):
    """Everything that the schedule decides in the first 60 steps."""
    run = Schedule(STEPS_PER_EPOCH, settings)
    steps = range(60)
    due = (lambda step: run.log_due(step, 1), run.checkpoint_due, run.validation_due, run.probe_due)
    return [
        run.total_steps,
        [run.rate(step) for step in steps],
        [[step for step in steps if question(step)] for question in due],
        run.milestones(),
    ]


def adam(settings, place):
    """Two updates of a small parameter."""
    params = {"kernel": jnp.linspace(-1.0, 1.0, 6).reshape(2, 3)}
    optimizer = make_optimizer(settings.optimizer)
    state = optimizer.init(params)
    for scale in (1e-3, 3e-2):
        updates, state = optimizer.update(
            jax.tree.map(lambda leaf, by=scale: by * jnp.cos(leaf), params), state, params
        )
    return np.asarray(updates["kernel"]).tolist()


def cut(settings, place):
    """How the batch is cut over two devices."""
    try:
        return cut_batch(settings.batch, 2)
    except UserError as error:
        return str(error)


def sources(settings, place):
    """Which records are opened, or why not."""
    try:
        run = set_up(settings)
    except UserError as error:
        return str(error)
    held_out = settings.validation.split
    return (
        describe_sources(run),
        run.task.statistics,
        run.task.columns,
        held_out and [len(source) for source in open_all(open_records, settings, held_out)],
    )


def reading(settings, place):
    """First batch; threads that read and batches read ahead, the reading processes, or the records read at once."""
    read, threads, counts = RecordSource.read_batch, [], []

    def slow(self, indices, *more):
        threads.append(time.monotonic())
        counts.append(len(indices))
        time.sleep(0.05)
        return read(self, indices, *more)

    run = set_up(settings)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(RecordSource, "read_batch", slow)
        log = RunLog(place.folder, 0, quiet=True)
        batches = ResidentFeed(run, 0, log) if settings.data.resident else LoaderFeed(run, 0)
        first = next(batches).records.tolist()
        time.sleep(0.4)
        batches.close()
    together = sum(1 for earlier, later in itertools.pairwise(threads) if later - earlier < 0.02)
    return first, len(threads), together > 0, max(counts, default=0)


@from_settings_alone
def program(settings):
    """The training step as handed to the compiler."""
    step, state, batch = _step(settings)
    return step.lower(state, batch, np.float32(1e-3)).as_text()


@from_settings_alone
def traced(settings):
    """The training step before it is handed to a compiler: kernels for a GPU show without one."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(run_module, "check_kernel", lambda settings, platform: None)
        step, state, batch = _step(settings)
    return str(step.trace(state, batch, np.float32(1e-3)).jaxpr)


@from_settings_alone
def numbers(settings):
    """Training losses of a batch at six steps, with arbitrary parameters that depend on their shapes alone."""
    run = set_up(settings)
    make, *arguments = run.task.model
    structure, *shapes = nnx.eval_shape(lambda: split_model(make(*arguments, rngs=nnx.Rngs(0))))
    rng = np.random.default_rng(0)
    params, fixed = jax.tree.map(lambda leaf: rng.normal(0, 0.3, leaf.shape).astype(np.float32), shapes)

    @jax.jit
    def loss(params, batch, step):
        return run.task.loss(merge_model(structure, params, fixed), batch, step, jnp.int32(0))[0]

    return [float(loss(params, _batch(run), step)) for step in range(6)]


def _batch(run):
    return {"image": jnp.asarray(run.sources[0].read_batch(np.arange(8))["image"])}


def _step(settings):
    """The training step of a run, and what it is compiled for."""
    run = set_up(settings)
    return run.train_step, abstract_state(run), _batch(run)


def start(settings, place):
    """Parameters at step 0, or why there are none."""
    try:
        run = set_up(settings)
        state, _ = first_state(run, Checkpoints(place.folder))
        return float(sum(np.abs(leaf).sum() for leaf in jax.tree.leaves(state.params)))
    except UserError as error:
        return str(error)


def limit(settings, place):
    """Steps in a row that a diverging run may skip."""
    run, bad = SimpleNamespace(settings=settings), {"loss": float("nan")}
    steps = range(20)
    return [step for step in steps if can_skip(run, NonFiniteLoss(step, np.arange(2), bad), range(step))]


def spikes(settings, place):
    """Which of some losses are logged as spikes."""
    rng, look = np.random.default_rng(0), Spikes(settings.log.spike_window, settings.log.spike_factor)
    losses = rng.normal(1.0, 0.1, 300) + np.where(np.arange(300) % 40 == 39, np.arange(300) / 200, 0.0)
    return [step for step, loss in enumerate(losses) if look.add(step, float(loss), np.arange(2))]


def kept(settings, place):
    """Checkpoints that a run of four epochs leaves."""
    train(settings, place.folder)
    return complete_steps(place.folder / "checkpoints")


def probed(settings, place):
    """Scores of arbitrary features on labelled records, or why there are none."""
    try:
        run = set_up(settings)
    except UserError as error:
        return str(error)
    if run.probe is None:
        return None
    make, *arguments = run.task.model
    return run.probe(*jax.jit(lambda: split_model(make(*arguments, rngs=nnx.Rngs(0)))[1:])())


def tracked(settings, place):
    """What a log writes beside its JSON lines."""
    place.folder.mkdir()
    with RunLog(place.folder, 1) as log:
        log.track(settings, place.folder, 0)
    return sorted(path.name for path in place.folder.iterdir())


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
CONTEXT = {
    "model.image_size": {"model.windows": (8, 4, 2, 1)},  # windows that fit both
    "model.kernel": {"model.embed_dim": 16},  # heads deep enough for the kernel
    "model.scan": {"model.scan": False, "model.depths": (1, 1, 3, 1)},  # None is one of both, by the device
    "batch.odd_group": {"batch.global_batch": 6, "batch.micro_batch": 3},
    "batch.mix_group": {"batch.global_batch": 32},
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

SLOW = (numbers, program, traced, kept, start, probed)
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
