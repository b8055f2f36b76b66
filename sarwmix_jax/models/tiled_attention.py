"""Self-attention within windows of any size as GPU kernels: logits exist one tile at a time, and never in memory.

One program computes one tile of queries of one head, over the tiles of its keys, with the softmax corrected as they
come. For the backward pass inputs, output and the logarithm of each softmax's sum are kept; one kernel computes the
gradients of the queries, keys and values of a tile. The gradient of the bias has a kernel of its own, which sums a tile
over a chunk of rows (images, or windows that share the bias); the sums of chunks are added afterwards, always in the
same order. Windows that are no multiple of a tile are filled up with tokens that nothing sees.
"""

import functools
import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import pallas as pl
from jax.experimental.pallas import triton
from jaxtyping import Array, Float

TILES = (64, 32, 16)
"""Tokens of a tile: the first of which the last tile leaves less than half of a window's tokens unused, or the last."""

PROGRAMS = 1024
"""Wanted number of programs that sum the gradient of the bias."""

Rows = Float[Array, "rows groups n 3 heads depth"]
Out = Float[Array, "rows groups n heads depth"]
Sums = Float[Array, "rows groups heads n"]
Bias = Float[Array, "groups heads n n"]


class Shape(NamedTuple):
    """What the kernels are compiled for."""

    rows: int
    groups: int
    n: int
    heads: int
    depth: int

    @property
    def tile(self) -> int:
        """Tokens of a tile."""
        return next((tile for tile in TILES if -self.n % tile < self.n / 2), TILES[-1])

    @property
    def tiles(self) -> int:
        """Tiles of a window."""
        return math.ceil(self.n / self.tile)

    @property
    def chunk(self) -> int:
        """Rows of a program that sums the gradient of the bias; the last one may have fewer."""
        wanted = math.ceil(PROGRAMS / (self.groups * self.heads * self.tiles**2))
        return math.ceil(self.rows / min(self.rows, wanted))


def shape_of(rows: Rows) -> Shape:
    """The sizes of packed queries, keys and values."""
    count, groups, n, _, heads, depth = rows.shape
    return Shape(count, groups, n, heads, depth)


@functools.partial(jax.custom_vjp, nondiff_argnums=(2,))
def attend_tiled(rows: Rows, bias: Bias | None, interpret: bool) -> Out:
    """Scaled dot-product self-attention; logits and softmax in float32.

    Args:
        rows: Packed queries, keys and values.
        bias: Added to the logits, or None; one for each group.
        interpret: Whether to run in Pallas' interpreter.
    """
    return _forward(rows, bias, interpret)[0]


def _forward(rows: Rows, bias: Bias | None, interpret: bool) -> tuple[Out, tuple[Rows, Bias | None, Out, Sums]]:
    shape = shape_of(rows)
    results = {
        "out": jax.ShapeDtypeStruct((*rows.shape[:3], *rows.shape[4:]), rows.dtype),
        "sums": jax.ShapeDtypeStruct((shape.rows, shape.groups, shape.heads, shape.n), jnp.float32),
    }
    given = [("q", rows), ("k", rows), ("v", rows)] + ([] if bias is None else [("bias", bias)])
    out, sums = _call(_forward_kernel, "tiled_attention", shape, given, results, interpret)
    return out, (rows, bias, out, sums)


def _backward(interpret: bool, saved: tuple[Rows, Bias | None, Out, Sums], cotangent: Out) -> tuple[Rows, Bias | None]:
    rows, bias, out, sums = saved
    shape = shape_of(rows)
    given = [("q", rows), ("k", rows), ("v", rows), ("out", out), ("out", cotangent), ("sums", sums)]
    given += [] if bias is None else [("bias", bias)]
    packed = {"packed": jax.ShapeDtypeStruct(rows.shape, rows.dtype)}
    (d_rows,) = _call(_backward_kernel, "tiled_attention_backward", shape, given, packed, interpret)
    return d_rows, None if bias is None else _bias_gradient(shape, given, interpret).astype(bias.dtype)


attend_tiled.defvjp(_forward, _backward)


