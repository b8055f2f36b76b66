"""The training loop of all tasks: set up, restore or initialise, iterate."""

import dataclasses
import json
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import jax
import numpy as np

from sarwmix_jax.checkpoints import restore
from sarwmix_jax.checkpoints.integrity import FOLDER
from sarwmix_jax.checkpoints.store import Checkpoints, describe
from sarwmix_jax.data.subsets import Subset
from sarwmix_jax.errors import UserError
from sarwmix_jax.processes import asked_to_stop, ended_by_second_ctrl_c, noted_signals
from sarwmix_jax.progress import silent
from sarwmix_jax.settings.config import as_json
from sarwmix_jax.settings.sections import RunSettings
from sarwmix_jax.tasks.gradients import TrainState, replicate
from sarwmix_jax.training import resources
from sarwmix_jax.training.device_cache import ResidentFeed, bytes_per_device
from sarwmix_jax.training.divergence import can_skip, not_finite, write_faults, write_skipped
from sarwmix_jax.training.labelled import write_samples
from sarwmix_jax.training.lock import only_run
from sarwmix_jax.training.logs import RunLog
from sarwmix_jax.training.run import LoaderFeed, Run, abstract_state, describe_sources, first_state, set_up, stored
from sarwmix_jax.training.throughput import NonFiniteLoss, Throughput, log_start
from sarwmix_jax.training.validation import validate

Feed = LoaderFeed | ResidentFeed


@dataclass
class Progress:
    """Progress of a run.

    Attributes:
        state: Parameters, optimiser state, step.
        step: Optimiser steps done, as a plain number (that of the state would have to be waited for).
        best: By selection rule, step and scores of the best validation so far.
        stale: Validations since the last improvement by the first rule.
        skipped: Steps whose update was left out, as their loss was not finite; counted from 0, ascending.
        saved: Step of the last checkpoint since this start, or of the one it started from.
        first_loss: Loss of the first step since this start.
        last_loss: Loss of the last logged steps.
        interrupted: Name of the signal that ended the run early.
    """

    state: TrainState
    step: int = 0
    best: dict[str, Any] = field(default_factory=dict)
    stale: int = 0
    skipped: tuple[int, ...] = ()
    saved: int | None = None
    first_loss: float | None = None
    last_loss: float | None = None
    interrupted: str | None = None


@dataclass(frozen=True)
class Output:
    """Log and checkpoints of a run."""

    workdir: Path
    checkpoints: Checkpoints
    log: RunLog


def train(settings: RunSettings, workdir: Path, *, override: bool = False) -> Progress:
    """Run or continue a run in `workdir`.

    Args:
        settings: Checked settings (`config.resolve`).
        workdir: Folder of the run; created if missing. A run with checkpoints there is continued.
        override: Continue although settings differ from those of the checkpoint.

    Raises:
        UserError: Settings, records, device count or checkpoints do not fit; the loss is not finite.
    """
    previous = restore.previous_run(workdir / FOLDER)
    changed = restore.check_same(previous, settings, workdir, override=override)
    run = set_up(settings, previous)
    with ended_by_second_ctrl_c(), open_output(run, workdir, replace=not previous or bool(changed)) as output:
        output.log.show(*(f"changed by --override: {line}" for line in changed), *run.notes)
        return iterate(run, output, begin(run, output))


@contextmanager
def open_output(run: Run, workdir: Path, *, replace: bool) -> Iterator[Output]:
    """Create the work directory, write settings and names of chosen samples to it, open log and checkpoints."""
    state, held = abstract_state(run), bytes_per_device(run) if run.settings.data.resident else 0
    resources.check_records_fit(held, resources.device_bytes(state), run.mesh.size)
    resources.check_disk(resources.tree_bytes(state), workdir)
    keep, bands, quiet = run.settings.checkpoint.keep, run.settings.model.bands, jax.process_index() != 0
    with only_run(workdir, hold=not quiet) as note:
        try:
            if not quiet:
                (workdir / "settings.json").write_text(json.dumps(as_json(run.settings), indent=2) + "\n")
            if any(isinstance(source, Subset) for source in run.sources):
                write_samples(workdir, run.settings.data.records, run.sources, run.held_out, replace=replace)
        except OSError as error:
            raise UserError(f"cannot write in {workdir}: {error.strerror}; choose another --workdir") from error
        checkpoints = Checkpoints(workdir / FOLDER, keep=keep, milestones=run.schedule.milestones())
        try:
            with silent(quiet), RunLog(workdir, run.schedule.total_steps, quiet=quiet, bands=bands) as run_log:
                run_log.show(*([note] if note else []))
                yield Output(workdir, checkpoints, run_log)
        finally:
            checkpoints.close()


