"""The annotations of the package are checked while these tests run, shapes and types alike."""

import ast
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jaxtyping import TypeCheckError

from sarwmix_jax.metrics.scores import Scores, multilabel_scores
from sarwmix_jax.models.mixmae import mix
from sarwmix_jax.preprocessing import Flips, flip, resize
from tests.conftest import CHECKED

PACKAGE = Path(__file__).parents[1] / "sarwmix_jax"
IMAGES, MASK = jnp.zeros((4, 2, 64, 64)), jnp.zeros(4)


@pytest.mark.parametrize("compiled", [False, True])
def test_a_wrong_shape_or_type_raises(compiled):
    mixed = jax.jit(mix) if compiled else mix
    assert mixed(IMAGES, MASK).shape == IMAGES.shape
    for images, mask in ((IMAGES[0], MASK), (IMAGES, MASK[None]), (IMAGES, MASK.astype(int))):
        with pytest.raises(TypeCheckError, match=r"mixmae\.mix"):
            mixed(images, mask)


def test_shapes_are_compared_between_arguments_and_with_results(monkeypatch):
    with pytest.raises(TypeCheckError, match="multilabel_scores"):
        multilabel_scores(np.full((3, 2), 0.5, np.float32), np.eye(2, dtype=int), "ab")
    monkeypatch.setattr(jax.image, "resize", lambda images, shape, *_, **__: jnp.zeros((*shape[:-1], 7)))
    with pytest.raises(TypeCheckError, match="return value"):
        resize(IMAGES, 32)


def test_records_of_several_arrays_are_checked_too():
    with pytest.raises(TypeCheckError):
        flip(IMAGES, (jnp.zeros(4, bool), jnp.zeros(4, bool)))
    assert flip(IMAGES, Flips(jnp.zeros(4, bool), jnp.zeros(4, bool))).shape == IMAGES.shape
    with pytest.raises(TypeCheckError):
        Scores("multilabel", "many", {}, (), 0, None)


@pytest.mark.usefixtures("unchecked")
def test_the_check_can_be_left_out():
    with pytest.raises(TypeError, match="not iterable"):
        flip(IMAGES, None)


def test_every_part_that_annotates_arrays_is_checked():
    def annotates(path):
        return any(
            isinstance(node, ast.ImportFrom) and node.module == "jaxtyping"
            for node in ast.walk(ast.parse(path.read_text()))
        )

    names = {
        ".".join(path.relative_to(PACKAGE).with_suffix("").parts) for path in PACKAGE.rglob("*.py") if annotates(path)
    }
    assert {name for name in names if not any(f"{name}.".startswith(f"{part}.") for part in CHECKED)} == set()
