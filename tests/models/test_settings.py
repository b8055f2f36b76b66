"""Model settings: published shapes, windows, and one-line errors."""

from dataclasses import replace

import jax
import numpy as np
import pytest
from flax import nnx

from sarwmix_jax.errors import UserError
from sarwmix_jax.models.classifier import Classifier
from sarwmix_jax.models.mixmae import MixMAE
from sarwmix_jax.models.state import Fixed
from sarwmix_jax.settings.model import ModelSettings, published, windows_for
from tests.support import TINY


def count(model, *kinds) -> int:
    return sum(int(np.prod(leaf.shape)) for leaf in jax.tree.leaves(nnx.state(model, nnx.Any(*kinds))))


@pytest.mark.parametrize(
    ("size", "pretraining", "classifier"),
    [("base", 113_686_264, 86_901_515), ("large", 222_270_068, 195_232_903), ("huge", 682_964_778, 655_296_573)],
)
def test_parameter_counts(size, pretraining, classifier):
    settings = published(size, scan=size != "base")  # stacked blocks are as many and quicker to build
    autoencoder = nnx.eval_shape(lambda: MixMAE(settings, rngs=nnx.Rngs(0)))
    assert count(autoencoder, nnx.Param, Fixed) == pretraining
    labelled = nnx.eval_shape(lambda: Classifier(settings, 19, rngs=nnx.Rngs(0)))
    assert count(labelled, nnx.Param, Fixed) == classifier
    if size == "base":
        assert count(autoencoder, nnx.Param) == 113_547_000
        assert count(labelled, nnx.Param) == 86_770_443


@pytest.mark.parametrize(
    ("side", "windows"),
    [(128, (8, 8, 8, 4)), (384, (16, 16, 24, 12)), (64, (8, 8, 4, 2)), (160, (8, 5, 5, 1)), (256, (8, 8, 8, 4))],
)
def test_windows_for_a_side(side, windows):
    assert windows_for(side) == windows


@pytest.mark.parametrize(
    ("change", "line"),
    [
        ({"image_size": 130}, "image side 130 is not a multiple of 32; use 128 or 160 as model.image_size"),
        (
            {"windows": (8, 8, 7, 4)},
            "window 7 of stage 3 does not divide its grid of 8 tokens at 128 px; use 4 in model.windows",
        ),
        ({"depths": (1, 2)}, "model.depths is (1, 2); give 4 positive numbers, one per stage"),
        (
            {"num_heads": (3, 2, 4, 8)},
            "3 heads do not divide the width 8 of stage 1; change model.num_heads or model.embed_dim",
        ),
        ({"dtype": "float16"}, "model.dtype is 'float16'; use one of float32, bfloat16"),
        ({"kernel": "triton"}, "model.kernel is 'triton'; use one of xla, cudnn, fused, auto"),
        ({"kernel": "cudnn"}, "model.kernel cudnn cannot compute in model.dtype float32; use bfloat16, or kernel xla"),
        (
            {"kernels": ("fused",) * 5},
            "model.kernels is fused,fused,fused,fused,fused; give xla, cudnn or fused for each of stage 1, stage 2, "
            "stage 3, stage 4, decoder, LayerNorm (which has no cudnn)",
        ),
        (
            {"kernels": ("xla",) * 5 + ("cudnn",), "dtype": "bfloat16"},
            "model.kernels is xla,xla,xla,xla,xla,cudnn; give xla, cudnn or fused for each of stage 1, stage 2, "
            "stage 3, stage 4, decoder, LayerNorm (which has no cudnn)",
        ),
        ({"drop_path": 1.0}, "model.drop_path is 1.0; use a rate from 0 to below 1"),
        (
            {"bands": ("VH", "VH")},
            "model.bands, model.mlp_ratio and model.decoder_depth must be at least 1, each band once",
        ),
    ],
)
def test_bad_values_are_refused_in_one_line(change, line):
    with pytest.raises(UserError) as caught:
        replace(TINY, **change)
    assert str(caught.value) == line


def test_unknown_size():
    with pytest.raises(UserError, match="'tiny' is unknown; use one of base, large, huge"):
        published("tiny")


def test_large_at_384():
    settings = published("large", 384, dtype="bfloat16")
    assert isinstance(settings, ModelSettings)
    assert settings.grids == (96, 48, 24, 12)
    assert settings.cells == 144
