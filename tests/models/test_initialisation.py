"""How parameters start (specification: Xavier-uniform dense layers, uniform patch convolution, small tables)."""

from dataclasses import replace

import numpy as np
import pytest

from sarwmix_jax.models.mixmae import MixMAE
from sarwmix_jax.models.state import flatten_names
from tests.support import TINY, drawn_arrays


@pytest.fixture(scope="module")
def parameters() -> dict[str, np.ndarray]:
    small = replace(TINY, depths=(1, 1, 1, 1), embed_dim=32, decoder_depth=1, decoder_dim=64)
    _, params, _ = drawn_arrays(MixMAE, small)
    return {name: np.asarray(value) for name, value in flatten_names(params).items()}


def test_every_parameter_starts_as_specified(parameters):
    for name, value in parameters.items():
        if name.startswith("encoder/patch_embed/proj"):
            bound = 32**-0.5
        elif name.endswith("kernel"):
            bound = np.sqrt(6 / sum(value.shape))
        else:
            continue
        assert np.abs(value).max() <= np.float32(bound), name
        if value.size > 500:
            np.testing.assert_allclose(value.std(), bound / np.sqrt(3), rtol=0.1, err_msg=name)
    assert np.abs(parameters["encoder/patch_embed/proj/bias"]).max() > 0.05


def test_biases_norms_and_tables(parameters):
    for name, value in parameters.items():
        if name.endswith("scale"):
            assert (value == 1).all(), name
        elif name.endswith("bias") and "patch_embed/proj" not in name:
            assert (value == 0).all(), name
        elif name.endswith(("bias_table", "mask_token")):
            np.testing.assert_allclose(value.std(), 0.02, rtol=0.35, err_msg=name)
