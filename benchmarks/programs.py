"""The compiled steps that are timed, with their state: pretraining, finetuning, inference."""

import dataclasses
from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx
from jax.sharding import Mesh

from benchmarks import sample
from benchmarks.work import Unavailable
from sarwmix_jax.facts.labels import CLASSES as CLASS_NAMES
from sarwmix_jax.models.classifier import Classifier
from sarwmix_jax.models.mixmae import MixMAE
from sarwmix_jax.models.settings import ModelSettings, published, windows_for
from sarwmix_jax.models.state import split_model
from sarwmix_jax.settings import OptimizerSettings
from sarwmix_jax.training.classifier_steps import ClassifierStepSettings, make_classifier_step, make_logits_step
from sarwmix_jax.training.layer_decay import scale_by_layer
from sarwmix_jax.training.optimizer import make_optimizer
from sarwmix_jax.training.parallel import replicate
from sarwmix_jax.training.steps import StepSettings, TrainState, make_train_step
from sarwmix_jax.weighting import WeightSettings

CLASSES = len(CLASS_NAMES)
RATE = np.float32(1e-5)
"""Small, for there is no warm-up; the arithmetic is the same at any rate."""

FINETUNING = OptimizerSettings(beta2=0.999)
DROP_PATH, LAYER_DECAY = 0.1, 0.7


def tiny() -> ModelSettings:
    """A model for rehearsals."""
    return ModelSettings(
        embed_dim=8,
        depths=(1, 1, 1, 1),
        num_heads=(1, 1, 2, 2),
        windows=windows_for(128),
        decoder_dim=16,
        decoder_depth=1,
        decoder_heads=2,
    )


def model_settings(spec: dict[str, Any]) -> ModelSettings:
    """Settings of the model that a specification names, with the variant's changes.

    Raises:
        Unavailable: This version has no such setting.
        UserError: It has, but not that value.
    """
    known = {field.name: field.default for field in dataclasses.fields(ModelSettings)}
    for name, value in spec["changes"].items():
        if name not in known:
            raise Unavailable(f"not in this version: there is no setting model.{name}")
        if known[name] is not dataclasses.MISSING and type(value) is not type(known[name]):
            raise Unavailable(f"not in this version: model.{name} takes {type(known[name]).__name__}, not {value!r}")
    optional = {name: value for name, value in spec["if_known"].items() if type(value) is type(known.get(name))}
    changes = optional | spec["changes"]
    changes |= {"dtype": spec["dtype"]} | ({"drop_path": DROP_PATH} if spec["task"] == "finetune" else {})
    settings = tiny() if spec["size"] == "tiny" else published(spec["size"])
    # As a run's settings have it where they do not say: see training.plan.model_settings.
    return dataclasses.replace(settings, **{"scan": spec["device"] == "cpu"} | changes)


class Program(ABC):
    """A compiled step with what it consumes and gives.

    Attributes:
        jitted: The step.
        last: Outputs of the last step that was started.
    """

    columns: tuple[str, ...]

    def __init__(self, jitted: Callable[..., Any], state: Any):
        self.jitted: Any = jitted
        self.state = state
        self.last: Any = None

    def needed(self, batch: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        """The columns of a batch that the step reads."""
        return {name: batch[name] for name in self.columns}

    @abstractmethod
    def arguments(self, batch: dict[str, Any]) -> tuple[Any, ...]:
        """What the step is called with."""

    @abstractmethod
    def take(self, outputs: Any) -> None:
        """Keeps what the step gave."""

    @abstractmethod
    def numbers(self) -> dict[str, float]:
        """What tells whether the last step was right; waits for it."""


class Training(Program):
    """A step (state, batch, rate) -> (state, metrics) that consumes its state."""

    def __init__(self, jitted: Callable[..., Any], state: TrainState, columns: tuple[str, ...]):
        super().__init__(jitted, state)
        self.columns = columns

    def arguments(self, batch: dict[str, Any]) -> tuple[Any, ...]:
        """State, batch, learning rate."""
        return self.state, batch, RATE

    def take(self, outputs: Any) -> None:
        """The new state, and the metrics."""
        self.state, self.last = outputs

    def numbers(self) -> dict[str, float]:
        """Loss and gradient norm."""
        return {name: float(self.last[name]) for name in ("loss", "grad_norm")}


class Inference(Program):
    """A step ((params, fixed), batch) -> logits."""

    columns = ("image",)

    def arguments(self, batch: dict[str, Any]) -> tuple[Any, ...]:
        """Parameters, fixed tables, batch."""
        return *self.state, batch

    def take(self, outputs: Any) -> None:
        """The logits."""
        self.last = outputs

    def numbers(self) -> dict[str, float]:
        """Root mean square of the logits."""
        return {"logits": float(jnp.sqrt(jnp.mean(self.last.astype(jnp.float32) ** 2)))}


def make_program(task: str, settings: ModelSettings, batch: int, mesh: Mesh) -> Program:
    """The step of a task, with a state drawn from seed 0."""
    kind = MixMAE if task == "pretrain" else Classifier
    arguments = () if task == "pretrain" else (CLASSES,)
    graphdef = split_model(nnx.eval_shape(lambda: kind(settings, *arguments, rngs=nnx.Rngs(0))))[0]
    trees = jax.jit(lambda: split_model(kind(settings, *arguments, rngs=nnx.Rngs(0)))[1:])()
    if task == "inference":
        step = make_logits_step(graphdef, ClassifierStepSettings(settings, sample.DATA), mesh)
        return Inference(step, replicate(trees, mesh))
    if task == "pretrain":
        optimizer = make_optimizer(OptimizerSettings())
        train_step = make_train_step(graphdef, pretraining_step(settings, batch), optimizer, mesh)
        columns: tuple[str, ...] = ("image",)
    else:
        optimizer = optax.chain(make_optimizer(FINETUNING), scale_by_layer(settings.depths, LAYER_DECAY))
        train_step = make_classifier_step(graphdef, ClassifierStepSettings(settings, sample.DATA), optimizer, mesh)
        columns = ("image", "labels")
    params, fixed = trees
    state = TrainState(params, fixed, jax.jit(optimizer.init)(params), jnp.zeros((), jnp.int32))
    return Training(train_step, replicate(state, mesh), columns)


def pretraining_step(settings: ModelSettings, batch: int) -> StepSettings:
    """The published recipe: half of the cells masked, per-channel weights, both flips, one mix group."""
    return StepSettings(
        model=settings,
        statistics=sample.DATA,
        weighting=WeightSettings(),
        mask_ratio=0.5,
        range_mask_ratio=0.0,
        norm_pix=True,
        horizontal_flip=0.5,
        vertical_flip=0.5,
        mix_group=batch,
        micro_batch=batch,
        seed=0,
    )