def begin(run: Run, output: Output) -> Progress:
    """The progress at this start: that of the newest usable checkpoint, or none."""
    state, start = first_state(run, output.checkpoints)
    if start.report is not None:
        output.log.show(start.report[0])
        output.log.write("begin", **start.report[1])
    known = start.progress
    best, stale, skipped = known.get("best") or {}, known.get("stale", 0), tuple(known.get("skipped", ()))
    return Progress(state, start.step, best, stale, skipped, saved=start.step if known else None)


def iterate(run: Run, output: Output, progress: Progress) -> Progress:
    """Train to the end of the run, or to a signal; saves, validates and logs when due by the schedule."""
    start, total, log = progress.step, run.schedule.total_steps, output.log
    throughput = log_start(run, log, output.workdir, start)
    if start >= total or out_of_patience(run, progress):
        log.show(f"nothing to do: {start} of {total} steps are done")
        return progress
    feed: Feed = ResidentFeed(run, start, log) if run.settings.data.resident else LoaderFeed(run, start)
    throughput.restart("initialisation")
    run = dataclasses.replace(run, train_step=resources.announced(run.train_step, log))
    with noted_signals() as signals:
        try:
            while progress.step < total and not progress.interrupted and not out_of_patience(run, progress):
                try:
                    with saved_if_unreadable(run, output, progress, throughput):
                        take_step(run, progress, feed, throughput)
                    progress.interrupted = asked_to_stop(signals)
                    after_step(run, output, progress, throughput, first=start + 1)
                except NonFiniteLoss as error:
                    progress = rolled_back(run, output, progress, error)
                    feed.go_to(progress.step)
                    throughput.drop()
        finally:
            feed.close()
        output.checkpoints.wait()
        throughput.restart("checkpoint")
    if out_of_patience(run, progress):
        log.show(f"step {progress.step}: {progress.stale} validations without improvement; the run ends here")
    if progress.interrupted:
        log.show(f"{progress.interrupted}: saved at step {progress.step}; the same command continues from there")
    log.write("end", step=progress.step, interrupted=progress.interrupted, seconds=throughput.rounded_seconds)
    return progress


def rolled_back(run: Run, output: Output, progress: Progress, error: NonFiniteLoss) -> Progress:
    """Progress at the last checkpoint, from which the steps are repeated without the one that is not finite.

    Raises:
        UserError: This is not asked for, or too many steps were skipped.
    """
    log, steps = output.log, output.checkpoints.steps
    output.checkpoints.wait()
    if run.settings.optimizer.on_divergence != "roll_back" or not can_skip(run, error, progress.skipped):
        raise not_finite(run, output.workdir, log, steps(), error) from error
    write_skipped(run, log, error, f"rolled back to step {max(steps(), default=0)}, to leave it out")
    jax.tree.map(lambda leaf: leaf.delete(), progress.state)  # two states need not fit into the memory
    again = begin(run, output)
    skipped = tuple(sorted({*progress.skipped, error.step}))
    return dataclasses.replace(again, skipped=skipped, first_loss=progress.first_loss, last_loss=progress.last_loss)


@contextmanager
def saved_if_unreadable(run: Run, output: Output, progress: Progress, throughput: Throughput) -> Iterator[None]:
    """Save the state so far if records can no longer be read in this context.

    Raises:
        UserError: They cannot; the line also states where the run is saved.
    """
    try:
        yield
    except UserError as error:
        if progress.saved == progress.step or not progress.step or jax.process_count() > 1:
            raise  # nothing to save; and to save takes all processes, of which the others still compute
        write_step(run, output, progress, throughput)
        save(run, output, progress)
        output.checkpoints.wait()
        raise UserError(f"{error}; the run is saved at step {progress.step}") from error


