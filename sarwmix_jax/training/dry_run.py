"""What a run would do, without doing it: records, steps, batch, model, memory and disk."""

import os
import shutil
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jax.sharding import NamedSharding, PartitionSpec

from sarwmix_jax.errors import UserError
from sarwmix_jax.training import cost, resident
from sarwmix_jax.training.parallel import DATA_AXIS
from sarwmix_jax.training.setup import Run, abstract_state
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
    size = state_bytes(state)
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


def state_bytes(state: TrainState) -> int:
    """Bytes of a run's state."""
    return sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(state))


def memory_text(run: Run, state: TrainState) -> str:
    """Memory of a compiled training step, and of records held, on each device.

    Raises:
        UserError: it is more than the device has.
    """
    check_resident(run)
    needed = step_memory(run, state)
    if needed is None:
        return "memory:      the compiler of this device does not tell"
    available = device_memory()
    held = resident_bytes(run)
    text = f"memory:      {needed / GIB:.2f} GiB a device for a training step"
    text += f" and {held / GIB:.2f} for its share of the training records" if held else ""
    if available is None:
        return f"{text}; the device does not tell how much it has"
    if needed + held > available:
        micro = run.steps.micro_batch
        records = f" and its share of the training records {held / GIB:.1f}" if held else ""
        raise UserError(
            f"a training step needs {needed / GIB:.1f} GiB{records}, the device has {available / GIB:.1f}; "
            f"{'unset data.resident, use more devices, ' if held else ''}"
            f"lower batch.micro_batch from {micro} to {max(1, micro // 2)}, or set model.recompute to block"
        )
    return f"{text}, {available / GIB:.2f} GiB there"


def resident_bytes(run: Run) -> int:
    """Bytes of training records that each device holds during the run."""
    data = run.settings.data
    if not data.resident:
        return 0
    return resident.bytes_per_device(run.sources, run.mesh.size, masks=data.nodata_aware)


def check_resident(run: Run) -> None:
    """Refuse to start where the records cannot lie beside the state, without the time that the compiler takes.

    Raises:
        UserError: the devices have less memory.
    """
    held, available = resident_bytes(run), device_memory()
    state = state_bytes(abstract_state(run)) if held else 0
    if held and available is not None and held + state > available:
        raise UserError(
            f"the training records need {held / GIB:.1f} GiB on each of {run.mesh.size} devices and the state "
            f"{state / GIB:.1f}, a device has {available / GIB:.1f}; unset data.resident, use more devices or "
            "fewer records (data.split)"
        )


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
    size = state_bytes(abstract_state(run))
    place = next(folder for folder in (workdir, *workdir.absolute().parents) if folder.exists())
    free = shutil.disk_usage(place).free
    if free < 2 * size:
        raise UserError(
            f"{workdir}: {free / GIB:.2f} GiB are free, two checkpoints of this run need {2 * size / GIB:.2f}; "
            "free space or choose another --workdir"
        )
