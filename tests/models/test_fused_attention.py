"""The fused kernel and cuDNN against plain attention: values and all gradients.

Without a GPU the kernel runs in Pallas' interpreter and is lowered for CUDA; tests marked `gpu` run what was compiled.
"""

import contextlib
import math
import re
from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from sarwmix_jax.errors import UserError
from sarwmix_jax.models.fused_attention import LARGEST, LAUNCH, Launch, fused_attention, unsupported
from sarwmix_jax.models.interpreter import interpreted
from sarwmix_jax.models.layers import self_attend
from sarwmix_jax.models.mixmae import MixMAE
from sarwmix_jax.models.state import FORBIDDEN, Product, abstract_model, flatten_names, unflatten_names
from sarwmix_jax.settings.model import published
from sarwmix_jax.tasks.gradients import TrainState, make_gradients, make_mesh
from tests.support import TINY, on_gpu, pretraining_task, with_gpu

CASES = {
    "shared": ((3, 2, 64), ()),
    "one for all": ((3, 3, 16), (1,)),
    "per window": ((5, 2, 32), (2,)),
    "two windows a tile": ((5, 4, 8), (4,)),
    "none": ((3, 16), None),
    "tiles": ((2, 2, 72), (2,)),
    "tiles, shared": ((3, 2, 130), ()),
    "tiles, odd": ((3, 3, 25), (3,)),
    "tiles, none": ((2, 144), None),
    "three tokens": ((2, 3, 3), (3,)),
    "fewer than a tile": ((2, 3, 8), (3,)),
    "fewer than a tile, none": ((2, 4), None),
}
"""Batch axes and tokens; windows of the bias."""

BASE = {
    "stage 1": ((256, 16, 64), 4, ()),
    "stage 2": ((256, 4, 64), 8, (4,)),
    "stage 3": ((256, 2, 32), 16, (2,)),
    "stage 4": ((256, 2, 8), 32, (2,)),
    "decoder": ((512, 16), 16, None),
    "384 px, stage 2": ((32, 9, 256), 8, (9,)),
    "384 px, stage 3": ((32, 2, 288), 16, (2,)),
    "384 px, stage 4": ((32, 2, 72), 32, (2,)),
    "384 px, decoder": ((64, 144), 16, None),
}
"""What attends in the published base model at batch 256 (32 at 384 px): batch axes and tokens, heads, windows of the
bias."""

FORWARD_AND_BACKWARD = 2
TRAINED = replace(
    TINY,
    embed_dim=16,
    depths=(1, 1, 1, 1),
    num_heads=(1, 2, 4, 8),
    decoder_dim=16,
    decoder_heads=1,
    decoder_depth=2,
)
"""A small model whose heads the kernel knows."""


def arrays(shape, heads, biases, dtype=jnp.float32, depth=16, seed=0):
    """(qkv, the bias of its layer, bias, cotangent); one pair of tokens must not see each other."""
    rng = np.random.default_rng(seed)
    qkv, layer = (jnp.asarray(rng.normal(size=(*axes, 3 * heads * depth)), dtype) for axes in (shape, ()))
    cotangent = jnp.asarray(rng.normal(size=(*shape, heads * depth)), dtype)
    if biases is None:
        return qkv, layer, None, cotangent
    bias = rng.normal(size=(*biases, heads, shape[-1], shape[-1])).astype(np.float32)
    bias[..., 1, 2] = FORBIDDEN
    return qkv, layer, jnp.asarray(bias), cotangent


def two_groups(shape, heads):
    """The arrays of two mix groups, stacked; the layer is one."""
    groups = (arrays(shape, heads, shape[1:2], seed=seed) for seed in (0, 1))
    qkv, layer, bias, cotangent = (jnp.stack(both) for both in zip(*groups, strict=True))
    return qkv, layer[0], bias, cotangent


def of_groups(attention):
    return jax.vmap(attention, (0, None, 0))


def results(attention, *given):
    """Output and gradients, in float32; the last one given is the cotangent."""

    @jax.jit
    def both(*given):
        out, pull = jax.vjp(attention, *given[:-1])
        return [x.astype(jnp.float32) for x in jax.tree.leaves((out, pull(given[-1])))]

    return both(*given)


def plain(heads, kernel="xla"):
    return lambda qkv, layer, bias: self_attend(Product(qkv, layer), heads, bias, kernel)


def fused(heads, launch=LAUNCH):
    return lambda qkv, layer, bias: fused_attention(Product(qkv, layer), heads, bias, launch)


def worst(found, expected):
    """Largest difference of each result, relative to its largest value."""
    assert len(found) == len(expected)
    assert all(float(jnp.abs(b).max()) > 1e-2 for b in expected)
    return [float(jnp.abs(a - b).max() / jnp.abs(b).max()) for a, b in zip(found, expected, strict=True)]


