"""The audit of a run: logged steps are repeated from a checkpoint, and must give the same bits.

Compared are the lines of the log, which have means over steps, and the checksums of all arrays of the next checkpoint:
parameters and moments of the optimiser. Nothing of the run is changed.
"""

import dataclasses
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import jax

from sarwmix_jax.checkpoints import integrity
from sarwmix_jax.checkpoints.integrity import FOLDER, ITEMS, complete_steps, named
from sarwmix_jax.checkpoints.reading import Reader
from sarwmix_jax.checkpoints.restore import Previous
from sarwmix_jax.errors import UserError
from sarwmix_jax.progress import progress
from sarwmix_jax.settings.config import differences, stored_settings
from sarwmix_jax.settings.sections import TASKS, ProbeSettings, RunSettings
from sarwmix_jax.tasks.gradients import use_cpu_devices
from sarwmix_jax.training.history import Part, parts_of_run, read_log
from sarwmix_jax.training.logs import FILE_NAME
from sarwmix_jax.training.loop import Progress, take_step
from sarwmix_jax.training.run import LoaderFeed, Run, first_state, set_up, stored
from sarwmix_jax.training.throughput import NonFiniteLoss, Throughput
from sarwmix_jax.version import __version__

HARMLESS = (
    *("data.threads", "data.workers", "data.prefetch", "data.resident", "log.trackers", "log.spike_"),
    *("optimizer.stop_after_", "optimizer.max_skipped"),
)
"""Settings that change neither a bit nor what is logged when."""

TIMES = frozenset({"compile_time", "images_per_second", "step_time", "data_wait", "mfu"})
"""Values of a log line that are never the same twice."""


@dataclass(frozen=True)
class Audit:
    """What is repeated.

    Attributes:
        workdir: Folder of the run.
        begin: Step of the checkpoint from which the run is repeated; 0: from its initial parameters.
        end: Last step to repeat.
        start: The log's line about the start that did these steps.
        lines: Lines of the log to compare with, by step.
        checkpoints: Steps of checkpoints to compare with.
        skipped: Steps that the run left out after it was rolled back, counted from 0.
        notes: What is different here from the run.
    """

    workdir: Path
    begin: int
    end: int
    start: Mapping[str, Any]
    lines: Mapping[int, Mapping[str, Any]]
    checkpoints: tuple[int, ...]
    skipped: tuple[int, ...] = ()
    notes: tuple[str, ...] = ()


@dataclass
class Outcome:
    """What was found.

    Attributes:
        lines: Number of lines of the log that were compared.
        values: Names of the values compared in them.
        arrays: Number of arrays compared, by step of the checkpoint.
        differences: What differs, in order of steps.
    """

    lines: int = 0
    values: tuple[str, ...] = ()
    arrays: dict[int, int] = field(default_factory=dict)
    differences: list[str] = field(default_factory=list)

    @property
    def text(self) -> str:
        """What was compared."""
        parts = [f"{self.lines} lines of the log ({', '.join(self.values)})"] if self.lines else []
        parts += [f"{count} arrays of the checkpoint at step {step}" for step, count in self.arrays.items()]
        return ", ".join(parts)


