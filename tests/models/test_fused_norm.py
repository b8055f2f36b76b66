"""LayerNorm's kernel, interpreted and on a GPU, against the plain formula: values, all gradients, widths, devices."""

import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from sarwmix_jax.models.fused_norm import fused_layer_norm, fused_layer_norm_beside, plan_of
from sarwmix_jax.models.interpreter import interpreted
from sarwmix_jax.models.layers import LayerNorm
from sarwmix_jax.settings.model import published
from tests.models.test_fused_attention import a_hopper
from tests.support import on_gpu

SHAPES = [(3, 5, 128), (70, 192), (9, 4, 352), (100, 7), (2, 4104), (4000, 16), (1, 1)]
"""Of powers of two, of large and huge, and odd ones; with rows that fill the last tile, or do not."""


def arrays(shape, dtype=jnp.float32):
    """(x, scale, bias, cotangent, cotangent of the stream)."""
    rng = np.random.default_rng(0)
    x, *cotangents = (jnp.asarray(2 * rng.normal(size=shape) + offset, dtype) for offset in (1, 0, 0))
    scale, bias = (jnp.asarray(rng.normal(size=shape[-1:]), jnp.float32) for _ in range(2))
    return x, scale, bias, *cotangents


def plain(x, scale, bias):
    """The formula."""
    wide = x.astype(jnp.float32)
    centred = wide - wide.mean(axis=-1, keepdims=True)
    normal = centred * jax.lax.rsqrt((centred**2).mean(axis=-1, keepdims=True) + 1e-5)
    return (normal * scale + bias).astype(x.dtype)


def results(function, x, scale, bias, *cotangents):
    """Values and gradients; those of (output, stream), or of the output alone where there is one cotangent."""
    out, pull = jax.vjp(function, x, scale, bias)
    gradients = pull(cotangents if len(cotangents) > 1 else cotangents[0])
    return [np.asarray(array, np.float32) for array in (*jax.tree.leaves(out), *gradients)]


def compare(found, expected):
    """Values within 1e-5, gradients within 3e-5 of the largest one."""
    values = len(expected) - 3
    for number, (a, b) in enumerate(zip(found, expected, strict=True)):
        limit = (1e-5 if number < values else 3e-5) * max(1.0, np.abs(b).max())
        np.testing.assert_allclose(a, b, rtol=0, atol=limit)


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_values_and_gradients_are_those_of_the_formula(shape):
    x, scale, bias, cotangent, stream = arrays(shape)
    with interpreted():
        both = results(lambda *given: fused_layer_norm_beside(*given, 1e-5), x, scale, bias, cotangent, stream)
        alone = results(lambda *given: fused_layer_norm(*given, 1e-5), x, scale, bias, cotangent)
    compare(both, results(lambda *given: (plain(*given), given[0]), x, scale, bias, cotangent, stream))
    compare(alone, results(plain, x, scale, bias, cotangent))


@on_gpu
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_compiled_kernel_is_exact_in_float32(shape):
    given = arrays(shape)
    found = results(lambda *given: fused_layer_norm_beside(*given, 1e-5), *given)
    compare(found, results(lambda *given: (plain(*given), given[0]), *given))


def test_bfloat16_is_rounded_once():
    x, scale, bias, cotangent, stream = arrays((70, 192), jnp.bfloat16)
    with interpreted():
        found = results(lambda *given: fused_layer_norm_beside(*given, 1e-5), x, scale, bias, cotangent, stream)
    wide = (array.astype(jnp.float32) for array in (cotangent, stream))
    exact = results(lambda *given: (plain(*given), given[0]), x.astype(jnp.float32), scale, bias, *wide)
    for a, b in zip(found, exact, strict=True):
        np.testing.assert_allclose(a, b, rtol=0, atol=2**-8 * np.abs(b).max())
    np.testing.assert_allclose(
        found[-2:], exact[-2:], rtol=0, atol=3e-5 * np.abs(exact[-2:]).max()
    )  # summed in float32


