"""Everything a run needs before its first step: records, cut batches, compiled steps, first parameters."""

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from sarwmix_jax.data.pipeline import steps_per_epoch
from sarwmix_jax.data.sources import RecordSource
from sarwmix_jax.models.kernels import check_kernel
from sarwmix_jax.models.mixmae import MixMAE, abstract_model
from sarwmix_jax.models.state import split_model, stack_blocks, unstack_blocks
from sarwmix_jax.settings import PretrainingSettings, as_json
from sarwmix_jax.training import inputs, warm_start
from sarwmix_jax.training.calendar import Calendar
from sarwmix_jax.training.logs import RunLog
from sarwmix_jax.training.optimizer import make_optimizer
from sarwmix_jax.training.parallel import make_mesh, replicate
from sarwmix_jax.training.plan import model_settings, plan_batch, weight_settings
from sarwmix_jax.training.steps import StepSettings, TrainState, make_train_step
from sarwmix_jax.training.validation import make_validation

T = TypeVar("T")


@dataclass(frozen=True)
class Run:
    """Everything a run needs that does not change while it goes on."""

    settings: PretrainingSettings
    steps: StepSettings
    mesh: Mesh
    sources: tuple[RecordSource, ...]
    calendar: Calendar
    optimizer: optax.GradientTransformation
    graphdef: nnx.GraphDef
    train_step: Any  # a compiled function, see `steps.make_train_step`
    validate: Callable[..., dict[str, Any]] | None


def set_up(settings: PretrainingSettings, frozen_mix_group: int | None = None) -> Run:
    """Open the records, cut the batch over the devices, build the steps; writes nothing.

    Args:
        settings: Checked settings.
        frozen_mix_group: The mix group of the run's checkpoint.

    Raises:
        UserError: Records, batch or devices do not fit.
    """
    sources = inputs.open_all(settings, settings.data.split)
    mesh = make_mesh()
    steps = step_settings(settings, sources, mesh, frozen_mix_group)
    check_kernel(steps.model, mesh.devices.flat[0].platform)
    calendar = Calendar(steps_per_epoch(sum(map(len, sources)), settings.batch.global_batch), settings)
    optimizer = make_optimizer(settings.optimizer)
    graphdef = model_structure(steps)
    validate = None
    if settings.data.validation_split is not None:
        held_out = inputs.open_all(settings, settings.data.validation_split)
        validate = make_validation(graphdef, steps, mesh, held_out, settings.data)
    train_step = make_train_step(graphdef, steps, optimizer, mesh)
    return Run(settings, steps, mesh, sources, calendar, optimizer, graphdef, train_step, validate)


def settings_json(settings: PretrainingSettings) -> dict[str, Any]:
    """Resolved settings as plain values."""
    return as_json(dataclasses.asdict(settings))


def step_settings(
    settings: PretrainingSettings, sources: tuple[RecordSource, ...], mesh: Mesh, frozen_mix_group: int | None
) -> StepSettings:
    """What the compiled steps need to know."""
    batch = plan_batch(settings, mesh.size, frozen_mix_group)
    return StepSettings(
        model=model_settings(settings, mesh.devices.flat[0].platform),
        statistics=inputs.band_statistics(settings, sources),
        weighting=weight_settings(settings),
        mask_ratio=settings.mask.ratio,
        range_mask_ratio=settings.mask.range_mask_ratio,
        norm_pix=settings.loss.norm_pix,
        horizontal_flip=settings.augment.horizontal_flip,
        vertical_flip=settings.augment.vertical_flip,
        mix_group=batch.mix_group,
        micro_batch=batch.micro_batch,
        seed=settings.seed,
    )


def model_structure(steps: StepSettings) -> nnx.GraphDef:
    """The model without its arrays."""
    return abstract_model(steps.model)[0]


def initialise(run: Run, run_log: RunLog) -> TrainState:
    """State at step 0, drawn from the seed or, with `init_from`, with another run's parameters."""

    def draw() -> Any:
        return split_model(MixMAE(run.steps.model, rngs=nnx.Rngs(run.settings.seed)))[1:]

    params, fixed = jax.jit(draw)()
    if run.settings.init_from is not None:
        params, fixed = unstack_blocks((params, fixed))
        params, fixed, report = warm_start.take_parameters(params, fixed, run.settings.init_from)
        params, fixed = in_memory((params, fixed), run)
        run_log.say(report.text)
        run_log.write("init_from", **report.as_json())
    state = TrainState(params, fixed, jax.jit(run.optimizer.init)(params), jnp.zeros((), jnp.int32))
    return replicate(state, run.mesh)


def abstract_state(run: Run) -> TrainState:
    """Shapes, dtypes and places of a run's state."""
    _, params, fixed = abstract_model(run.steps.model)
    opt_state = jax.eval_shape(run.optimizer.init, params)
    step: Any = jax.ShapeDtypeStruct((), np.int32)
    return _placed(TrainState(params, fixed, opt_state, step), run)


def abstract_stored_state(run: Run) -> TrainState:
    """The same in the form that checkpoints have, whatever `model.scan`: one entry a block."""
    return _placed(jax.eval_shape(unstack_blocks, abstract_state(run)), run)


def stored(state: TrainState, run: Run) -> TrainState:
    """A state in the form that checkpoints have."""
    return jax.jit(unstack_blocks)(state) if run.steps.model.scan else state


def in_memory(tree: T, run: Run) -> T:
    """Undoes `stored`, of a state or a part of it."""
    return jax.jit(stack_blocks)(tree) if run.steps.model.scan else tree


def _placed(tree: T, run: Run) -> T:
    place = NamedSharding(run.mesh, PartitionSpec())
    placed: T = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=place), tree)
    return placed
