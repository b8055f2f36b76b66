"""What is done and reported at a loss that is not finite, and at a spike."""

import json
from collections.abc import Sequence
from pathlib import Path

import jax
import numpy as np

from sarwmix_jax.errors import UserError
from sarwmix_jax.training.logs import RunLog
from sarwmix_jax.training.run import Run
from sarwmix_jax.training.throughput import NonFiniteLoss, Spike, Throughput


def not_finite(run: Run, workdir: Path, log: RunLog, good: list[int], error: NonFiniteLoss) -> UserError:
    """The error about a loss that is not finite: step, last good checkpoint, records of the batch.

    For a validation loss no records are named or written.

    Args:
        run: The run.
        workdir: Folder to which the names of all records of the batch are written.
        log: The run's log.
        good: Steps of complete checkpoints, ascending.
        error: The loss, its step and its records.
    """
    good_step = f"last good checkpoint: {f'step {good[-1]}' if good else 'none'}"
    names = names_of(run, error.records)
    log.write("not_finite", step=error.step, metrics=error.values, records=names)
    if not names:
        return UserError(
            f"the validation loss is not finite at step {error.step}; {good_step}; lower "
            "--config.optimizer.base_lr= or give --config.optimizer.clip_grad=1"
        )
    place = workdir / f"not_finite_step_{error.step}_process_{jax.process_index()}.json"
    place.write_text(json.dumps({"step": error.step, "metrics": error.values, "records": names}, indent=2) + "\n")
    shown = ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")
    optimizer = run.settings.optimizer
    after = "" if optimizer.on_divergence == "stop" else f", after {optimizer.max_skipped} skipped steps"
    return UserError(
        f"the loss is not finite at step {error.step}{after}; {good_step}; records of the batch: {shown} "
        f"(all in {place}); check them, or lower --config.optimizer.base_lr= or give --config.optimizer.clip_grad=1"
    )


def can_skip(run: Run, error: NonFiniteLoss, skipped: Sequence[int]) -> bool:
    """Whether the run may go on without this step: it is asked for, and not too many before it were skipped."""
    optimizer = run.settings.optimizer
    wanted = optimizer.on_divergence != "stop" and len(error.records) > 0  # of a validation there is nothing to skip
    return wanted and skipped_before(skipped, error.step) < optimizer.max_skipped


def skipped_before(skipped: Sequence[int], step: int) -> int:
    """How many steps immediately before a step were skipped."""
    first = step
    while first - 1 in skipped:
        first -= 1
    return step - first


def write_skipped(run: Run, log: RunLog, error: NonFiniteLoss, how: str) -> None:
    """Log a step whose update is left out, with the names of its records."""
    names = names_of(run, error.records)
    log.write("skipped", step=error.step, metrics=error.values, records=names, how=how)
    log.show(f"step {error.step}: the loss is not finite; {how} (records in the log: {', '.join(names[:3])}, ...)")


def write_faults(run: Run, log: RunLog, throughput: Throughput, skipped: tuple[int, ...]) -> tuple[int, ...]:
    """Log the steps that were skipped on the devices, and the spikes; returns all steps that were skipped.

    Raises:
        NonFiniteLoss: Too many steps in a row were skipped.
    """
    for error in throughput.skipped:
        if not can_skip(run, error, skipped):
            raise error
        write_skipped(run, log, error, "its update is left out")
        skipped += (error.step,)
    for spike in throughput.found:
        write_spike(run, log, spike)
    return skipped


def write_spike(run: Run, log: RunLog, spike: Spike) -> None:
    """Log a loss far above those before it, with the names of its records."""
    step, loss, mean, deviations, records = spike
    log.write("spike", step=step, loss=loss, mean=mean, deviations=deviations, records=names_of(run, records))
    window = run.settings.log.spike_window
    far = f"{deviations:.1f} standard deviations above the mean {mean:.4f} of the {window} steps before"
    log.show(f"step {step}: loss {loss:.4f} is {far}; the log has its records")


def names_of(run: Run, numbers: np.ndarray) -> list[str]:
    """Names of records by their numbers, counted over all sets; the number itself where a record cannot be read."""
    return [name_of(run, int(number)) for number in numbers]


def name_of(run: Run, number: int) -> str:
    """Name of a record by its number."""
    place = number
    for source in run.sources:
        if place < len(source):
            try:
                return str(source.name_of(place))
            except UserError:
                return f"record {number}"
        place -= len(source)
    raise IndexError(number)
