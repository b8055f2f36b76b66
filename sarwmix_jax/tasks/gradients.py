"""From a task's loss to an update: micro-batches, devices, one all-reduce, the optimiser; the same for every task.

The devices form a mesh with a single axis, over which a batch is sharded. The loss of a step depends on the global
batch alone: random numbers belong to a position in it, never to a device or process.
"""

import dataclasses
import os
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx
from jax.flatten_util import ravel_pytree
from jax.sharding import AbstractMesh, AxisType, Mesh, NamedSharding, PartitionSpec
from jaxtyping import Array, Float, Int

from sarwmix_jax.data.records import Expectation, read_contract
from sarwmix_jax.data.sources import check_contract, check_promises
from sarwmix_jax.errors import UserError
from sarwmix_jax.facts.bands import STATISTICS
from sarwmix_jax.models.state import Tree, abstract_model, converted_together, merge_model
from sarwmix_jax.settings.sections import DataSettings, RunSettings
from sarwmix_jax.tasks.sharding import DATA_AXIS, SMALL, divided, stay
from sarwmix_jax.tasks.task import Batch, Metrics, Task

IF_ANY = "if_any"
"""This value of `validation.split` means the split `validation` where every record set has one, else none."""
VALIDATION = "validation"
Run = TypeVar("Run", bound=RunSettings)
T = TypeVar("T")


def reading(settings: DataSettings) -> dict[str, int]:
    """This process and its reading settings, as arguments of `pipeline.Reading`."""
    own = {"process_index": jax.process_index(), "process_count": jax.process_count()}
    return own | {name: getattr(settings, name) for name in ("threads", "workers", "prefetch")}


def named_split(split: str | None) -> str | None:
    """Name of the validation split: `if_any` means the split `validation`."""
    return VALIDATION if split == IF_ANY else split


def find_validation(settings: Run) -> tuple[Run, tuple[str, ...]]:
    """Replaces `if_any` in the settings by the validation split found, or by none; also gives lines to report.

    Raises:
        UserError: A record set is missing or cannot be read.
    """
    if settings.validation.split != IF_ANY:
        return settings, ()
    lacking = [folder for folder in settings.data.records if VALIDATION not in read_contract(Path(folder)).records]
    split = None if lacking else VALIDATION
    found = dataclasses.replace(settings, validation=dataclasses.replace(settings.validation, split=split))
    return found, tuple(f"no validation: {folder} has no split {VALIDATION!r}" for folder in lacking[:1])


def open_all(open_split: Callable[..., Any], settings: RunSettings, split: str) -> tuple[Any, ...]:
    """Opens one split of every record set of the run and checks it against what the run expects.

    Raises:
        UserError: A set is missing, holds other bands, units, quantities or values than expected, or lacks the masks
            that the nodata-aware mode needs.
    """
    sources = tuple(open_split(Path(folder), split) for folder in settings.data.records)
    expected = Expectation(bands=settings.model.bands, quantity=settings.data.quantity)
    standardised = Expectation(bands=settings.model.bands, statistics=STATISTICS.get(settings.data.statistics))
    for folder, source in zip(settings.data.records, sources, strict=True):
        check_contract(source.records, expected)  # first: a wrong unit would also make the statistics look wrong
        check_promises(source.records, standardised)
        if settings.data.nodata_aware and not source.contract.has_valid_pixels:
            raise UserError(
                f"the records in {folder} carry no masks of invalid pixels; give --config.data.nodata_aware=false"
            )
    return sources


class TrainState(NamedTuple):
    """Everything that a step updates, and the fixed tables."""

    params: Tree
    fixed: Tree
    opt_state: Any
    step: Int[Array, ""]


def state_shapes(task: Task, optimizer: optax.GradientTransformation) -> TrainState:
    """Shapes and dtypes of the state of a task's training step."""
    _, params, fixed = abstract_model(*task.model)
    step: Any = jax.ShapeDtypeStruct((), np.int32)
    return TrainState(params, fixed, jax.eval_shape(optimizer.init, params), step)


TrainStep = Callable[[TrainState, Batch, Any], tuple[TrainState, Metrics]]


def use_cpu_devices(count: int) -> None:
    """Divide the CPU into this many devices.

    Nothing where JAX has begun already, or where the environment states how many devices there are.
    """
    if count > 1 and "host_platform_device_count" not in os.environ.get("XLA_FLAGS", ""):
        with suppress(RuntimeError):
            jax.config.update("jax_num_cpu_devices", count)


def make_mesh(devices: Sequence[jax.Device] | None = None) -> Mesh:
    """A mesh of all devices (of all processes) with one axis, `data`."""
    devices = jax.devices() if devices is None else devices
    return jax.make_mesh((len(devices),), (DATA_AXIS,), axis_types=(AxisType.Auto,), devices=devices)


