"""The only training loop: set up, initialise, restore, iterate."""

import dataclasses
import json
import time
from dataclasses import dataclass
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

from sarwmix_jax.data.pipeline import TrainingInput
from sarwmix_jax.errors import UserError
from sarwmix_jax.facts.bands import BANDS
from sarwmix_jax.settings import PretrainingSettings
from sarwmix_jax.training import inputs, resume
from sarwmix_jax.training.checkpoints import FOLDER, describe
from sarwmix_jax.training.interrupt import Interrupt
from sarwmix_jax.training.logs import RunLog
from sarwmix_jax.training.meter import Meter, NonFiniteLoss
from sarwmix_jax.training.parallel import replicate
from sarwmix_jax.training.setup import Run, initialise, set_up, settings_json
from sarwmix_jax.training.steps import TrainState
from sarwmix_jax.training.validation import device_batch


@dataclass
class Progress:
    """Where a run stands.

    Attributes:
        state: parameters, optimiser state, step.
        best_step: step with the lowest validation loss so far.
        best_loss: that loss.
        saved: step of the last checkpoint of this start, or the one it came from.
        first_loss: loss of this start's first step.
        last_loss: loss of its last logged steps.
        interrupted: name of the signal that ended it early.
    """

    state: TrainState
    best_step: int | None = None
    best_loss: float | None = None
    saved: int | None = None
    first_loss: float | None = None
    last_loss: float | None = None
    interrupted: str | None = None

    @property
    def step(self) -> int:
        """Optimiser steps done."""
        return int(self.state.step)


def pretrain(settings: PretrainingSettings, workdir: Path, *, override: bool = False) -> Progress:
    """Run or continue a pretraining run in `workdir`.

    Args:
        settings: checked settings (`plan.resolve`).
        workdir: folder of the run; created when missing. A run that has checkpoints there goes on.
        override: go on although settings differ from those of the checkpoint.

    Raises:
        UserError: settings, records, device count or checkpoints do not fit; the loss is not finite.
    """
    previous = resume.previous_run(workdir / FOLDER)
    changed = resume.check_same(previous, settings, workdir, override=override)
    run = set_up(settings, workdir, None if previous is None else previous.mix_group)
    try:
        with RunLog(workdir, run.calendar.total_steps, quiet=jax.process_index() != 0) as run_log:
            for line in changed:
                run_log.say(f"changed by --override: {line}")
            progress = restore(run, initialise(run, run_log, fresh=previous is None), run_log)
            return iterate(run, progress, run_log)
    finally:
        run.checkpoints.close()


def restore(run: Run, state: TrainState, run_log: RunLog) -> Progress:
    """The newest usable checkpoint of the work directory, else the given state."""
    restored = run.checkpoints.restore_latest(state._asdict())
    if restored is None:
        return Progress(state)
    step = replicate(jnp.asarray(restored.step, jnp.int32), run.mesh)
    best = restored.description["progress"].get("best") or {}
    run_log.say(f"continuing at step {restored.step} from {run.checkpoints.directory / str(restored.step)}")
    return Progress(
        TrainState(**restored.state, step=step), best.get("step"), best.get("validation_loss"), restored.step
    )


def iterate(run: Run, progress: Progress, run_log: RunLog) -> Progress:
    """Train to the end of the run, or to a signal; saves, validates and logs when the calendar says so."""
    start, calendar, batch = progress.step, run.calendar, run.settings.batch.global_batch
    meter = Meter(batch, run.mesh.size)
    run_log.write(
        "start", step=start, devices=[str(device) for device in jax.devices()], settings=settings_json(run.settings)
    )
    if start >= calendar.total_steps:
        run_log.say(f"nothing to do: {start} of {calendar.total_steps} steps are done")
        return progress
    batches = training_input(run, start)
    with Interrupt() as interrupt:
        try:
            for step in range(start, calendar.total_steps):
                take_step(run, progress, batches, meter, step)
                done = step + 1
                if calendar.log_due(done, start + 1) or interrupt.name:
                    report(run, progress, meter, run_log, done)
                run_log.advance(done)
                if calendar.validation_due(done) or calendar.checkpoint_due(done) or interrupt.name:
                    report(run, progress, meter, run_log, done)
                    validate_and_save(run, progress, run_log, done, force=bool(interrupt.name))
                    meter.restart()
                if interrupt.name and done < calendar.total_steps:
                    progress.interrupted = interrupt.name
                    run_log.say(
                        f"{interrupt.name}: saved and stopped at step {done}; the same command goes on from there"
                    )
                    break
        except NonFiniteLoss as error:
            raise not_finite(run, error, run_log) from error
        finally:
            batches.close()
    run.checkpoints.wait()
    run_log.write("end", step=progress.step, interrupted=progress.interrupted)
    return progress


