"""Models from the arrays of a checkpoint."""

from typing import Any

import jax
import numpy as np
from flax import nnx

from sarwmix_jax.errors import UserError
from sarwmix_jax.models.classifier import Classifier
from sarwmix_jax.models.mixmae import MixMAE
from sarwmix_jax.models.settings import ModelSettings
from sarwmix_jax.models.state import flatten_names, merge_model, split_model

Model = MixMAE | Classifier


def new_model(kind: str, settings: ModelSettings, classes: int | None, seed: int = 0) -> Model:
    """A freshly drawn model of a checkpoint's kind ("pretraining", "classifier", "flood").

    Raises:
        UserError: the kind is unknown, or a classifier has no number of classes.
    """
    if kind == "pretraining":
        return MixMAE(settings, rngs=nnx.Rngs(seed))
    if kind not in ("classifier", "flood") or not classes:
        raise UserError(f"a checkpoint of kind {kind!r} with {classes} classes cannot be used here")
    return Classifier(settings, classes, rngs=nnx.Rngs(seed))


def drawn_tensors(kind: str, settings: ModelSettings, classes: int | None) -> dict[str, np.ndarray]:
    """Freshly drawn arrays of a model by flat name, from seed 0."""
    params, fixed = jax.jit(lambda: split_model(new_model(kind, settings, classes))[1:])()
    return {name: np.asarray(array) for name, array in (flatten_names(params) | flatten_names(fixed)).items()}


def model_from(
    kind: str, settings: ModelSettings, classes: int | None, params: dict[Any, Any], fixed: dict[Any, Any]
) -> Model:
    """The model with a checkpoint's arrays, every one of them accounted for.

    Raises:
        UserError: arrays are missing, unknown or misshapen.
    """
    structure, *wanted = split_model(nnx.eval_shape(lambda: new_model(kind, settings, classes)))
    for expected, given in zip(wanted, (params, fixed), strict=True):
        shapes = {name: tuple(leaf.shape) for name, leaf in flatten_names(expected).items()}
        found = {name: tuple(leaf.shape) for name, leaf in flatten_names(given).items()}
        if wrong := sorted(name for name in shapes | found if shapes.get(name) != found.get(name)):
            raise UserError(
                f"the checkpoint does not fit its own description: {wrong[0]} is {found.get(wrong[0], 'missing')}, "
                f"{shapes.get(wrong[0], 'nothing')} is needed ({len(wrong)} such tensors)"
            )
    return merge_model(structure, params, fixed)