def plan_audit(workdir: Path, step: int | None = None, count: int | None = None) -> Audit:
    """What an audit repeats, by the log and the checkpoints of a run; computes nothing.

    Args:
        workdir: Folder of the run.
        step: The newest checkpoint at or before this step is the first one; by default the last but one.
        count: Number of steps to repeat; by default those up to the next checkpoint.

    Raises:
        UserError: There is no log, no such checkpoint, or nothing to compare with.
    """
    kept = complete_steps(workdir / FOLDER)
    if not kept or not (workdir / FILE_NAME).is_file():
        raise UserError(f"{workdir} lacks {FILE_NAME} or checkpoints; give the work directory of a run")
    entries = read_log(workdir)
    parts = parts_of_run(entries)
    begun = min((part.first for part in parts), default=kept[-1])
    wanted = kept[-1] - 1 if step is None else step
    begin = max((number for number in (0, *kept) if begun <= number <= wanted), default=-1)
    parts, limit = _computed_alike(parts, begin)
    if not parts:
        raise UserError(
            f"{workdir} has no logged steps after a checkpoint at or before step {wanted}; its checkpoints are at "
            f"{', '.join(map(str, kept))}, and its log begins at step {begun}"
        )
    lines = {done: line for part in parts for done, line in part.lines.items()}
    checkpoints = [number for number in kept if begin < number <= max(lines)]
    end = next(iter(checkpoints), max(lines)) if count is None else min(begin + count, max(lines))
    lines = {done: line for done, line in lines.items() if begin < done <= end}
    checkpoints = [number for number in checkpoints if number <= end]
    if not lines and not checkpoints:
        raise UserError(f"{workdir} logs nothing from step {begin} to {end}; give a larger --count, or another --step")
    use_cpu_devices(_cpu_devices(parts[0].start))
    start = parts[0].start
    rolled_back = start["settings"].get("optimizer", {}).get("on_divergence") == "roll_back"
    skipped = tuple(entry["step"] for entry in entries if rolled_back and entry["event"] == "skipped")
    notes = (*_differences_here(start), *([limit] if limit else []))
    return Audit(workdir, begin, end, start, lines, tuple(checkpoints), skipped, notes)


def _computed_alike(parts: list[Part], begin: int) -> tuple[list[Part], str | None]:
    """The part that goes on from a step, and those that follow and compute alike; a line about the first that does not.

    There is none where the log begins later or ends before.
    """
    ends = [*(part.first for part in parts[1:]), *(part.last for part in parts[-1:])]
    later = [part for part, end in zip(parts, ends, strict=True) if end > begin]
    if not later or later[0].first > begin:
        return [], None
    for number, part in enumerate(later):
        if change := _change(later[0].start, part.start):
            return later[:number], f"after step {part.first} the run went on with {change}: not repeated"
    return later, None


def _change(one: Mapping[str, Any], other: Mapping[str, Any]) -> str | None:
    """What makes two starts compute or log differently."""
    for name in ("devices", "versions", "mix_group"):
        if one.get(name) != other.get(name):
            return f"other {name.replace('_', ' ')}"
    changed = differences(one["settings"], other["settings"])
    return next((f"{line} (old -> new)" for line in changed if not line.startswith(HARMLESS)), None)


def _cpu_devices(start: Mapping[str, Any]) -> int:
    devices = start.get("devices", ())
    return len(devices) if set(devices) == {"cpu"} else 1


def _differences_here(start: Mapping[str, Any]) -> Iterator[str]:
    """What may change bits without any damage: other devices or versions than those of the run."""
    here: dict[str, Any] = {
        "devices": [device.device_kind for device in jax.devices()],
        "versions": {"sarwmix_jax": __version__, "jax": jax.__version__},
    }
    texts = []
    for facts in (start, here):
        devices = facts.get("devices") or ["devices that it does not name"]
        versions = ", ".join(f"{name} {version}" for name, version in (facts.get("versions") or {}).items())
        texts.append(f"{len(devices)} x {devices[0]}, {versions or 'versions that it does not name'}")
    if any(start.get(name) != value for name, value in here.items()):
        yield f"the run used {texts[0]}; here are {texts[1]}: bits may differ without any damage"