def out_of_patience(run: Run, progress: Progress) -> bool:
    """Whether the run ends because of too many validations without improvement."""
    patience = getattr(run.settings.validation, "patience", None)
    return patience is not None and progress.stale >= patience


def take_step(run: Run, progress: Progress, feed: Feed, throughput: Throughput) -> None:
    """Start one optimiser step on the next batch, or leave it out if it is to be skipped."""
    asked = time.perf_counter()
    batch = next(feed)
    throughput.waited(time.perf_counter() - asked)
    if progress.step in progress.skipped:  # after a return to a checkpoint
        progress.state = progress.state._replace(step=replicate(np.int32(progress.step + 1), run.mesh))
    else:
        rate = np.float32(run.schedule.rate(progress.step))
        progress.state, metrics = run.train_step(progress.state, batch.arrays, rate)
        throughput.add(progress.step, metrics, batch.records)
    progress.step += 1


def after_step(run: Run, output: Output, progress: Progress, throughput: Throughput, *, first: int) -> None:
    """After a step: log, validate and save, where due or because of a signal."""
    done, schedule = progress.step, run.schedule
    probe_due = run.probe is not None and schedule.probe_due(done)
    pause = probe_due or schedule.validation_due(done) or schedule.checkpoint_due(done) or bool(progress.interrupted)
    if pause or schedule.log_due(done, first):
        write_step(run, output, progress, throughput)
    output.log.advance(done - throughput.in_flight)
    if probe_due and run.probe is not None:
        with saved_if_unreadable(run, output, progress, throughput):
            scores = run.probe(progress.state.params, progress.state.fixed)
        output.log.write_probe(done, schedule.epoch(done), scores)
    if pause:
        validate_and_save(run, output, progress, throughput)
        throughput.restart()


def write_step(run: Run, output: Output, progress: Progress, throughput: Throughput) -> None:
    """Log the means over the steps since the last line.

    Raises:
        NonFiniteLoss: The loss or the gradient norm of a step is not finite, and it may not be skipped.
    """
    output.checkpoints.check()
    values, done = throughput.flush(), progress.step
    if throughput.skipped or throughput.found:
        progress.skipped = write_faults(run, output.log, throughput, progress.skipped)
    if not values:
        return
    progress.first_loss = values["loss"] if progress.first_loss is None else progress.first_loss
    progress.last_loss = values["loss"]
    values |= {"epoch": run.schedule.epoch(done), "learning_rate": run.schedule.rate(done - 1)}
    output.log.write("train", step=done, **values)
    output.log.advance(done, values)


def validate_and_save(run: Run, output: Output, progress: Progress, throughput: Throughput) -> None:
    """Validate when due; save a checkpoint when due, at a signal, or for a new best by a selection rule."""
    better: list[str] = []
    if run.validate is not None and run.schedule.validation_due(progress.step):
        with saved_if_unreadable(run, output, progress, throughput):
            values = run.validate(progress.state.params, progress.state.fixed)
        better = validate(run, output, progress, values)
    throughput.restart("evaluation")
    due = run.schedule.checkpoint_due(progress.step) or out_of_patience(run, progress)
    if progress.interrupted or due or (better and run.settings.checkpoint.best):
        save(run, output, progress)
        throughput.restart("checkpoint")
        output.log.write("checkpoint", step=progress.step, seconds=throughput.rounded_seconds)


def save(run: Run, output: Output, progress: Progress) -> None:
    """Write a checkpoint of the current state with everything that a restart needs."""
    step, best = progress.step, progress.best if run.settings.checkpoint.best else {}
    reached = {"step": step, "epoch": run.schedule.epoch(step), "mix_group": run.task.group}
    description = describe(
        run.task.kind,
        run.task.settings.model,
        run.task.statistics,
        run.settings.data.statistics,
        source=describe_sources(run),
        settings=as_json(run.settings),
        progress=reached | {"best": best, "stale": progress.stale, "skipped": progress.skipped},
        **run.task.description,
    )
    kept = [each["step"] for each in best.values()]
    output.checkpoints.save(step, stored(progress.state, run)._asdict(), description, best=kept)
    progress.saved = step
