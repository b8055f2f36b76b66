"""The only training loop: set up, initialise, restore, iterate."""

import dataclasses
import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

from sarwmix_jax.errors import UserError
from sarwmix_jax.facts.bands import BANDS
from sarwmix_jax.settings import PretrainingSettings
from sarwmix_jax.training import cost, inputs, resume
from sarwmix_jax.training.checkpoints import FOLDER, Checkpoints, describe
from sarwmix_jax.training.dry_run import check_disk, check_resident
from sarwmix_jax.training.feed import Feed, training_input
from sarwmix_jax.training.interrupt import Interrupt
from sarwmix_jax.training.logs import RunLog
from sarwmix_jax.training.meter import Meter, NonFiniteLoss
from sarwmix_jax.training.parallel import replicate
from sarwmix_jax.training.setup import (
    Run,
    abstract_stored_state,
    in_memory,
    initialise,
    set_up,
    settings_json,
    stored,
)
from sarwmix_jax.training.steps import TrainState
from sarwmix_jax.version import __version__


@dataclass
class Progress:
    """Where a run stands.

    Attributes:
        state: parameters, optimiser state, step.
        step: optimiser steps done, as a plain number (the state's own would have to be waited for).
        best_step: step with the lowest validation loss so far.
        best_loss: that loss.
        saved: step of the last checkpoint of this start, or the one it came from.
        first_loss: loss of this start's first step.
        last_loss: loss of its last logged steps.
        interrupted: name of the signal that ended it early.
    """

    state: TrainState
    step: int = 0
    best_step: int | None = None
    best_loss: float | None = None
    saved: int | None = None
    first_loss: float | None = None
    last_loss: float | None = None
    interrupted: str | None = None


@dataclass(frozen=True)
class Desk:
    """Where a run writes."""

    workdir: Path
    checkpoints: Checkpoints
    log: RunLog


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
    run = set_up(settings, None if previous is None else previous.mix_group)
    with open_desk(run, workdir) as desk:
        for line in changed:
            desk.log.say(f"changed by --override: {line}")
        progress = restore(run, desk) or Progress(initialise(run, desk.log))
        return iterate(run, desk, progress)


@contextmanager
def open_desk(run: Run, workdir: Path) -> Iterator[Desk]:
    """Make the work directory, write the settings into it, open log and checkpoints."""
    check_resident(run)
    check_disk(run, workdir)
    try:
        workdir.mkdir(parents=True, exist_ok=True)
        (workdir / "settings.json").write_text(json.dumps(settings_json(run.settings), indent=2) + "\n")
    except OSError as error:
        raise UserError(f"cannot write in {workdir}: {error.strerror}; choose another --workdir") from error
    settings = run.settings.checkpoint
    checkpoints = Checkpoints(workdir / FOLDER, keep=settings.keep, milestones=run.calendar.milestones(settings))
    try:
        with RunLog(workdir, run.calendar.total_steps, quiet=jax.process_index() != 0) as run_log:
            yield Desk(workdir, checkpoints, run_log)
    finally:
        checkpoints.close()


def restore(run: Run, desk: Desk) -> Progress | None:
    """The newest usable checkpoint of the work directory; None where there is none."""
    restored = desk.checkpoints.restore_latest(abstract_stored_state(run)._asdict())
    if restored is None:
        return None
    step = replicate(jnp.asarray(restored.step, jnp.int32), run.mesh)
    best = restored.description["progress"].get("best") or {}
    desk.log.say(f"continuing at step {restored.step} from {desk.checkpoints.directory / str(restored.step)}")
    state = in_memory(TrainState(**restored.state, step=step), run)
    return Progress(state, restored.step, best.get("step"), best.get("validation_loss"), saved=restored.step)


def iterate(run: Run, desk: Desk, progress: Progress) -> Progress:
    """Train to the end of the run, or to a signal; saves, validates and logs when the calendar says so."""
    start, total = progress.step, run.calendar.total_steps
    tell_start(run, desk, start)
    if start >= total:
        desk.log.say(f"nothing to do: {start} of {total} steps are done")
        return progress
    flops, peak = cost.training_flops(run.steps.model), cost.peak_flops(jax.devices()[0])
    batches = training_input(run, start, desk.log)
    meter = Meter(run.settings.batch.global_batch, run.mesh.size, flops, peak)
    with Interrupt() as interrupt:
        try:
            while progress.step < total and not progress.interrupted:
                take_step(run, progress, batches, meter)
                progress.interrupted = interrupt.name
                look_after(run, desk, progress, meter, first=start + 1)
        except NonFiniteLoss as error:
            raise not_finite(run, desk, error) from error
        finally:
            batches.close()
    desk.checkpoints.wait()
    if progress.interrupted:
        where = progress.step
        desk.log.say(f"{progress.interrupted}: saved and stopped at step {where}; the same command goes on from there")
    desk.log.write("end", step=progress.step, interrupted=progress.interrupted)
    return progress


