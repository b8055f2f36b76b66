"""The result of a validation: logged, and compared with the best one so far."""

from typing import TYPE_CHECKING, Any

import numpy as np

from sarwmix_jax.metrics.selection import select
from sarwmix_jax.training.logs import scores_text
from sarwmix_jax.training.run import Run
from sarwmix_jax.training.snapshots import reconstruction_picture
from sarwmix_jax.training.throughput import NonFiniteLoss

if TYPE_CHECKING:
    from sarwmix_jax.training.loop import Output, Progress


def validate(run: Run, output: "Output", progress: "Progress", values: dict[str, Any]) -> list[str]:
    """Compare the scores of a validation with the best ones, and log them; returns the rules with a new best.

    Raises:
        NonFiniteLoss: The validation loss is not finite.
    """
    if not np.isfinite(values["loss"]):
        raise NonFiniteLoss(progress.step, np.arange(0), values)
    done, epoch = progress.step, run.schedule.epoch(progress.step)
    scores = {name: value for name, value in values.items() if isinstance(value, float)}
    best, better = select(progress.best, scores, epoch, run.task.rules)
    progress.best = best | {rule: best[rule] | {"step": done} for rule in better}
    progress.stale = 0 if run.task.rules[0] in better else progress.stale + 1
    output.log.write("validation", step=done, epoch=epoch, best=better, **values)
    output.log.picture("reconstruction", done, lambda: reconstruction_picture(run, progress.state, done))
    mark = f" (best: {', '.join(better)})" if better else ""
    output.log.show(f"step {done}: validation {scores_text(scores)}{mark}")
    return better