def settings_of(start: Mapping[str, Any]) -> RunSettings:
    """The settings of a start, without trackers and probe, with the micro-batches of its devices."""
    stated = start["settings"]
    settings: RunSettings = stored_settings(stated, TASKS["finetuning" if "task" in stated else "pretraining"])
    batch, devices = settings.batch, len(start.get("devices", ())) or 1
    if batch.micro_batch is None and batch.global_batch % devices == 0:
        batch = dataclasses.replace(batch, micro_batch=batch.global_batch // devices)
    changes: dict[str, Any] = {"batch": batch, "log": dataclasses.replace(settings.log, trackers=())}
    if hasattr(settings, "probe"):
        changes["probe"] = ProbeSettings()
    return dataclasses.replace(settings, **changes)


def repeat(audit: Audit) -> Outcome:
    """Repeat the steps of an audit and compare.

    Raises:
        UserError: The settings or records cannot be used any more, or the checkpoint cannot be read.
    """
    stated, group, outcome = audit.start["settings"], audit.start.get("mix_group"), Outcome()
    previous = Previous(audit.begin, stated.get("task", "pretraining"), stated, {"mix_group": group})
    run = set_up(settings_of(audit.start), previous)
    checkpoints = Reader(audit.workdir / FOLDER)
    try:
        state, _ = first_state(run, checkpoints, audit.begin)
    except ValueError as error:
        raise UserError(
            f"checkpoint at step {audit.begin} of {audit.workdir} cannot be used: {error}; choose another --step"
        ) from None
    reached, feed = Progress(state, audit.begin, skipped=audit.skipped), LoaderFeed(run, audit.begin)
    skipping = run.settings.optimizer.on_divergence == "skip"
    throughput = Throughput(run.settings.batch.global_batch, run.mesh.size, skipping=skipping)
    try:
        with progress("repeating steps", audit.end - audit.begin, "steps") as advance:
            while reached.step < audit.end:
                take_step(run, reached, feed, throughput)
                _compare(audit, run, reached, throughput, checkpoints, outcome)
                advance()
    except NonFiniteLoss as error:
        outcome.differences.append(f"step {error.step + 1}: the loss is not finite here")
    finally:
        feed.close()
    return outcome


def _compare(
    audit: Audit, run: Run, reached: Progress, throughput: Throughput, checkpoints: Reader, outcome: Outcome
) -> None:
    """Compare a line of the log and a checkpoint, where there are any after the steps that are done."""
    done, line = reached.step, audit.lines.get(reached.step)
    if line is not None or _line_due(run, audit, done):
        values = throughput.flush() | {"epoch": run.schedule.epoch(done), "learning_rate": run.schedule.rate(done - 1)}
        names = [name for name in values if name in (line or ()) and name not in TIMES]
        for name in names:
            if line is not None and line[name] != values[name]:
                outcome.differences.append(
                    f"step {done}: {name} is {line[name]} in the log, {values[name]} when repeated"
                )
        outcome.lines += line is not None
        outcome.values = tuple(names) or outcome.values
    if done in audit.checkpoints:
        state = stored(reached.state, run)._asdict()
        found = {item: integrity.of_arrays(named(state[key])) for item, key in ITEMS.items()}
        outcome.arrays[done] = sum(map(len, found.values()))
        outcome.differences += _array_differences(done, found, checkpoints)


def _line_due(run: Run, audit: Audit, done: int) -> bool:
    """Whether a line was due that the log lacks, as after damage; the means of the next one begin after it."""
    probe, schedule = audit.start["settings"].get("probe") or {}, run.schedule
    probed = probe.get("records") is not None and schedule.probe_due(done)
    return probed or schedule.log_due(done, 0) or schedule.validation_due(done) or schedule.checkpoint_due(done)


def _array_differences(step: int, found: Mapping[str, Mapping[str, str]], checkpoints: Reader) -> Iterator[str]:
    where = f"checkpoint at step {step}"
    try:
        kept = checkpoints.contents(step)
    except ValueError as error:
        yield f"{where}: it cannot be read: {error}"
        return
    names = [(item, name) for item, arrays in found.items() for name in arrays]
    differing = [(item, name) for item, name in names if kept[item].get(name) != found[item][name]]
    if differing:
        yield f"{where}: {' '.join(differing[0])} differs ({len(differing)} of {len(names)} arrays)"
