from dataclasses import asdict, replace

import pytest

from sarwmix_jax.errors import UserError
from sarwmix_jax.models.kernels import check_kernel
from sarwmix_jax.settings.model import described_model, published
from tests.support import TINY

BFLOAT16 = published("base", dtype="bfloat16")


@pytest.mark.parametrize("kernel", ["xla", "cudnn", "fused"])
@pytest.mark.parametrize("size", ["base", "large", "huge"])
def test_published_models_may_choose_on_a_gpu(size, kernel):
    check_kernel(published(size, dtype="bfloat16", kernel=kernel), "gpu")


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
            "model.kernel fused cannot serve this model: the head depth 8 is not one of 16, 32, 64",
        ),
        (
            published("base", 384, kernel="fused", windows=(24, 24, 24, 12)),
            "gpu",
            "model.kernel fused cannot serve this model: 576 tokens a window are not a power of two up to 64",
        ),
        (
            replace(TINY, kernel="cudnn", dtype="bfloat16"),
            "gpu",
            "model.kernel cudnn cannot serve this model: a head depth of 4 is not a multiple of 8 up to 128",
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