def replicate(tree: Any, mesh: Mesh) -> Any:
    """Puts every array of the tree on every device."""
    return jax.device_put(tree, NamedSharding(mesh, PartitionSpec()))


def placed(shapes: T, mesh: Mesh | AbstractMesh, *, split: bool = False) -> T:
    """Shapes and dtypes with their place: on every device of the mesh, or split over them on the leading axis."""
    place = NamedSharding(mesh, PartitionSpec(DATA_AXIS) if split else PartitionSpec())
    found: T = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=place), shapes)
    return found


def placed_state(state: TrainState, settings: RunSettings, mesh: Mesh | AbstractMesh) -> TrainState:
    """Shapes and dtypes of a run's state with their place; with `shard_state` the optimiser's are divided."""
    found = placed(state, mesh)
    return found._replace(opt_state=divided(state.opt_state, mesh)) if settings.optimizer.shard_state else found


def shard_batch(batch: dict[str, np.ndarray], mesh: Mesh) -> Batch:
    """Splits host arrays on their leading axis over the devices; each process gives its own contiguous block.

    Raises:
        UserError: The number of rows is not a multiple of the devices of this process.
    """
    sharding = NamedSharding(mesh, PartitionSpec(DATA_AXIS))
    local = len(mesh.local_devices)
    for name, array in batch.items():
        if len(array) % local:
            raise UserError(f"{len(array)} rows of {name!r} do not divide by {local} devices; change the batch")
    return {name: jax.make_array_from_process_local_data(sharding, array) for name, array in batch.items()}


def over_devices(
    function: Callable[..., Any], mesh: Mesh | AbstractMesh, *split: bool, reduced: bool = False
) -> Callable[..., Any]:
    """Runs `function` on each device's share: arguments marked in `split` are split on their leading axis.

    Results are split in the same way or, where `reduced`, the same on every device.
    """
    whole, cut = PartitionSpec(), PartitionSpec(DATA_AXIS)
    specs = tuple(cut if marked else whole for marked in split)
    # With check_vma=True gradients would come out multiplied by the number of devices.
    return jax.shard_map(function, mesh=mesh, in_specs=specs, out_specs=whole if reduced else cut, check_vma=False)


def _share_gradients(
    task: Task, graphdef: nnx.GraphDef, state: TrainState, batch: Batch, first: Int[Array, ""]
) -> tuple[Tree, Metrics]:
    """Gradients and metrics of one device's share of the batch, averaged over its micro-batches."""
    rows, micro_batch = len(next(iter(batch.values()))), task.settings.batch.micro_batch
    assert micro_batch is not None
    steps, settings = rows // micro_batch, task.settings.model
    # a loop over blocks takes the parameters of all of them as they are
    together = settings.dtype != "float32" and not settings.scan

    def gradients(number: Int[Array, ""], micro: Batch) -> tuple[Tree, Metrics]:
        def loss(params: Tree) -> tuple[Array, Metrics]:
            model = merge_model(graphdef, params, state.fixed)
            value, metrics = task.loss(model, micro, state.step, first + number * micro_batch)
            return value, {"loss": value, **metrics}

        params = converted_together(state.params, settings.dtype) if together else state.params
        found, metrics = jax.grad(loss, has_aux=True)(params)
        return jax.tree.map(lambda gradient, param: gradient.astype(param.dtype), found, state.params), metrics

    if steps == 1:
        return gradients(jnp.int32(0), batch)
    cut = jax.tree.map(lambda x: x.reshape(steps, -1, *x.shape[1:]), batch)
    shapes = jax.eval_shape(gradients, jnp.int32(0), jax.tree.map(lambda x: x[0], cut))
    zeros = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), shapes)

    def add(total: Any, numbered: Any) -> tuple[Any, None]:
        return jax.tree.map(jnp.add, total, gradients(*numbered)), None

    total, _ = jax.lax.scan(add, zeros, (jnp.arange(steps), cut))
    return jax.tree.map(lambda x: x / steps, total)


def make_gradients(
    task: Task, graphdef: nnx.GraphDef, mesh: Mesh | AbstractMesh
) -> Callable[[TrainState, Batch], tuple[Tree, Metrics]]:
    """Gradients of the mean loss over the global batch: each device computes its share, then one all-reduce.

    A single device has nothing to reduce.
    """

    def share(state: TrainState, batch: Batch) -> tuple[Tree, Metrics]:
        if mesh.size == 1:
            return _share_gradients(task, graphdef, state, batch, jnp.int32(0))
        first = jax.lax.axis_index(DATA_AXIS) * len(next(iter(batch.values())))
        gradients, metrics = _share_gradients(task, graphdef, state, batch, first)
        return _mean_over_devices((gradients, metrics), task.settings.batch.reduce_dtype)

    return over_devices(share, mesh, False, True, reduced=True)


