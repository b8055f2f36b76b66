"""Pictures that trackers get at a validation."""

from typing import Any

import jax
import numpy as np

from sarwmix_jax.tasks.gradients import TrainState
from sarwmix_jax.tasks.pretraining import EVALUATION_GROUP, Pretraining
from sarwmix_jax.training.run import Run

SHOWN = 3
"""Records in the picture of a reconstruction: the first of each of the first mix groups of the first held-out set.

The order of records is that of a hash of their names, so that these are a random choice, and the same at every
validation and in every run on these records; each has another mask.
"""


def reconstruction_picture(run: Run, state: TrainState, step: int) -> Any | None:
    """Reconstructions of a few held-out records, (height, width, 4) of 8 bits; None for other tasks than pretraining.

    Only this process computes; the masks are those of the validation loss.
    """
    if not isinstance(run.task, Pretraining):
        return None
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    from sarwmix_jax.evaluation.held_out import Pretrained
    from sarwmix_jax.evaluation.pictures import reconstruction_figure
    from sarwmix_jax.evaluation.reconstruction import reconstruct_samples

    params, fixed = jax.device_get((state.params, state.fixed))
    model = Pretrained(run.task, run.graphdef, params, fixed, step)
    source = run.held_out[0]
    numbers = range(0, min(len(source), SHOWN * EVALUATION_GROUP), EVALUATION_GROUP)
    borrowed = run.task.settings.loss.norm_pix
    samples = reconstruct_samples({"run": model}, source, numbers, inpainted=not borrowed)
    canvas = FigureCanvasAgg(reconstruction_figure(samples, borrowed=borrowed, captions={"run": f"step {step:,}"}))
    canvas.draw()
    return np.array(canvas.buffer_rgba(), np.uint8)