@pytest.mark.parametrize("case", CASES)
def test_interpreted_kernel_gives_the_plain_values_and_gradients(case):
    shape, biases = CASES[case]
    given = arrays(shape, 2, biases)
    expected = results(plain(2), *given)
    with interpreted():
        found = results(fused(2), *given)
    assert len(found) == (3 if biases is None else 4)
    for number, (a, b) in enumerate(zip(found, expected, strict=True)):
        largest = max(1.0, jnp.abs(b).max()) if number == 2 else 1.0  # the layer's bias: a sum over all tokens
        np.testing.assert_allclose(a, b, rtol=0, atol=1e-5 * largest)
    assert biases is None or float(jnp.abs(found[3]).max()) > 0.1
    assert biases is None or not np.any(found[3][..., 1, 2])  # what is forbidden has no gradient
    assert max(worst(found, expected)) < 1e-5


def test_chunks_change_nothing():
    given = arrays((7, 2, 16), 2, (2,))
    expected = results(plain(2), *given)
    with interpreted():
        found = results(fused(2, Launch(programs=6)), *given)  # chunks of 4 and of 3 rows
    assert max(worst(found, expected)) < 1e-5


def test_bfloat16_is_as_near_to_float32_as_the_plain_way():
    given = arrays((3, 2, 32), 2, (2,), jnp.bfloat16)
    exact = results(plain(2), *(x.astype(jnp.float32) for x in given))
    with interpreted():
        found = results(fused(2), *given)
    errors, usual = worst(found, exact), worst(results(plain(2), *given), exact)
    assert max(errors) < 0.02
    for error, of_plain in zip(errors, usual, strict=True):
        assert error < 1.25 * of_plain


def test_mix_groups_under_vmap():
    given = two_groups((3, 2, 16), 1)
    expected = results(of_groups(plain(1)), *given)
    with interpreted():
        found = results(of_groups(fused(1)), *given)
    assert max(worst(found, expected)) < 1e-5


def test_what_the_kernel_does_not_support_is_refused_in_one_line():
    with pytest.raises(UserError) as caught:
        self_attend(Product(jnp.zeros((2, 16, 48)), jnp.zeros(48)), 2, kernel="fused")
    reason = "the head depth 8 is not one of 16, 32, 64"
    line = f"model.kernel fused cannot compute this attention: {reason}; use --config.model.kernel=xla"
    assert str(caught.value) == line
    assert unsupported(jnp.zeros((2, 16, 48), jnp.int8), 1) == "the type int8 is not float32, bfloat16 or float16"


def drawn(model, batch):
    """(params, fixed, records), drawn such that every part matters."""
    rng = np.random.default_rng(0)

    def draw(name, leaf):
        spread = leaf.shape[0] ** -0.5 if name.endswith("kernel") else 0.3
        return jnp.asarray(rng.normal(1.0 if name.endswith("scale") else 0.0, spread, leaf.shape), leaf.dtype)

    trees = (flatten_names(tree) for tree in abstract_model(MixMAE, model)[1:])
    params, fixed = (unflatten_names({name: draw(name, leaf) for name, leaf in tree.items()}) for tree in trees)
    db = rng.normal(-15.0, 5.0, (batch, 2, model.image_size, model.image_size))
    return params, fixed, {"image": jnp.asarray(db, jnp.float16)}


def step_gradient(model, batch, range_mask_ratio=0.0, part=0):
    """(params, fixed, records) -> gradient of a training step (or, part 1, its metrics), not compiled yet."""
    task = pretraining_task(model, range_mask_ratio=range_mask_ratio, mix_group=batch, micro_batch=batch)
    gradients = make_gradients(task, abstract_model(*task.model)[0], make_mesh(jax.devices()[:1]))
    return jax.jit(
        lambda params, fixed, records: gradients(TrainState(params, fixed, None, jnp.int32(0)), records)[part]
    )


def test_the_model_uses_the_kernel():
    given = drawn(TRAINED, 2)
    with interpreted():
        traced = step_gradient(replace(TRAINED, kernel="fused"), 2).trace(*given)
    assert str(traced.jaxpr).count("name=window_attention") == FORWARD_AND_BACKWARD * 6
    assert "window_attention" not in str(step_gradient(TRAINED, 2).trace(*given).jaxpr)


@pytest.mark.slow
@pytest.mark.parametrize("range_mask_ratio", [0.0, 0.1], ids=["gathered", "masked"])
def test_gradient_of_a_whole_training_step(range_mask_ratio):
    given = drawn(TRAINED, 2)
    expected = flatten_names(step_gradient(TRAINED, 2, range_mask_ratio)(*given))
    with interpreted():
        found = flatten_names(step_gradient(replace(TRAINED, kernel="fused"), 2, range_mask_ratio)(*given))
    assert sum("bias_table" in name for name in expected) == 4
    for name, b in expected.items():
        np.testing.assert_allclose(found[name], b, rtol=0, atol=1e-5 * np.abs(b).max(), err_msg=name)
        assert "bias_table" not in name or np.abs(b).max() > 1e-4


@pytest.mark.slow
@pytest.mark.promotes("Flax's LayerNorm takes its statistics of bfloat16 in float32")
def test_loss_in_bfloat16_is_within_one_percent():
    given = drawn(TRAINED, 2)
    plain = float(step_gradient(TRAINED, 2, part=1)(*given)["loss"])
    with interpreted():
        narrow = step_gradient(replace(TRAINED, kernel="fused", dtype="bfloat16"), 2, part=1)(*given)["loss"]
    assert abs(float(narrow) / plain - 1) < 0.01