def training_input(run: Run, start: int) -> TrainingInput:
    """Batches from step `start` on; they depend on seed and step alone."""
    data = run.settings.data
    return TrainingInput(
        run.sources,
        run.settings.batch.global_batch,
        run.settings.seed,
        weights=data.mix_weights,
        start_step=start,
        process_index=jax.process_index(),
        process_count=jax.process_count(),
        threads=data.threads,
        workers=data.workers,
        prefetch=data.prefetch,
    )


def take_step(run: Run, progress: Progress, batches: TrainingInput, meter: Meter, step: int) -> None:
    """Start one optimiser step on the next batch."""
    asked = time.perf_counter()
    host = next(batches)
    meter.waited(time.perf_counter() - asked)
    arrays = device_batch(host, run.mesh, nodata=run.settings.data.nodata_aware)
    rate = run.calendar.rate(step)
    progress.state, metrics = run.train_step(progress.state, arrays, np.float32(rate))
    meter.add(step, metrics, host["record"])


def report(run: Run, progress: Progress, meter: Meter, run_log: RunLog, done: int) -> None:
    """Log the means over the steps since the last report.

    Raises:
        NonFiniteLoss: one of them went wrong.
    """
    values = meter.flush()
    if not values:
        return
    progress.first_loss = values["loss"] if progress.first_loss is None else progress.first_loss
    progress.last_loss = values["loss"]
    values |= {"epoch": run.calendar.epoch(done), "learning_rate": run.calendar.rate(done - 1)}
    run_log.write("train", step=done, **values)
    run_log.advance(done, values)


def validate_and_save(run: Run, progress: Progress, run_log: RunLog, done: int, *, force: bool) -> None:
    """Validation loss when due; a checkpoint when due, when asked for, or when the loss is the best so far."""
    better = False
    if run.validate is not None and run.calendar.validation_due(done):
        values = run.validate(progress.state.params, progress.state.fixed)
        better = progress.best_loss is None or values["loss"] < progress.best_loss
        if better:
            progress.best_step, progress.best_loss = done, values["loss"]
        run_log.write("validation", step=done, epoch=run.calendar.epoch(done), **values)
        run_log.say(f"step {done}: validation loss {values['loss']:.4f}{' (best)' if better else ''}")
    keep_best = run.settings.checkpoint.best
    if force or run.calendar.checkpoint_due(done) or (better and keep_best):
        save(run, progress, done, best=progress.best_step if keep_best else None)
        run_log.write("checkpoint", step=done)


def save(run: Run, progress: Progress, done: int, best: int | None) -> None:
    """Write a checkpoint of the present state with everything a restart needs."""
    description = describe(
        "pretraining",
        run.steps.model,
        bands=BANDS,
        unit="dB",
        statistics={"name": run.settings.data.statistics, **dataclasses.asdict(run.steps.statistics)},
        source=inputs.describe_sources(run.settings, run.sources),
        settings=settings_json(run.settings),
        progress={
            "step": done,
            "epoch": run.calendar.epoch(done),
            "mix_group": run.steps.mix_group,
            "best": None if best is None else {"step": best, "validation_loss": progress.best_loss},
        },
    )
    run.checkpoints.save(done, progress.state._asdict(), description, best=best)
    progress.saved = done


def not_finite(run: Run, error: NonFiniteLoss, run_log: RunLog) -> UserError:
    """What to tell about a loss that is not a number: step, last good checkpoint, the batch's records."""
    names = inputs.record_names(run.sources, error.records)
    place = run.workdir / f"not_finite_step_{error.step}_process_{jax.process_index()}.json"
    place.write_text(json.dumps({"step": error.step, "metrics": error.values, "records": names}, indent=2) + "\n")
    run_log.write("not_finite", step=error.step, metrics=error.values, records=names)
    run.checkpoints.wait()
    good = run.checkpoints.steps()
    shown = ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")
    return UserError(
        f"the loss is not finite at step {error.step}; last good checkpoint: {f'step {good[-1]}' if good else 'none'}; "
        f"records of the batch: {shown} (all in {place}); look at them, or lower optimizer.base_lr or set clip_grad"
    )
