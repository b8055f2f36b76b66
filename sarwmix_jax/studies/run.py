"""Running the steps of a study, in order, each one once, by any number of processes."""

import gc
import time
import traceback
from collections.abc import Sequence
from dataclasses import dataclass, field

import jax

from sarwmix_jax.errors import FAILED, STOPPED, UserError, one_line
from sarwmix_jax.preparation.writer import write_file
from sarwmix_jax.processes import Terminated, raised_signals
from sarwmix_jax.progress import duration, show
from sarwmix_jax.studies.claims import CLAIM, claimed, running
from sarwmix_jax.studies.folder import FAILURE, StudyFolder
from sarwmix_jax.studies.plan import Step
from sarwmix_jax.studies.steps import Stopped, do_step

WAIT_SECONDS = 2.0


@dataclass
class Outcome:
    """What a process did: names of the steps it ran, and of those that failed, with a line each."""

    ran: list[str] = field(default_factory=list)
    failed: dict[str, str] = field(default_factory=dict)


def chosen_steps(folder: StudyFolder, names: Sequence[str]) -> list[Step]:
    """The steps with these names, or below them: `finetune/random` means all that begin so. All without names.

    Raises:
        UserError: There are none of this name.
    """
    steps = folder.steps
    for name in names:
        if not any(_below(step.name, name) for step in steps):
            raise UserError(f"the study has no step {name!r}; --list prints all")
    return [step for step in steps if not names or any(_below(step.name, name) for name in names)]


def _below(name: str, start: str) -> bool:
    return f"{name}/".startswith(f"{start.rstrip('/')}/")


def run_steps(folder: StudyFolder, steps: Sequence[Step]) -> int:
    """Run those steps that are not done; steps of other processes are waited for.

    Returns:
        Exit code: 0, 1 after a failed step (the others are run), 75 after a signal.

    Raises:
        KeyboardInterrupt: Ctrl-C.
    """
    folder.remove_damaged_results()
    outcome, pending = Outcome(), [step for step in steps if not folder.is_done(step)]
    show(_summary(folder, steps, pending))
    try:
        with raised_signals():  # so that claims are given back; runs note signals instead, and save
            while pending:
                before = len(pending)
                pending = [step for step in pending if not _try(folder, step, pending, steps, outcome)]
                if pending and len(pending) == before:
                    _wait(folder, pending)
    except (Stopped, Terminated) as stop:
        name = str(stop)
        if name == "SIGINT":
            raise KeyboardInterrupt from stop
        show(f"{name}: stopped; the same command continues the study")
        return STOPPED
    for name, line in outcome.failed.items():
        show(f"error: {name}: {line}")
    return FAILED if outcome.failed else 0


def _summary(folder: StudyFolder, steps: Sequence[Step], pending: Sequence[Step]) -> str:
    left = folder.minutes(pending)
    text = f"{folder.path}: {len(steps)} steps, {len(steps) - len(pending)} of them done"
    return text if left is None or not pending else f"{text}, about {duration(60 * left)} for the rest"


def _try(folder: StudyFolder, step: Step, pending: Sequence[Step], steps: Sequence[Step], outcome: Outcome) -> bool:
    """Run a step if that is possible now; returns whether it needs no further attention."""
    if folder.is_done(step):
        return True
    names = {each.name for each in pending}
    for need in step.needs:
        if folder.is_done(need):
            continue
        if need in outcome.failed:
            outcome.failed[step.name] = f"needs {need}, which failed"
            return True
        if need not in names and running(folder.at(need)) is None:
            outcome.failed[step.name] = f"needs {need}, which is not done"
            return True
        return False
    with claimed(folder.at(step)) as free:
        if not free:
            return False
        if not folder.is_done(step):  # another process may have done it just before
            done = sum(map(folder.is_done, steps))
            left = folder.minutes([each for each in steps if not folder.is_done(each)])
            rest = "" if left is None else f"; about {duration(60 * left)} left"
            show(f"step {done + 1} of {len(steps)}: {step.name}{rest}")
            _run(folder, step, outcome)
    return True


def _run(folder: StudyFolder, step: Step, outcome: Outcome) -> None:
    """Run a step and write its result; a failure is noted, and the study goes on."""
    started = time.perf_counter()
    try:
        rows = do_step(folder.study, folder.path, step)
        folder.write_result(step, rows, (time.perf_counter() - started) / 60)
        outcome.ran.append(step.name)
    except Stopped:
        raise
    except Exception as error:  # whatever one step meets, the others are run
        line = one_line(error if isinstance(error, UserError) else f"{type(error).__name__}: {error}")
        outcome.failed[step.name] = line
        write_file(folder.at(step) / FAILURE, "\n".join([line, "", traceback.format_exc()]))
        show(f"{step.name} failed: {line}; details in {folder.at(step) / FAILURE}")
    finally:
        jax.clear_caches()  # compiled programs of hundreds of runs would fill the memory
        gc.collect()


def _wait(folder: StudyFolder, pending: Sequence[Step]) -> None:
    """Wait for steps of other processes."""
    others = {
        name: owner for step in pending for name in (step.name, *step.needs) if (owner := running(folder.at(name)))
    }
    for name, owner in list(others.items())[:1]:
        show(f"waiting for {name}, run by {owner} (if it has ended, remove {folder.at(name) / CLAIM})")
    while others and all(running(folder.at(name)) == owner for name, owner in others.items()):
        time.sleep(WAIT_SECONDS)