def look_after(run: Run, desk: Desk, progress: Progress, meter: Meter, *, first: int) -> None:
    """After a step: log, validate, save, as far as they are due or a signal asks for it."""
    done, calendar = progress.step, run.calendar
    pause = calendar.validation_due(done) or calendar.checkpoint_due(done) or progress.interrupted is not None
    if pause or calendar.log_due(done, first):
        report(run, desk, progress, meter)
    desk.log.advance(done)
    if pause:
        validate_and_save(run, desk, progress)
        meter.restart()


def tell_start(run: Run, desk: Desk, start: int) -> None:
    """Write down settings, devices and what the model costs."""
    parts = cost.pretraining_parts(run.steps.model)
    desk.log.say(cost.table(parts))
    desk.log.write(
        "start",
        step=start,
        devices=[device.device_kind for device in jax.devices()],
        versions={"sarwmix_jax": __version__, "jax": jax.__version__},
        mix_group=run.steps.mix_group,
        parts=[dataclasses.asdict(part) for part in parts],
        settings=settings_json(run.settings),
    )


def take_step(run: Run, progress: Progress, batches: Feed, meter: Meter) -> None:
    """Start one optimiser step on the next batch."""
    batch = next(batches)
    meter.waited(batch.waited)
    rate = run.calendar.rate(progress.step)
    progress.state, metrics = run.train_step(progress.state, batch.arrays, np.float32(rate))
    meter.add(progress.step, metrics, batch.records)
    progress.step += 1


def report(run: Run, desk: Desk, progress: Progress, meter: Meter) -> None:
    """Log the means over the steps since the last report.

    Raises:
        NonFiniteLoss: one of them went wrong.
    """
    desk.checkpoints.check()
    values, done = meter.flush(), progress.step
    progress.first_loss = values["loss"] if progress.first_loss is None else progress.first_loss
    progress.last_loss = values["loss"]
    values |= {"epoch": run.calendar.epoch(done), "learning_rate": run.calendar.rate(done - 1)}
    desk.log.write("train", step=done, **values)
    desk.log.advance(done, values)


def validate_and_save(run: Run, desk: Desk, progress: Progress) -> None:
    """Validation loss when due; a checkpoint when due, at a signal, or when the loss is the best so far."""
    better, done = False, progress.step
    if run.validate is not None and run.calendar.validation_due(done):
        values = run.validate(progress.state.params, progress.state.fixed)
        better = progress.best_loss is None or values["loss"] < progress.best_loss
        if better:
            progress.best_step, progress.best_loss = done, values["loss"]
        desk.log.write("validation", step=done, epoch=run.calendar.epoch(done), **values)
        desk.log.say(f"step {done}: validation loss {values['loss']:.4f}{' (best)' if better else ''}")
    keep_best = run.settings.checkpoint.best
    if progress.interrupted or run.calendar.checkpoint_due(done) or (better and keep_best):
        save(run, desk, progress)
        desk.log.write("checkpoint", step=done)


def save(run: Run, desk: Desk, progress: Progress) -> None:
    """Write a checkpoint of the present state with everything a restart needs."""
    best = {"step": progress.best_step, "validation_loss": progress.best_loss}
    known = run.settings.checkpoint.best and progress.best_step is not None
    description = describe(
        "pretraining",
        run.steps.model,
        bands=BANDS,
        unit="dB",
        statistics={"name": run.settings.data.statistics, **dataclasses.asdict(run.steps.statistics)},
        source=inputs.describe_sources(run.settings, run.sources),
        settings=settings_json(run.settings),
        progress={
            "step": progress.step,
            "epoch": run.calendar.epoch(progress.step),
            "mix_group": run.steps.mix_group,
            "best": best if known else None,
        },
    )
    kept = progress.best_step if known else None
    desk.checkpoints.save(progress.step, stored(progress.state, run)._asdict(), description, best=kept)
    progress.saved = progress.step


def not_finite(run: Run, desk: Desk, error: NonFiniteLoss) -> UserError:
    """What to tell about a loss that is not a number: step, last good checkpoint, the batch's records."""
    names = inputs.record_names(run.sources, error.records)
    place = desk.workdir / f"not_finite_step_{error.step}_process_{jax.process_index()}.json"
    place.write_text(json.dumps({"step": error.step, "metrics": error.values, "records": names}, indent=2) + "\n")
    desk.log.write("not_finite", step=error.step, metrics=error.values, records=names)
    desk.checkpoints.wait()
    good = desk.checkpoints.steps()
    shown = ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")
    return UserError(
        f"the loss is not finite at step {error.step}; last good checkpoint: {f'step {good[-1]}' if good else 'none'}; "
        f"records of the batch: {shown} (all in {place}); look at them, or lower optimizer.base_lr or set clip_grad"
    )
