"""A converted pretraining file as a run that can be resumed: optimiser state and description for the training loop."""

import dataclasses
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import jax
import numpy as np

from sarwmix_jax.checkpoints.integrity import named
from sarwmix_jax.conversion.moments import Moments
from sarwmix_jax.models.state import unflatten_names
from sarwmix_jax.settings.sections import DataSettings, LossSettings, PretrainingSettings
from sarwmix_jax.training.optimizer import make_optimizer

if TYPE_CHECKING:
    from sarwmix_jax.conversion.convert import Converted


def run_state(params: Mapping[str, np.ndarray], moments: Moments) -> dict[str, np.ndarray]:
    """The item `optimizer` of a checkpoint: arrays of the optimiser's state by path."""
    shapes = {name: jax.ShapeDtypeStruct(array.shape, array.dtype) for name, array in params.items()}
    template = jax.eval_shape(make_optimizer(PretrainingSettings().optimizer).init, unflatten_names(shapes))
    adam: dict[str, Any] = {"count": np.asarray(moments.count, np.int32), "mu": moments.first, "nu": moments.second}
    state = {}
    for path in named(template):
        _, what, *name = path.split("/", 2)
        state[path] = np.asarray(adam[what][name[0]], np.float32) if name else adam[what]
    return state


def run_description(converted: "Converted", step: int) -> dict[str, Any]:
    """Entries that the training loop needs in the checkpoint of a run: settings (the published recipe) and progress."""
    found = converted.found
    settings = PretrainingSettings(
        model=converted.settings,
        data=DataSettings(statistics=found.statistics_name),
        loss=LossSettings(bool(found.norm_pix)),
    )
    progress = {"step": step, "epoch": converted.source["epochs"], "mix_group": found.mix_group}
    return {"settings": dataclasses.asdict(settings), "progress": progress}
