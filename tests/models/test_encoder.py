"""Stages against attention written out in full, and the exact shortcuts against the plain paths."""

from dataclasses import replace
from functools import cache, partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from sarwmix_jax.models.encoder import Stage, cell_mask
from sarwmix_jax.models.layers import dense
from sarwmix_jax.models.mixmae import MixMAE, draw_mask
from sarwmix_jax.models.state import merge_model, split_model
from sarwmix_jax.models.tokens import inverse, z_order
from tests.support import TINY, at_size, golden, golden_autoencoder, model_arrays, plausible, standardised


def written_out(stage: Stage, x: np.ndarray, token_bits: np.ndarray | None, window: int) -> jax.Array:
    """A stage without its merge on row-major tokens: attention over the whole grid, forbidden outside windows."""
    grid = stage.grid
    rows, columns = np.divmod(np.arange(grid * grid), grid)
    dy, dx = rows[:, None] - rows, columns[:, None] - columns
    same = (rows[:, None] // window == rows // window) & (columns[:, None] // window == columns // window)
    if token_bits is not None:
        same &= token_bits[:, None] == token_bits
    index = np.where(same, (dy + window - 1) * (2 * window - 1) + dx + window - 1, 0)
    for block in stage.blocks:
        attention = block.attention
        q, k, v = jnp.split(dense(attention.qkv, block.norm1(x)), 3, axis=-1)
        heads = [a.reshape(*a.shape[:2], attention.heads, -1) for a in (q, k, v)]
        logits = jnp.einsum("bqhd,bkhd->bhqk", *heads[:2]) * heads[0].shape[-1] ** -0.5
        logits += jnp.moveaxis(attention.bias_table[...][index], -1, 0)
        weights = jax.nn.softmax(jnp.where(same, logits, -jnp.inf), axis=-1)
        x = x + dense(attention.proj, jnp.einsum("bhqk,bkhd->bqhd", weights, heads[2]).reshape(x.shape))
        x = x + block.mlp(block.norm2(x))
    return x


@cache
def random_stage(side: int, number: int, **changes) -> Stage:
    settings = at_size(side, depths=(1, 1, 1, 1), **changes)
    shapes = nnx.eval_shape(lambda: Stage(number, [0.0], settings, rngs=nnx.Rngs(0)))
    structure, params, fixed = split_model(shapes)
    assert not jax.tree.leaves(fixed)
    params = plausible(params)
    table = params["blocks"][0]["attention"]["bias_table"]
    params["blocks"][0]["attention"]["bias_table"] = jax.random.normal(jax.random.key(3), table.shape)
    stage = merge_model(structure, params, fixed)
    stage.merge = None
    return stage


@pytest.mark.parametrize("side", [128, 160, pytest.param(384, marks=pytest.mark.slow)])
@pytest.mark.parametrize("number", [0, 1, 2, 3])
@pytest.mark.parametrize("masked", [None, 0.5, 0.3])
def test_stage_is_window_attention_within_each_image(side, number, masked):
    if side == 384 and number < 2:
        pytest.skip("the written-out attention needs too much memory; 384 px is compared path by path below")
    stage = random_stage(side, number)
    grid, cells = stage.grid, (side // 32) ** 2
    x = jax.random.normal(jax.random.key(1), (2, grid * grid, 8 * 2**number))
    bits, prepared = None, None
    if masked is not None:
        count = int(cells * masked)
        mask = draw_mask(jax.random.key(2), cells, count / cells + 1e-6)
        assert mask.sum() == count
        bits = np.kron(np.asarray(mask).reshape(side // 32, -1), np.ones((grid * 32 // side,) * 2)).reshape(-1)
        prepared = cell_mask(mask, count)
    expected = jax.jit(lambda tokens: written_out(stage, tokens, bits, stage.window))(x)
    run = jax.jit(lambda tokens: forward(stage, tokens, prepared))
    np.testing.assert_allclose(run(x), expected, rtol=0, atol=1e-5)


def forward(stage: Stage, x: jax.Array, prepared) -> jax.Array:
    """The stage on row-major tokens, put into its own order and back."""
    order = z_order(stage.grid)
    if stage.gathers(prepared):
        cells = (prepared.groups.reshape(-1)[:, None] * stage.cell_side**2 + np.arange(stage.cell_side**2)).reshape(-1)
        order = jnp.asarray(order)[cells]
    out = stage(x[:, order], prepared, [None])
    return out[:, jnp.argsort(order)] if stage.gathers(prepared) else out[:, inverse(order)]


def test_where_the_shortcuts_hold():
    half, third = (cell_mask(jnp.arange(16.0) % step // (step - 1), count) for step, count in ((2, 8), (3, 5)))
    open_count = cell_mask(jnp.arange(16.0) % 2, None)
    stages = [random_stage(128, number) for number in range(4)]
    assert [s.gathers(half) for s in stages] == [False, False, True, True]
    assert not any(s.gathers(m) for s in stages for m in (third, open_count, None))
    assert not any(random_stage(128, n, attention="plain").gathers(half) for n in range(4))
    assert stages[0]._pairs(half).forbidden is None
    assert stages[1]._pairs(half).forbidden is not None
    large_half = cell_mask(jnp.arange(144.0) % 2, 72)
    large = [random_stage(384, number) for number in range(4)]
    assert [s.gathers(large_half) for s in large] == [False, False, True, True]
    assert large[0]._pairs(large_half).forbidden is not None  # a window of 16 holds four cells


@cache
def compiled(settings):
    """(params, fixed, images, mask, masked_count) -> ((loss, reconstruction), gradients), compiled once."""
    graphdef, _, _ = model_arrays(MixMAE, settings)

    def loss(params, fixed, images, mask, masked_count):
        model = merge_model(graphdef, params, fixed)
        reconstruction = model.reconstruct(images, mask, masked_count=masked_count)
        return (reconstruction.astype(jnp.float32) ** 2).mean(), reconstruction

    return jax.jit(jax.value_and_grad(loss, has_aux=True), static_argnums=4)


def loss_and_gradients(settings, *arguments):
    (value, reconstruction), grads = compiled(settings)(*arguments)
    return value, reconstruction, grads


PLAIN = {"attention": "plain", "decoder": "full"}


@pytest.mark.parametrize("side", [128, pytest.param(384, marks=pytest.mark.slow)])
@pytest.mark.parametrize(
    ("count", "changes"),
    [
        ("half", {}),
        pytest.param("half", {"recompute": "block"}, marks=pytest.mark.slow),
        pytest.param("half", {"recompute": "elementwise"}, marks=pytest.mark.slow),
        pytest.param("third", {}, marks=pytest.mark.slow),
        pytest.param("unknown", {}, marks=pytest.mark.slow),
    ],
    ids=["gathered", "recomputed", "partly recomputed", "five of sixteen", "range of ratios"],
)
def test_paths_agree(side, count, changes):
    settings = at_size(side)
    _, params, fixed = model_arrays(MixMAE, settings)
    images = jax.random.normal(jax.random.key(5), (2, 2, side, side))
    ratio = {"half": 0.5, "third": 5 / 16, "unknown": 0.25}[count]
    spread = 0.5 if count == "unknown" else 0.0
    mask = draw_mask(jax.random.key(6), settings.cells, ratio, spread)
    known = None if count == "unknown" else int(mask.sum())
    plain = loss_and_gradients(replace(settings, **PLAIN), params, fixed, images, mask, None)
    fast = loss_and_gradients(replace(settings, **changes), params, fixed, images, mask, known)
    np.testing.assert_allclose(fast[0], plain[0], rtol=0, atol=1e-5)
    np.testing.assert_allclose(fast[1], plain[1], rtol=0, atol=1e-5)
    for actual, expected in zip(jax.tree.leaves(fast[2]), jax.tree.leaves(plain[2]), strict=True):
        np.testing.assert_allclose(actual, expected, rtol=0, atol=1e-5)


@pytest.mark.promotes("Flax's LayerNorm takes its statistics of bfloat16 in float32")
@pytest.mark.slow
@pytest.mark.parametrize("side", [128, 384])
def test_bfloat16_loss_within_one_percent(side):
    settings = at_size(side)
    if side == 128:
        _, params, fixed = golden_autoencoder()
        images, mask = standardised(golden("pretrain_tiny")["x_db"]), jnp.asarray(golden("pretrain_tiny")["mask"])
    else:
        _, params, fixed = model_arrays(MixMAE, settings)
        images = jax.random.normal(jax.random.key(5), (2, 2, side, side))
        mask = draw_mask(jax.random.key(6), settings.cells, 0.5)
    count = settings.cells // 2
    exact, *_ = loss_and_gradients(settings, params, fixed, images, mask, count)
    for changes in ({}, PLAIN):
        rounded, reconstruction, grads = loss_and_gradients(
            replace(settings, dtype="bfloat16", **changes), params, fixed, images, mask, count
        )
        assert reconstruction.dtype == jnp.bfloat16
        assert {g.dtype for g in jax.tree.leaves(grads)} == {jnp.dtype("float32")}
        assert abs(rounded - exact) < 0.01 * exact


@pytest.mark.slow
def test_drop_path_and_dropout_act_only_with_a_key():
    small = at_size(64, depths=(1, 1, 1, 1), decoder_depth=1)
    model = merge_model(*model_arrays(MixMAE, replace(small, drop_path=0.9, dropout=0.1)))
    images = standardised(golden("pretrain_tiny")["x_db"][..., :64, :64])
    run = jax.jit(partial(model.encode))
    still, first = run(images), run(images, key=jax.random.key(0))
    expected = jax.jit(merge_model(*model_arrays(MixMAE, small)).encode)(images)
    np.testing.assert_allclose(still, expected, rtol=0, atol=1e-6)
    assert np.abs(first - still).max() > 1e-2
    np.testing.assert_array_equal(first, run(images, key=jax.random.key(0)))
    assert np.abs(first - run(images, key=jax.random.key(1))).max() > 1e-2


def test_drop_path_rates_rise_to_the_last_block():
    model = nnx.eval_shape(lambda: MixMAE(replace(TINY, drop_path=0.4), rngs=nnx.Rngs(0)))
    rates = [rate or 0.0 for stage in model.encoder.stages for rate in stage.rates]
    np.testing.assert_allclose(rates, [0, 0.1, 0.2, 0.3, 0.4])
