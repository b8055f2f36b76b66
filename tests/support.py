"""What several tests share: golden numbers and tiny models."""

import re
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from sarwmix_jax import preprocessing as sar
from sarwmix_jax.conversion.table import from_published
from sarwmix_jax.conversion.torch_file import read_checkpoint
from sarwmix_jax.facts.bands import STATISTICS
from sarwmix_jax.models.classifier import Classifier
from sarwmix_jax.models.mixmae import MixMAE
from sarwmix_jax.models.state import flatten_names, split_model, unflatten_names
from sarwmix_jax.settings.model import ModelSettings
from sarwmix_jax.settings.sections import (
    AugmentSettings,
    LossSettings,
    MaskSettings,
    MixedBatchSettings,
    PretrainingSettings,
    WeightSettings,
)
from sarwmix_jax.tasks.pretraining import Pretraining

GOLDEN = Path(__file__).parent / "golden"
SHARED_DATA = Path(__file__).parents[2] / "shared" / "data"
V2 = STATISTICS["bigearthnet_v2"]

TINY = ModelSettings(
    embed_dim=8,
    depths=(1, 1, 2, 1),
    num_heads=(1, 2, 4, 8),
    decoder_dim=16,
    decoder_depth=2,
    decoder_heads=4,
)
"""The model of the golden numbers."""


def with_gpu() -> bool:
    """A function: asked at import, it would start JAX in processes that have to join others first."""
    return jax.default_backend() == "gpu"


def on_gpu(test: Any) -> Any:
    """Marks a test that compiles for the GPU that is there."""
    return pytest.mark.gpu(pytest.mark.usefixtures("needs_gpu")(test))


COLLECTIVES = ("all-reduce", "all-gather", "all-to-all", "collective-permute", "reduce-scatter")


def collectives(compiled: Any) -> Counter[str]:
    """How many collectives of each kind a compiled function has."""
    return Counter(re.findall(rf" ({'|'.join(COLLECTIVES)})(?:-start)?\(", compiled.as_text()))


def golden(name: str) -> dict[str, np.ndarray]:
    with np.load(GOLDEN / f"{name}.npz") as file:
        return dict(file)


def standardised(db: np.ndarray) -> jax.Array:
    return sar.standardise(jnp.asarray(db, jnp.float32), V2)


def published_weights(name: str) -> dict[str, np.ndarray]:
    """Tensors of a golden `.pth` file by our names."""
    return from_published(read_checkpoint(GOLDEN / f"{name}.pth").model)


def plausible(params: Any):
    """Parameters of these shapes about as large as they are at the start."""
    rng, drawn = np.random.default_rng(0), {}
    for name, leaf in flatten_names(params).items():
        width = (2 / sum(leaf.shape)) ** 0.5 if name.endswith("kernel") else 0.02
        value = np.ones(leaf.shape) if name.endswith("scale") else rng.normal(0, width, leaf.shape)
        drawn[name] = jnp.asarray(value, jnp.float32)
    return unflatten_names(drawn)


def drawn_arrays(kind: type, settings: ModelSettings):
    """(graphdef, params, fixed) of a model as it draws them with seed 0."""

    def draw():
        return split_model(kind(settings, rngs=nnx.Rngs(0)))

    return nnx.eval_shape(draw)[0], *jax.jit(lambda: draw()[1:])()


def model_arrays(kind: type, settings: ModelSettings, *arguments: Any, weights: dict[str, np.ndarray] | None = None):
    """(graphdef, params, fixed) of a model with these weights, or with plausible ones: quicker than the model draws."""

    def draw():
        return split_model(kind(settings, *arguments, rngs=nnx.Rngs(0)))

    graphdef, *trees = nnx.eval_shape(draw)
    if weights is None:
        return graphdef, plausible(trees[0]), jax.jit(lambda: draw()[2])()
    filled = [unflatten_names({k: jnp.asarray(weights[k]) for k in flatten_names(tree)}) for tree in trees]
    for tree, other in zip(trees, filled, strict=True):
        for (name, a), b in zip(flatten_names(tree).items(), flatten_names(other).values(), strict=True):
            assert a.shape == b.shape, name
    return graphdef, *filled


def golden_autoencoder(**changes: Any):
    return model_arrays(MixMAE, replace(TINY, **changes), weights=published_weights("pretrain_tiny"))


def golden_classifier(**changes: Any):
    return model_arrays(Classifier, replace(TINY, **changes), 19, weights=published_weights("finetune_tiny"))


def at_size(image_size: int, **changes: Any) -> ModelSettings:
    """The tiny model at another image side."""
    return replace(TINY, image_size=image_size, **changes)


def pretraining_task(
    model: ModelSettings = TINY,
    *,
    weighting: WeightSettings | None = None,
    ratio: float = 0.5,
    range_mask_ratio: float = 0.0,
    norm_pix: bool = True,
    flips: float = 0.5,
    mix_group: int = 4,
    micro_batch: int = 4,
    seed: int = 0,
) -> Pretraining:
    """The task of pretraining a small model, with the statistics of BigEarthNet v2."""
    settings = PretrainingSettings(
        seed=seed,
        model=model,
        weighting=weighting or WeightSettings(),
        mask=MaskSettings(ratio, range_mask_ratio),
        loss=LossSettings(norm_pix),
        augment=AugmentSettings(flips, flips),
        batch=MixedBatchSettings(micro_batch, micro_batch, mix_group),
    )
    return Pretraining(settings, V2)
