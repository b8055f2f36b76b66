"""The plan of a run, without running it: records, steps, batch, model, memory and disk."""

from collections.abc import Iterator
from dataclasses import asdict
from typing import Any

import jax
import numpy as np

from sarwmix_jax.data.sources import read_mixed
from sarwmix_jax.errors import UserError
from sarwmix_jax.facts import gpu_memory
from sarwmix_jax.facts.sizes import SIZES
from sarwmix_jax.models.state import abstract_model
from sarwmix_jax.progress import progress
from sarwmix_jax.tasks.gradients import TrainState, named_split, placed
from sarwmix_jax.tasks.task import Task
from sarwmix_jax.training import resources
from sarwmix_jax.training.device_cache import bytes_per_device
from sarwmix_jax.training.resources import GIB
from sarwmix_jax.training.run import Run, abstract_state


def plan_lines(run: Run) -> Iterator[str]:
    """The plan of a run, line by line; the last ones after the training step has been compiled for this machine.

    Raises:
        UserError: A training step does not fit into the device's memory.
    """
    settings, schedule, task = run.settings, run.schedule, run.task
    devices, batch, micro_batch = run.mesh.size, settings.batch.global_batch, task.settings.batch.micro_batch or 1
    sets = [f"{len(source):,} of {folder}" for folder, source in zip(settings.data.records, run.sources, strict=True)]
    peak_epoch = min(settings.optimizer.warmup_epochs, schedule.epoch(schedule.total_steps))
    state, held_out = abstract_state(run), sum(map(len, run.held_out))
    lines = [
        *run.notes,
        f"records:     {', '.join(sets)}, split {settings.data.split}",
        f"validation:  {f'{held_out:,} records, {named_split(settings.validation.split)}' if held_out else 'none'}",
        f"steps:       {schedule.steps_per_epoch:,} per epoch, {schedule.total_steps:,} until epoch "
        f"{schedule.epoch(schedule.total_steps):g} (schedule {settings.optimizer.schedule_epochs:g})",
        f"batch:       {batch} = {devices} x {batch // devices // micro_batch} x {micro_batch} "
        f"(devices, accumulation, micro-batch)" + (f", mix groups of {task.group}" if task.group > 1 else ""),
        f"lr:          largest {schedule.rate(round(peak_epoch * schedule.steps_per_epoch)):.3g}, "
        f"at epoch {peak_epoch:g}",
        f"checkpoints: {resources.tree_bytes(state) / GIB:.2f} GiB each, the last {settings.checkpoint.keep} and "
        f"{len(schedule.milestones())} milestones are kept",
    ]
    yield from [*lines, "", resources.table(resources.parts_of(task)), ""]
    yield from gpu_memory_text(task, batch // devices // micro_batch > 1)
    yield memory_text(run, state)


def gpu_memory_text(task: Task, accumulates: bool) -> list[str]:
    """What GPUs with 80 and 141 GB hold, where the compiler's figures of such a step are known; nothing otherwise.

    Args:
        task: The task, with the micro-batch set.
        accumulates: Whether gradients are summed over several micro-batches, which keeps them twice.
    """
    model = task.settings.model
    size = next((name for name, size in SIZES.items() if asdict(size).items() <= asdict(model).items()), "")
    key = (getattr(task, "name", task.kind), size, model.kernel, model.recompute)
    known = (model.dtype, model.image_size, model.kernels) == ("bfloat16", 128, None)
    step = gpu_memory.STEPS.get(key) if known else None
    if step is None:
        return []
    kept = resources.tree_bytes(abstract_model(*task.model)[1]) if accumulates else 0
    fits = {
        device: gpu_memory.largest_batch(*step, gpu_memory.usable(memory) - kept)
        for device, memory in gpu_memory.MEMORY.items()
    }
    figures = " and ".join(f"about {count:,} on an {device}" for device, count in fits.items())
    return [
        f"on GPUs:     largest micro-batch by the program compiled for one (an estimate, not measured): {figures}; "
        f"here {task.settings.batch.micro_batch}"
    ]


def memory_text(run: Run, state: TrainState) -> str:
    """Memory of a compiled training step and of resident records, per device.

    Raises:
        UserError: The device has less memory.
    """
    held, available = bytes_per_device(run) if run.settings.data.resident else 0, resources.device_memory()
    resources.check_records_fit(held, resources.device_bytes(state), run.mesh.size)
    needed = step_memory(run, state)
    if needed is None:
        return "memory:      not known for this device"
    text = f"memory:      {needed / GIB:.2f} GiB per device for a training step"
    text += f" and {held / GIB:.2f} for its share of the training records" if held else ""
    if available is None:
        return f"{text}; the memory of the device is not known"
    if needed + held > available:
        micro = run.task.settings.batch.micro_batch or 1
        records = f" and its share of the training records {held / GIB:.1f}" if held else ""
        raise UserError(
            f"a training step needs {needed / GIB:.1f} GiB{records}, the device has {available / GIB:.1f}; "
            f"{'give --config.data.resident=false, use more devices, or ' if held else 'give '}"
            f"--config.batch.micro_batch={max(1, micro // 2)} (now {micro}) or --config.model.recompute=block"
        )
    return f"{text}, {available / GIB:.2f} GiB available"


def step_memory(run: Run, state: TrainState) -> int | None:
    """Bytes that a training step needs on one device, its state included, as estimated by the compiler."""
    rows = run.settings.batch.global_batch
    one = read_mixed(run.sources, np.zeros(1, np.int64), run.task.columns)
    shapes = {name: jax.ShapeDtypeStruct((rows, *one[name].shape[1:]), one[name].dtype) for name in run.task.columns}
    batch = placed(shapes, run.mesh, split=True)
    step: Any = run.train_step
    with progress("compiling the training step"):
        analysis = step.lower(state, batch, np.float32(0)).compile().memory_analysis()
    if analysis is None:
        return None
    return int(
        analysis.argument_size_in_bytes
        + analysis.output_size_in_bytes
        + analysis.temp_size_in_bytes
        - analysis.alias_size_in_bytes
    )
