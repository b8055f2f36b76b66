"""What settings change: each function observes one thing, for the tests that every setting has an effect."""

import dataclasses
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
from jax.sharding import AbstractMesh, AxisType

from sarwmix_jax.checkpoints.integrity import complete_steps
from sarwmix_jax.checkpoints.store import Checkpoints
from sarwmix_jax.data.sources import RecordSource, open_records
from sarwmix_jax.errors import UserError
from sarwmix_jax.models.state import merge_model, split_model
from sarwmix_jax.settings.config import cut_batch
from sarwmix_jax.tasks.gradients import DATA_AXIS, make_gradients, open_all, state_shapes
from sarwmix_jax.training import kernels
from sarwmix_jax.training.device_cache import ResidentFeed
from sarwmix_jax.training.divergence import can_skip
from sarwmix_jax.training.logs import RunLog
from sarwmix_jax.training.loop import train
from sarwmix_jax.training.optimizer import Schedule, make_optimizer
from sarwmix_jax.training.run import (
    LoaderFeed,
    abstract_state,
    describe_sources,
    first_state,
    set_up,
)
from sarwmix_jax.training.throughput import NonFiniteLoss, Spikes

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
        patch.setattr(kernels, "check_kernel", lambda settings, platform: None)
        step, state, batch = _step(settings)
    return str(step.trace(state, batch, np.float32(1e-3)).jaxpr)


@from_settings_alone
def reduced(settings):
    """The gradients of two devices before they are handed to a compiler."""
    run = set_up(settings)
    mesh = AbstractMesh((2,), (DATA_AXIS,), axis_types=(AxisType.Auto,))
    gradients = make_gradients(run.task, run.graphdef, mesh)
    return str(jax.make_jaxpr(gradients)(state_shapes(run.task, run.optimizer), _batch(run)))


def division(settings, place):
    """How two devices divide the optimiser's arrays."""
    mesh = AbstractMesh((2,), (DATA_AXIS,), axis_types=(AxisType.Auto,))
    state = abstract_state(dataclasses.replace(set_up(settings), mesh=mesh))
    return [str(leaf.sharding.spec) for leaf in jax.tree.leaves(state.opt_state)]


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