def _call(
    kernel: Any, name: str, shape: Shape, given: list[Any], results: dict[str, Any], interpret: bool
) -> list[Float[Array, "..."]]:
    """Runs a kernel with one program for each tile of each head of each window; heads change fastest."""
    n, heads, depth, each = shape.tile * shape.tiles, shape.heads, shape.depth, shape.heads * shape.tiles

    def part(number: int) -> Any:
        return pl.BlockSpec((None, None, n, None, None, depth), lambda p, g: (p // each, g, 0, number, p % heads, 0))

    blocks = {
        **{name: part(number) for number, name in enumerate("qkv")},
        "packed": pl.BlockSpec((None, None, n, 3, None, depth), lambda p, g: (p // each, g, 0, 0, p % heads, 0)),
        "out": pl.BlockSpec((None, None, n, None, depth), lambda p, g: (p // each, g, 0, p % heads, 0)),
        "sums": pl.BlockSpec((None, None, None, n), lambda p, g: (p // each, g, p % heads, 0)),
        "bias": pl.BlockSpec((None, None, n, n), lambda p, g: (g, p % heads, 0, 0)),
    }
    call = pl.pallas_call(
        functools.partial(kernel, shape=shape),
        grid=(shape.rows * each, shape.groups),
        in_specs=[blocks[block] for block, _ in given],
        out_specs=[blocks[block] for block in results],
        out_shape=list(results.values()),
        compiler_params=_launch(shape),
        interpret=interpret,
        name=name,
    )
    return list(call(*(array for _, array in given)))


def _bias_gradient(shape: Shape, given: list[Any], interpret: bool) -> Bias:
    """Sums the gradient of the logits over rows: one program for each tile of each head of each chunk of rows."""
    n, heads, depth, chunk, tiles = shape.tile * shape.tiles, shape.heads, shape.depth, shape.chunk, shape.tiles

    def part(number: int) -> Any:
        return pl.BlockSpec((chunk, None, n, None, None, depth), lambda p, g, c: (c, g, 0, number, p % heads, 0))

    blocks = {
        **{name: part(number) for number, name in enumerate("qkv")},
        "out": pl.BlockSpec((chunk, None, n, None, depth), lambda p, g, c: (c, g, 0, p % heads, 0)),
        "sums": pl.BlockSpec((chunk, None, None, n), lambda p, g, c: (c, g, p % heads, 0)),
        "bias": pl.BlockSpec((None, None, n, n), lambda p, g, c: (g, p % heads, 0, 0)),
    }
    chunks = math.ceil(shape.rows / chunk)
    partial = jax.ShapeDtypeStruct((chunks, shape.groups, heads, shape.n, shape.n), jnp.float32)
    call = pl.pallas_call(
        functools.partial(_bias_kernel, shape=shape),
        grid=(heads * tiles**2, shape.groups, chunks),
        in_specs=[blocks[block] for block, _ in given],
        out_specs=pl.BlockSpec((None, None, None, n, n), lambda p, g, c: (c, g, p % heads, 0, 0)),
        out_shape=partial,
        compiler_params=_launch(shape),
        interpret=interpret,
        name="tiled_attention_bias_gradient",
    )
    summed: Bias = call(*(array for _, array in given)).sum(axis=0)
    return summed


def _launch(shape: Shape) -> Any:
    return triton.CompilerParams(num_warps=shape.tile // 16, num_stages=2)


class _Window(NamedTuple):
    """The arrays of one head of one window in memory, and of which tokens they are; `row` where there are several."""

    refs: Any
    shape: Shape
    row: Any = ()

    def tokens(self, name: str, tile: Any) -> Array:
        """A tile of queries, keys, values, output or its gradient, zero beyond the window; or of the sums."""
        place, real = self._tile(tile)
        if name == "sums":
            return triton.load(self.refs[name].at[*self.row, place], mask=real, other=0.0)
        return triton.load(self.refs[name].at[*self.row, place, :], mask=real[:, None], other=0.0)

    def logits(self, q: Array, k: Array, query: Any, key: Any) -> Array:
        """Of a tile of queries with a tile of keys; those beyond the window get no weight."""
        (rows, _), (columns, real) = self._tile(query), self._tile(key)
        logits = _dot(q, k.T) * self.shape.depth**-0.5
        if "bias" in self.refs:
            both = self._tile(query)[1][:, None] & real[None, :]
            logits += triton.load(self.refs["bias"].at[rows, columns], mask=both, other=0.0).astype(jnp.float32)
        return jnp.where(real[None, :], logits, -jnp.inf)

    def _tile(self, tile: Any) -> tuple[Any, Array]:
        """Place of a tile, and which of its tokens exist."""
        return _place(tile, self.shape)


def _place(tile: Any, shape: Shape) -> tuple[Any, Array]:
    start = tile * shape.tile
    return pl.ds(start, shape.tile), start + jnp.arange(shape.tile) < shape.n


def _forward_kernel(*refs: Any, shape: Shape) -> None:
    *given, out_ref, sums_ref = refs
    window = _Window(dict(zip(("q", "k", "v", "bias"), given, strict=False)), shape)
    own = pl.program_id(0) % (shape.heads * shape.tiles) // shape.heads
    q = window.tokens("q", own)

    def keys(tile: Array, state: tuple[Array, Array, Array]) -> tuple[Array, Array, Array]:
        out, largest, total = state
        logits = window.logits(q, window.tokens("k", tile), own, tile)
        higher = jnp.maximum(largest, logits.max(axis=1))
        weights, correction = jnp.exp(logits - higher[:, None]), jnp.exp(largest - higher)
        v = window.tokens("v", tile)
        out = out * correction[:, None] + _dot(weights.astype(v.dtype), v)
        return out, higher, total * correction + weights.sum(axis=1)

    start = jnp.zeros(q.shape, jnp.float32), jnp.full(shape.tile, -jnp.inf), jnp.zeros(shape.tile, jnp.float32)
    out, largest, total = jax.lax.fori_loop(0, shape.tiles, keys, start)
    place, real = _place(own, shape)
    triton.store(out_ref.at[place, :], (out / total[:, None]).astype(out_ref.dtype), mask=real[:, None])
    triton.store(sums_ref.at[place], largest + jnp.log(total), mask=real)


_SAVED = ("q", "k", "v", "out", "d_out", "sums", "bias")


def _gradients(window: _Window, queries: tuple[Array, Array, Array, Array], k: Array, v: Array, *tiles: Any) -> Any:
    """Weights and the gradient of the logits of a tile of queries with a tile of keys."""
    q, d_out, sums, inner = queries
    weights = jnp.exp(window.logits(q, k, *tiles) - sums[:, None])
    return weights, weights * (_dot(d_out, v.T) - inner[:, None])


def _queries(window: _Window, tile: Any) -> tuple[Array, Array, Array, Array]:
    """Of a tile: queries, gradient of the output, logarithm of the softmax's sum, and the output times its gradient."""
    q, out, d_out, sums = (window.tokens(name, tile) for name in ("q", "out", "d_out", "sums"))
    return q, d_out, sums, (out.astype(jnp.float32) * d_out.astype(jnp.float32)).sum(axis=1)


def _backward_kernel(*refs: Any, shape: Shape) -> None:
    *given, packed_ref = refs
    window, scale = _Window(dict(zip(_SAVED, given, strict=False)), shape), shape.depth**-0.5
    own = pl.program_id(0) % (shape.heads * shape.tiles) // shape.heads
    zeros = jnp.zeros((shape.tile, shape.depth), jnp.float32)
    queries = _queries(window, own)

    def over_keys(tile: Array, d_q: Array) -> Array:
        k, v = window.tokens("k", tile), window.tokens("v", tile)
        _, d_logits = _gradients(window, queries, k, v, own, tile)
        return d_q + _dot((d_logits * scale).astype(k.dtype), k)

    d_q = jax.lax.fori_loop(0, shape.tiles, over_keys, zeros)
    k, v = window.tokens("k", own), window.tokens("v", own)

    def over_queries(tile: Array, sums: tuple[Array, Array]) -> tuple[Array, Array]:
        seeing = _queries(window, tile)
        weights, d_logits = _gradients(window, seeing, k, v, tile, own)
        d_k = sums[0] + _dot((d_logits * scale).astype(k.dtype).T, seeing[0])
        return d_k, sums[1] + _dot(weights.astype(v.dtype).T, seeing[1])

    d_k, d_v = jax.lax.fori_loop(0, shape.tiles, over_queries, (zeros, zeros))
    place, real = _place(own, shape)
    for part, gradient in enumerate((d_q, d_k, d_v)):
        part_ref = packed_ref.at[place, np.int32(part), :]
        triton.store(part_ref, gradient.astype(packed_ref.dtype), mask=real[:, None])


def _bias_kernel(*refs: Any, shape: Shape) -> None:
    *given, partial_ref = refs
    pair = pl.program_id(0) // shape.heads
    query, key = pair // shape.tiles, pair % shape.tiles
    named = dict(zip(_SAVED, given, strict=True))

    def row(number: Array, total: Array) -> Array:
        window = _Window(named, shape, (number,))
        k, v = window.tokens("k", key), window.tokens("v", key)
        return total + _gradients(window, _queries(window, query), k, v, query, key)[1]

    here = jnp.minimum(shape.chunk, shape.rows - pl.program_id(2) * shape.chunk)
    total = jax.lax.fori_loop(0, here, row, jnp.zeros((shape.tile, shape.tile), jnp.float32))
    (rows, seeing), (columns, seen) = _place(query, shape), _place(key, shape)
    triton.store(partial_ref.at[rows, columns], total, mask=seeing[:, None] & seen[None, :])


def _dot(a: Array, b: Array) -> Array:
    return jnp.dot(a, b, preferred_element_type=jnp.float32)