def _mean_over_devices(tree: T, dtype: str) -> T:
    """Mean of every array over the devices; small ones travel together in one array, large ones in `dtype`."""
    leaves, structure = jax.tree.flatten(tree)
    packed, unpack = ravel_pytree([leaf for leaf in leaves if leaf.size <= SMALL])
    large = [leaf.astype(dtype) for leaf in leaves if leaf.size > SMALL]
    packed, large = jax.lax.psum((packed, large), DATA_AXIS)
    devices = jax.lax.axis_size(DATA_AXIS)
    small, rest = iter(unpack(packed)), iter(large)
    means = [next(small if leaf.size <= SMALL else rest).astype(leaf.dtype) / devices for leaf in leaves]
    found: T = jax.tree.unflatten(structure, means)
    return found


def gradient_norm(gradients: Any) -> Float[Array, ""]:
    """Norm of all gradients together, `optax.tree.norm` in fewer kernels.

    The last sum is one for all arrays: of small ones of their squares, of large ones of the sums of each row, which
    the compiler finds in the kernel that also updates the parameter. Twice the gradient, which rounds nothing, is
    squared so that on CPUs XLA does not write the squares to memory in order to share them with Adam's.
    """
    leaves = jax.tree.leaves(gradients)
    small, _ = ravel_pytree([leaf for leaf in leaves if leaf.size <= SMALL])
    rows = [jnp.square(2 * leaf).sum(axis=-1) for leaf in leaves if leaf.size > SMALL]
    # without the barrier, XLA would make of it a sum for every array again
    parts = jax.lax.optimization_barrier(ravel_pytree([jnp.square(2 * small), *rows])[0])
    return 0.5 * jnp.sqrt(parts.sum())


def apply_updates(params: Tree, updates: Tree, rate: Float[Array, ""]) -> Tree:
    """Parameters minus `rate` times the optimiser's updates.

    For small arrays the rate is read from an array of which it is every value: XLA combines kernels of equal shape that
    read the same array, so that one kernel updates a dozen biases and norms. Of large arrays, eight updated by one
    kernel need more registers than a GPU has.
    """
    small = max((leaf.size for leaf in jax.tree.leaves(params) if leaf.size <= SMALL), default=0)
    rates = jax.lax.optimization_barrier(jnp.full(small, rate))

    def apply(param: Array, update: Array) -> Array:
        shared = rates[: param.size].reshape(param.shape) if param.size <= SMALL else rate
        return param - shared * update

    return jax.tree.map(apply, params, updates)


def make_train_step(
    task: Task, graphdef: nnx.GraphDef, optimizer: optax.GradientTransformation, mesh: Mesh
) -> TrainStep:
    """The compiled training step (state, batch, learning rate) -> (state, metrics); it donates the state's buffers.

    The batch holds the task's columns, sharded over the mesh; metrics are `loss`, those of the task, and `grad_norm`
    (before any clipping). With `on_divergence` `skip`, parameters and optimiser stay as they are where `loss` or
    `grad_norm` is not finite, as with `optax.apply_if_finite`, which would count in the state what the log has anyway.
    """
    gradients = make_gradients(task, graphdef, mesh)

    def train_step(state: TrainState, batch: Batch, rate: Float[Array, ""]) -> tuple[TrainState, Metrics]:
        grads, metrics = gradients(state, batch)
        updates, opt_state = optimizer.update(grads, state.opt_state, state.params)
        params = apply_updates(state.params, updates, rate)
        metrics["grad_norm"] = gradient_norm(grads)
        if task.settings.optimizer.on_divergence == "skip":
            finite = jnp.isfinite(metrics["loss"]) & jnp.isfinite(metrics["grad_norm"])
            old = (state.params, state.opt_state)
            params, opt_state = jax.tree.map(lambda new, kept: jnp.where(finite, new, kept), (params, opt_state), old)
        if task.settings.optimizer.shard_state:
            params, opt_state = stay(params, opt_state, mesh)
        return TrainState(params, state.fixed, opt_state, state.step + 1), metrics

    # Gradients that XLA reduces together, it first copies to one array and afterwards back, and it waits for the last.
    several_gpus = mesh.size > 1 and mesh.devices.flat[0].platform == "gpu"
    apart = {"xla_gpu_all_reduce_combine_threshold_bytes": 0} if several_gpus else None
    return jax.jit(train_step, donate_argnums=0, compiler_options=apart)


def sample_keys(seed: int, step: Int[Array, ""], first: Int[Array, ""], count: int) -> Array:
    """Keys of `count` consecutive samples; each depends on (seed, step, position in the global batch) alone."""
    key = jax.random.fold_in(jax.random.key(seed), step)
    return jax.vmap(jax.random.fold_in, (None, 0))(key, first + jnp.arange(count))
