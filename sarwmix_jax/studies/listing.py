"""The steps of a study as text."""

from collections.abc import Sequence

from sarwmix_jax.progress import duration
from sarwmix_jax.studies.folder import StudyFolder
from sarwmix_jax.studies.plan import Step


def listing(folder: StudyFolder, steps: Sequence[Step]) -> str:
    """One line per step with its state, then how many are done and an estimate of the rest."""
    width = max((len(step.name) for step in steps), default=0)
    lines = [f"{step.name:{width}}  {folder.state(step)}" for step in steps]
    rest = [step for step in steps if not folder.is_done(step)]
    minutes = folder.minutes(rest)
    estimate = "no estimate yet" if minutes is None else f"about {duration(60 * minutes)} in one process"
    return "\n".join([*lines, f"{len(steps) - len(rest)} of {len(steps)} steps are done; the rest: {estimate}"])