def a_hopper():
    """Lets the newer Pallas lower for a GPU that is not there; the older takes one of this kind by itself."""
    if with_gpu() or not hasattr(jax.sharding, "AbstractDevice"):
        return contextlib.nullcontext()
    device = jax.sharding.AbstractDevice("NVIDIA H100", 132, "gpu")
    return jax.sharding.use_abstract_mesh(jax.sharding.AbstractMesh((), (), abstract_device=device))


def shapes_of(case, dtype=jnp.bfloat16):
    shape, heads, biases = BASE[case]
    qkv, layer = (jax.ShapeDtypeStruct((*axes, 3 * heads * 32), dtype) for axes in (shape, ()))
    bias = None if biases is None else jax.ShapeDtypeStruct((*biases, heads, shape[-1], shape[-1]), jnp.float32)
    return qkv, layer, bias


@pytest.mark.parametrize("case", BASE)
def test_lowers_for_cuda_without_a_gpu(case):
    qkv, layer, bias = shapes_of(case)

    def both(*given):
        out, pull = jax.vjp(fused(BASE[case][1]), *given)
        return out, pull(out)

    with a_hopper():
        text = jax.jit(both).trace(qkv, layer, bias).lower(lowering_platforms=("cuda",)).as_text()
    in_tiles = qkv.shape[-2] > LARGEST
    for_bias = bias is not None and in_tiles  # the gradient of the bias has a kernel of its own
    assert text.count("stablehlo.custom_call @") == FORWARD_AND_BACKWARD + for_bias
    assert "xla.gpu.triton" in text
    assert "stablehlo.transpose" not in text or case == "stage 4"  # whose biases alone are turned, to share a tile
    # but for windows of tiles, nothing as large as the gradient of queries, keys and values is read again to be summed
    summed = re.findall(r"stablehlo\.reduce\(.*: \(tensor<([\dx]+)x\w+>", text)
    assert (8 * max(math.prod(map(int, shape.split("x"))) for shape in summed) < qkv.size) == (not in_tiles)


def relative(found, expected):
    """Distance of two trees in units of the second one's length."""
    pairs = list(zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True))
    return float(jnp.sqrt(sum(jnp.sum((a - b) ** 2) for a, b in pairs) / sum(jnp.sum(b**2) for _, b in pairs)))


@on_gpu
@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("programs", [LAUNCH.programs, 6])
def test_compiled_kernel_is_exact_in_float32(case, programs):
    shape, biases = CASES[case]
    given = arrays((7, *shape[1:]), 2, biases, depth=32)
    with jax.default_matmul_precision("highest"):
        errors = worst(results(fused(2, Launch(programs=programs)), *given), results(plain(2), *given))
    assert max(errors) < 1e-5


@on_gpu
@pytest.mark.parametrize("case", BASE)
@pytest.mark.parametrize("kernel", ["fused", "cudnn"])
def test_compiled_kernels_at_the_shapes_of_base(kernel, case):
    shape, heads, biases = BASE[case]
    given = arrays(shape, heads, biases, jnp.bfloat16, depth=32)
    with jax.default_matmul_precision("highest"):
        exact = results(plain(heads), *(None if x is None else x.astype(jnp.float32) for x in given))
    errors, usual = worst(results(plain(heads, kernel), *given), exact), worst(results(plain(heads), *given), exact)
    assert max(errors) < 0.02
    for error, of_plain in zip(errors, usual, strict=True):
        assert error < 1.5 * of_plain


@on_gpu
def test_compiled_kernel_repeats_bit_by_bit():
    given = arrays((64, 4, 64), 4, (), jnp.bfloat16, depth=32)
    first, second = (results(fused(4), *given) for _ in range(2))
    for a, b in zip(first, second, strict=True):
        np.testing.assert_array_equal(a, b)


@on_gpu
def test_compiled_mix_groups_under_vmap():
    given = two_groups((8, 2, 32), 2)
    with jax.default_matmul_precision("highest"):
        errors = worst(results(of_groups(fused(2)), *given), results(of_groups(plain(2)), *given))
    assert max(errors) < 1e-5


@pytest.mark.promotes("Flax's LayerNorm takes its statistics of bfloat16 in float32")
@on_gpu
@pytest.mark.parametrize("range_mask_ratio", [0.0, 0.1], ids=["gathered", "masked"])
def test_compiled_gradient_of_a_whole_training_step(range_mask_ratio):
    model = published("base", depths=(1, 1, 2, 1), decoder_depth=2)
    given = drawn(model, 16)

    def gradient(**changes):
        return step_gradient(replace(model, **changes), 16, range_mask_ratio)(*given)

    with jax.default_matmul_precision("highest"):
        exact = gradient()
        assert relative(gradient(kernel="fused"), exact) < 1e-4
    usual = relative(gradient(dtype="bfloat16"), exact)
    for kernel in ("fused", "cudnn"):
        assert relative(gradient(dtype="bfloat16", kernel=kernel), exact) < 1.25 * usual
