"""The set-up of a run: records, batch, task, compiled steps, first parameters."""

import dataclasses
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import jax
import numpy as np
import optax
from flax import nnx
from jax.sharding import Mesh

from sarwmix_jax.checkpoints.loading import locate
from sarwmix_jax.checkpoints.reading import Reader
from sarwmix_jax.checkpoints.restore import Previous, Start, find_start
from sarwmix_jax.data.pipeline import TrainingInput, steps_per_epoch
from sarwmix_jax.data.sources import open_records
from sarwmix_jax.errors import UserError
from sarwmix_jax.facts.bands import STATISTICS, BandStatistics
from sarwmix_jax.models.state import Tree, abstract_model, split_model, stack_blocks, unstack_blocks
from sarwmix_jax.progress import progress
from sarwmix_jax.settings.config import RECORDS, cut_batch
from sarwmix_jax.settings.sections import FinetuningSettings, PretrainingSettings, RunSettings
from sarwmix_jax.tasks.gradients import (
    TrainState,
    TrainStep,
    find_validation,
    make_mesh,
    make_train_step,
    open_all,
    placed_state,
    reading,
    replicate,
    shard_batch,
    state_shapes,
)
from sarwmix_jax.tasks.pretraining import Pretraining
from sarwmix_jax.tasks.task import Batch, Task
from sarwmix_jax.training import resources
from sarwmix_jax.training.labelled import Samples, labelled_samples
from sarwmix_jax.training.optimizer import Schedule, optimizer_of

T = TypeVar("T")


@dataclass(frozen=True)
class Run:
    """Everything that a run needs and that does not change during the run.

    Attributes:
        settings: The settings as given.
        task: The task; its settings are adapted to the devices.
        mesh: The devices.
        sources: Samples to train on, by record set.
        held_out: Samples to validate on, by record set; empty where there are none.
        schedule: When the run logs, validates, saves and ends.
        optimizer: The optimiser; its state is part of the run's state.
        graphdef: The model without its arrays.
        train_step: The compiled training step.
        validate: Function (params, fixed) -> scores on the validation records, if there are any.
        probe: Function (params, fixed) -> scores of frozen features on labelled records, if there are any.
        notes: Lines for the user.
    """

    settings: RunSettings
    task: Task
    mesh: Mesh
    sources: tuple[Any, ...]
    held_out: tuple[Any, ...]
    schedule: Schedule
    optimizer: optax.GradientTransformation
    graphdef: nnx.GraphDef
    train_step: TrainStep
    validate: Callable[[Tree, Tree], dict[str, Any]] | None
    probe: Callable[[Tree, Tree], dict[str, float]] | None = None
    notes: tuple[str, ...] = ()

    @property
    def stacked(self) -> bool:
        """Whether equal blocks are stacked in memory; in checkpoints they never are."""
        return bool(self.task.settings.model.scan)


def set_up(settings: RunSettings, previous: Previous | None = None) -> Run:
    """Open the records, divide the batch over the devices, build the steps; writes nothing.

    Args:
        settings: Checked settings.
        previous: Description of the run in its own checkpoints, if any.

    Raises:
        UserError: Records, batch or devices do not fit, a tracker is not installed, or there is no checkpoint at
            `init_from`.
    """
    if settings.log.trackers:
        from sarwmix_jax.training.trackers import check_installed

        check_installed(settings.log.trackers)
    if settings.init_from is not None and previous is None:
        locate(Path(settings.init_from))
    mesh = make_mesh()
    cut, chosen = adapted(settings, mesh, None if previous is None else previous.progress.get("mix_group"))
    found, notes = find_validation(settings)
    samples = labelled_samples(found) if isinstance(found, FinetuningSettings) else pretraining_samples(found)
    sources, held_out, make_task = samples
    task: Task = make_task(cut, band_statistics(settings, sources))
    schedule = Schedule(steps_per_epoch(sum(map(len, sources)), settings.batch.global_batch), settings)
    graphdef, optimizer = abstract_model(*task.model)[0], optimizer_of(cut)
    validate = task.make_validation(graphdef, mesh, held_out) if held_out else None
    train_step = make_train_step(task, graphdef, optimizer, mesh)
    probe = None
    if isinstance(settings, PretrainingSettings) and settings.probe.records is not None:
        from sarwmix_jax.training.probing import make_probe  # scikit-learn takes a second to import

        probe = make_probe(settings.probe, settings.probe.records, task, graphdef, mesh)
    built = (graphdef, train_step, validate, probe)
    notes = (*chosen, *shared_state(task, optimizer, mesh), *notes)
    return Run(settings, task, mesh, sources, held_out, schedule, optimizer, *built, notes)


def adapted(settings: RunSettings, mesh: Mesh, mix_group: int | None) -> tuple[RunSettings, tuple[str, ...]]:
    """The settings with those set that depend on the devices, and lines on what was chosen; raises as `cut_batch`."""
    device = mesh.devices.flat[0]
    batch = cut_batch(settings.batch, mesh.size, mix_group)
    cut = dataclasses.replace(settings, model=settings.model.on(device.platform), batch=batch)
    cut.model.check_device(device.device_kind, getattr(device, "compute_capability", None))
    if (cut.model.kernel, cut.model.kernels) == ("xla", None):
        return cut, ()
    from sarwmix_jax.training.kernels import with_kernels  # plain attention has no need of that file

    return with_kernels(cut, device.platform)


