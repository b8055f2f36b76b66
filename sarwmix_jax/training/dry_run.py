"""What a run would do, without doing it: records, steps, batch, model, memory and disk."""

import os
import shutil
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jax.sharding import NamedSharding, PartitionSpec

from sarwmix_jax.errors import UserError
from sarwmix_jax.models.mixmae import abstract_model
from sarwmix_jax.training import cost
from sarwmix_jax.training.parallel import DATA_AXIS
from sarwmix_jax.training.setup import Run
from sarwmix_jax.training.steps import TrainState

GIB = 2**30


def plan_text(run: Run) -> str:
    """The plan of a run in lines.

    Raises:
        UserError: a training step does not fit into the device's memory.
    """
    settings, calendar, steps = run.settings, run.calendar, run.steps
    devices, batch = run.mesh.size, settings.batch.global_batch
    sets = [f"{len(source):,} of {folder}" for folder, source in zip(settings.data.records, run.sources, strict=True)]
    accumulation = batch // devices // steps.micro_batch
    peak_epoch = min(settings.optimizer.warmup_epochs, calendar.epoch(calendar.total_steps))
    state = abstract_state(run)
    size = sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(state))
    return "\n".join(
        [
            f"records:     {', '.join(sets)}, split {settings.data.split}",
            f"validation:  {settings.data.validation_split or 'none'}",
            f"steps:       {calendar.steps_per_epoch:,} an epoch, {calendar.total_steps:,} until epoch "
            f"{calendar.epoch(calendar.total_steps):g} (schedule {settings.optimizer.schedule_epochs:g})",
            f"batch:       {batch} = {devices} x {accumulation} x {steps.micro_batch} "
            f"(devices, accumulation, micro-batch), mix groups of {steps.mix_group}",
            f"lr:          largest {calendar.rate(round(peak_epoch * calendar.steps_per_epoch)):.3g}, "
            f"at epoch {peak_epoch:g}",
            f"checkpoints: {size / GIB:.2f} GiB each, the last {settings.checkpoint.keep} and "
            f"{len(calendar.milestones(settings.checkpoint))} milestones stay",
            "",
            cost.table(cost.pretraining_parts(steps.model)),
            "",
            memory_text(run, state),
        ]
    )


def abstract_state(run: Run) -> TrainState:
    """Shapes, dtypes and places of a run's state."""
    _, params, fixed = abstract_model(run.steps.model)
    opt_state = jax.eval_shape(run.optimizer.init, params)
    step: Any = jax.ShapeDtypeStruct((), np.int32)
    state = TrainState(params, fixed, opt_state, step)
    place = NamedSharding(run.mesh, PartitionSpec())
    return jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=place), state)


def memory_text(run: Run, state: TrainState) -> str:
    """Memory of a compiled training step on each device.

    Raises:
        UserError: it is more than the device has.
    """
    needed = step_memory(run, state)
    if needed is None:
        return "memory:      the compiler of this device does not tell"
    available = device_memory()
    text = f"memory:      {needed / GIB:.2f} GiB a device for a training step"
    if available is None:
        return f"{text}; the device does not tell how much it has"
    if needed > available:
        micro = run.steps.micro_batch
        raise UserError(
            f"a training step needs {needed / GIB:.1f} GiB, the device has {available / GIB:.1f}; "
            f"lower batch.micro_batch from {micro} to {max(1, micro // 2)}, or set model.recompute"
        )
    return f"{text}, {available / GIB:.2f} GiB there"


def step_memory(run: Run, state: TrainState) -> int | None:
    """Bytes that a training step needs on one device, its state included, by the compiler's account."""
    contract = run.sources[0].contract
    rows = (run.settings.batch.global_batch,)
    place = NamedSharding(run.mesh, PartitionSpec(DATA_AXIS))
    batch: dict[str, Any] = {"image": jax.ShapeDtypeStruct(rows + contract.shape, np.float16, sharding=place)}
    if run.settings.data.nodata_aware:
        batch["valid"] = jax.ShapeDtypeStruct((*rows, 1, *contract.shape[1:]), np.bool_, sharding=place)
    compiled = run.train_step.lower(state, batch, np.float32(0)).compile()
    analysis = compiled.memory_analysis()
    if analysis is None:
        return None
    return int(
        analysis.argument_size_in_bytes
        + analysis.output_size_in_bytes
        + analysis.temp_size_in_bytes
        - analysis.alias_size_in_bytes
    )


def device_memory() -> int | None:
    """Bytes of memory that one device may use."""
    device = jax.local_devices()[0]
    if device.platform == "cpu":
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return (device.memory_stats() or {}).get("bytes_limit")


def check_disk(run: Run, workdir: Path) -> None:
    """Refuse to start where the checkpoints cannot lie.

    Raises:
        UserError: there is less free space than two checkpoints need.
    """
    size = sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(abstract_state(run)))
    place = next(folder for folder in (workdir, *workdir.absolute().parents) if folder.exists())
    free = shutil.disk_usage(place).free
    if free < 2 * size:
        raise UserError(
            f"{workdir}: {free / GIB:.2f} GiB are free, two checkpoints of this run need {2 * size / GIB:.2f}; "
            "free space or choose another --workdir"
        )