def test_nothing_but_the_input_and_two_statistics_a_row_is_kept():
    x, scale, bias, *_ = arrays((70, 192))
    with interpreted():
        kept = jax.tree.leaves(jax.vjp(lambda *given: fused_layer_norm_beside(*given, 1e-5), x, scale, bias)[1])
    assert sorted(array.shape for array in kept) == [(70,), (70,), (70, 192), (192,)]


def test_mix_groups_under_vmap():
    x, scale, bias, cotangent, stream = arrays((2, 5, 24))
    of_groups = lambda norm: jax.vmap(norm, (0, None, None))  # noqa: E731
    with interpreted():
        found = results(of_groups(lambda *g: fused_layer_norm_beside(*g, 1e-5)), x, scale, bias, cotangent, stream)
    compare(found, results(of_groups(lambda *g: (plain(*g), g[0])), x, scale, bias, cotangent, stream))


@pytest.mark.parametrize("width", [128, 192, 352, 1408, 5632, 7, 1])
def test_every_row_belongs_to_one_program(width):
    for rows in (1, 31, 4096, 4097, 256 * 1024):
        plan = plan_of(rows, width)
        each = plan.tile * plan.tiles
        assert (plan.programs - 1) * each < rows <= plan.programs * each
        assert plan.lanes >= width and plan.lanes & (plan.lanes - 1) == 0
        assert plan.programs == 1 or each >= 32  # partial sums are at most a sixteenth of what a row moves


def test_the_layer_uses_the_kernel_where_it_is_set():
    x = arrays((3, 128))[0]
    made = {kernel: LayerNorm(128, published("base", kernel=kernel), rngs=nnx.Rngs(0)) for kernel in ("xla", "fused")}
    with interpreted():
        texts = {kernel: str(jax.make_jaxpr(layer.beside)(x)) for kernel, layer in made.items()}
        np.testing.assert_allclose(made["fused"](x), made["xla"](x), rtol=0, atol=1e-5)
    assert "name=layer_norm" in texts["fused"]
    assert "pallas" not in texts["xla"]


ON_TWO_DEVICES = """
import jax, jax.numpy as jnp, numpy as np
from sarwmix_jax.models.fused_norm import fused_layer_norm_beside
from sarwmix_jax.models.interpreter import interpreted
from sarwmix_jax.tasks.gradients import make_mesh, over_devices
from tests.models.test_fused_norm import arrays
x, scale, bias, *cotangents = arrays((6, 24))
def gradients(x, scale, bias, *cotangents):
    out, pull = jax.vjp(lambda *given: fused_layer_norm_beside(*given, 1e-5), x, scale, bias)
    dx, *rest = pull(cotangents)
    return out[0], dx, *(part[None] for part in rest)
mesh = make_mesh()
assert mesh.size == 2
split = over_devices(gradients, mesh, True, False, False, True, True)
with interpreted():
    found, whole = jax.jit(split)(x, scale, bias, *cotangents), gradients(x, scale, bias, *cotangents)
for a, b in zip(found[:2], whole[:2]):
    np.testing.assert_allclose(a, b, rtol=0, atol=1e-6)
for a, b in zip(found[2:], whole[2:]):
    assert a.shape == (2, 24)
    np.testing.assert_allclose(a.sum(axis=0), b[0], rtol=0, atol=1e-5)
"""


def test_each_device_normalises_its_own_rows():
    command = [sys.executable, "-c", "import jax; jax.config.update('jax_num_cpu_devices', 2)\n" + ON_TWO_DEVICES]
    done = subprocess.run(command, cwd=Path(__file__).parents[2], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("width", [128, 192, 352, 5632])
def test_lowers_for_cuda_without_a_gpu(width):
    def both(x, scale, bias):
        out, pull = jax.vjp(lambda *given: fused_layer_norm_beside(*given, 1e-5), x, scale, bias)
        return out, pull(out)

    shapes = [jax.ShapeDtypeStruct((1000, width), jnp.bfloat16), *[jax.ShapeDtypeStruct((width,), jnp.float32)] * 2]
    with a_hopper():
        text = jax.jit(both).trace(*shapes).lower(lowering_platforms=("cuda",)).as_text()
    assert text.count("stablehlo.custom_call @") == 2
    assert "xla.gpu.triton" in text