def shared_state(task: Task, optimizer: optax.GradientTransformation, mesh: Mesh) -> tuple[str, ...]:
    """A line on how much of the optimiser's state a device holds, where it is to be divided."""
    if not task.settings.optimizer.shard_state:
        return ()
    state = placed_state(state_shapes(task, optimizer), task.settings, mesh).opt_state
    share = resources.device_bytes(state) / resources.tree_bytes(state)
    return (f"optimizer.shard_state: each of {mesh.size} devices holds {share:.1%} of the optimiser's state",)


def pretraining_samples(settings: RunSettings) -> Samples:
    """Records of a pretraining run; see `open_all` for errors."""
    split = settings.validation.split
    held_out = () if split is None else open_all(open_records, settings, split)
    return open_all(open_records, settings, settings.data.split), held_out, Pretraining


def band_statistics(settings: RunSettings, sources: tuple[Any, ...]) -> BandStatistics:
    """The statistics that standardise the run's images.

    Raises:
        UserError: Those of the record set are requested, but it has none, or there are several sets.
    """
    if settings.data.statistics != RECORDS:
        return STATISTICS[settings.data.statistics]
    contracts = [source.contract for source in sources]
    if len(contracts) > 1:
        raise UserError(
            "--config.data.statistics is 'records', but there are several record sets; "
            f"use one of {', '.join(sorted(STATISTICS))}"
        )
    if contracts[0].statistics is None:
        raise UserError(
            f"--config.data.statistics is 'records', but {settings.data.records[0]} states none; "
            f"use one of {', '.join(sorted(STATISTICS))}"
        )
    return contracts[0].statistics


def describe_sources(run: Run) -> dict[str, Any]:
    """Origin of a run's data, for its checkpoints."""
    fields = ("name", "version", "source", "quantity")
    sets = [
        {"folder": folder, **{name: getattr(source.contract, name) for name in fields}, "records": len(source)}
        for folder, source in zip(run.settings.data.records, run.sources, strict=True)
    ]
    return {"split": run.settings.data.split, "sets": sets}


def abstract_state(run: Run, *, stored: bool = False) -> TrainState:
    """Shapes, dtypes and shardings of a run's state; `stored`: as in checkpoints, with one entry per block."""
    state = state_shapes(run.task, run.optimizer)
    return placed_state(jax.eval_shape(unstack_blocks, state) if stored else state, run.settings, run.mesh)


def stored(tree: T, run: Run) -> T:
    """A state, or a part of it, in the form of checkpoints."""
    return jax.jit(unstack_blocks)(tree) if run.stacked else tree


def in_memory(tree: T, run: Run) -> T:
    """Undoes `stored`."""
    return jax.jit(stack_blocks)(tree) if run.stacked else tree


def first_state(run: Run, checkpoints: Reader, step: int | None = None) -> tuple[TrainState, Start]:
    """The state at this start, and where it comes from; arguments and errors as for `restore.find_start`."""
    make, *arguments = run.task.model

    def draw() -> Any:
        return split_model(make(*arguments, rngs=nnx.Rngs(run.settings.seed)))[1:]

    target = abstract_state(run, stored=True)._asdict()
    classes = run.task.description.get("class_names", ())
    with progress("initialising the model"):
        start = find_start(checkpoints, target, run.settings, lambda: stored(jax.jit(draw)(), run), classes, step)
        if start is None:
            params, fixed = jax.jit(draw)()
            start = Start({})
        else:
            params, fixed = in_memory((start.state["params"], start.state["fixed"]), run)
        place = jax.tree.map(lambda leaf: leaf.sharding, abstract_state(run))
        params, fixed = jax.device_put((params, fixed), (place.params, place.fixed))
        if "opt_state" in start.state:
            opt_state = jax.device_put(in_memory(start.state["opt_state"], run), place.opt_state)
        else:
            opt_state = jax.jit(run.optimizer.init, out_shardings=place.opt_state)(params)
        return TrainState(params, fixed, opt_state, replicate(np.int32(start.step), run.mesh)), start


class DeviceBatch(NamedTuple):
    """One step's batch.

    Attributes:
        arrays: Arrays for the compiled step, sharded over the devices.
        records: Numbers of the records in this process's part.
    """

    arrays: Batch
    records: np.ndarray


class LoaderFeed(Iterator[DeviceBatch]):
    """Batches that are read in every step; the records of a step depend on seed and step number alone."""

    def __init__(self, run: Run, start: int) -> None:
        """Start at step `start`.

        Raises:
            UserError: The record sets cannot be mixed.
        """
        data, batch = run.settings.data, run.settings.batch.global_batch
        self._mesh, self._columns = run.mesh, run.task.columns
        how: dict[str, Any] = {
            "weights": data.mix_weights,
            "columns": self._columns,
            "group": run.task.group,
            **reading(data),
        }
        self._from = lambda step: TrainingInput(run.sources, batch, run.settings.seed, start_step=step, **how)
        self._batches = self._from(start)

    def __next__(self) -> DeviceBatch:
        host = next(self._batches)
        return DeviceBatch(shard_batch({name: host[name] for name in self._columns}, self._mesh), host["record"])

    def go_to(self, step: int) -> None:
        """Go on with another step."""
        self.close()
        self._batches = self._from(step)

    def close(self) -> None:
        """Stop reading."""
        self._batches.close()
