from dataclasses import asdict, replace

import jax
import jax.numpy as jnp
import pytest

from sarwmix_jax.errors import UserError
from sarwmix_jax.models import kernels
from sarwmix_jax.models.interpreter import interpreted
from sarwmix_jax.models.mixmae import MixMAE
from sarwmix_jax.models.places import check_kernel, places
from sarwmix_jax.models.state import abstract_model, merge_model
from sarwmix_jax.settings.model import described_model, published
from tests.support import TINY

BFLOAT16 = published("base", dtype="bfloat16")


@pytest.mark.parametrize("side", [128, 160, 384])
@pytest.mark.parametrize("kernel", ["xla", "cudnn", "fused"])
@pytest.mark.parametrize("size", ["base", "large", "huge"])
def test_published_models_may_choose_on_a_gpu(size, kernel, side):
    check_kernel(published(size, side, dtype="bfloat16", kernel=kernel), "gpu")


WINDOWS = {
    (128, "none"): [(16, 64, 1), (4, 64, 1), (1, 64, 1), (1, 16, 1)],
    (128, "half"): [(16, 64, 1), (4, 64, 4), (2, 32, 2), (2, 8, 2), (2, 16, 0)],
    (128, "any"): [(16, 64, 1), (4, 64, 4), (1, 64, 1), (1, 16, 1), (2, 16, 0)],
    (384, "half"): [(36, 256, 36), (9, 256, 9), (2, 288, 2), (2, 72, 2), (2, 144, 0)],
}
"""Windows of an image, their tokens, and different biases, by side in pixels and masks."""


@pytest.mark.parametrize(("side", "masks"), WINDOWS)
def test_places_are_those_at_which_the_model_attends(side, masks, monkeypatch):
    settings = published("base", side, depths=(1, 1, 1, 1), decoder_depth=2, decoder="full", kernel="fused")
    found = places(settings, masks)
    assert [place[1:4] for place in found] == WINDOWS[side, masks]
    seen = []

    def note(product, heads, bias):
        qkv = product.values
        groups = 0 if bias is None else 1 if bias.ndim == 3 else bias.shape[0]
        windows = 2 if groups == 0 else qkv.shape[1]
        seen.append((windows, qkv.shape[-2], groups, heads, qkv.shape[-1] // 3 // heads))
        return qkv[..., : qkv.shape[-1] // 3]

    monkeypatch.setattr(kernels, "attend_fused", note)
    graphdef, params, fixed = abstract_model(MixMAE, settings)
    mask, images = jnp.zeros(settings.cells), jax.ShapeDtypeStruct((2, 2, side, side), jnp.float32)
    count = settings.cells // 2 if masks == "half" else None

    def run(params, fixed, images):
        model = merge_model(graphdef, params, fixed)
        if masks == "none":
            return model.encoder(images)
        return model.reconstruct(images, mask, masked_count=count)

    with interpreted():
        jax.eval_shape(run, params, fixed, images)
    assert [place[1:] for place in found] == list(dict.fromkeys(seen))


@pytest.mark.parametrize(
    ("settings", "platform", "line"),
    [
        (
            replace(BFLOAT16, kernel="fused"),
            "cpu",
            "model.kernel fused needs a GPU and this machine computes on cpu",
        ),
        (
            replace(BFLOAT16, kernel="cudnn"),
            "cpu",
            "model.kernel cudnn needs a GPU and this machine computes on cpu",
        ),
        (
            replace(TINY, kernel="fused"),
            "gpu",
            "model.kernel fused cannot compute stage 1: the head depth 8 is not one of 16, 32, 64",
        ),
        (
            published("base", kernel="fused", decoder_heads=64),
            "gpu",
            "model.kernel fused cannot compute the decoder: the head depth 8 is not one of 16, 32, 64",
        ),
        (
            replace(TINY, kernel="cudnn", dtype="bfloat16"),
            "gpu",
            "model.kernel cudnn cannot compute the decoder: a head depth of 4 is not a multiple of 8 up to 128",
        ),
    ],
)
def test_what_cannot_be_served_is_refused_in_one_line(settings, platform, line):
    with pytest.raises(UserError) as caught:
        check_kernel(settings, platform)
    assert str(caught.value) == f"{line}; use --config.model.kernel=xla"


def test_plain_attention_runs_everywhere():
    check_kernel(TINY, "cpu")


@pytest.mark.parametrize("kernel", ["cudnn", "fused"])
def test_a_checkpoint_is_evaluated_anywhere(kernel):
    described = asdict(published("base", dtype="bfloat16", kernel=kernel))
    assert described_model(described, dtype="float32") == published("base", scan=False)
