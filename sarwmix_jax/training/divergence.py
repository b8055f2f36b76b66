"""The report of a run whose loss is not finite."""

import json
from pathlib import Path

import jax

from sarwmix_jax.errors import UserError
from sarwmix_jax.training.logs import RunLog
from sarwmix_jax.training.run import Run
from sarwmix_jax.training.throughput import NonFiniteLoss


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
    names = [name_of(run, int(number)) for number in error.records]
    log.write("not_finite", step=error.step, metrics=error.values, records=names)
    if not names:
        return UserError(
            f"the validation loss is not finite at step {error.step}; {good_step}; lower "
            "--config.optimizer.base_lr= or give --config.optimizer.clip_grad=1"
        )
    place = workdir / f"not_finite_step_{error.step}_process_{jax.process_index()}.json"
    place.write_text(json.dumps({"step": error.step, "metrics": error.values, "records": names}, indent=2) + "\n")
    shown = ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")
    return UserError(
        f"the loss is not finite at step {error.step}; {good_step}; records of the batch: {shown} (all in {place}); "
        "check them, or lower --config.optimizer.base_lr= or give --config.optimizer.clip_grad=1"
    )


def name_of(run: Run, number: int) -> str:
    """Name of a record by its number, counted over all sets."""
    for source in run.sources:
        if number < len(source):
            return str(source.name_of(number))
        number -= len(source)
    raise IndexError(number)
