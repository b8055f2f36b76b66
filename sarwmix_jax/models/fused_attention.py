"""Self-attention within windows as one GPU kernel, forward and backward.

The kernels read the packed output of the qkv layer as it is in memory and write the layout that the next layer reads,
so neither logits nor transposed heads reach the device's memory. One program computes one head of one group of windows
that share a bias, over a chunk of rows (images and, where all windows share one bias, windows): the bias stays in
registers, and its gradient is summed there and written once per chunk. The partial sums are added afterwards, always
in the same order, so that results are reproducible bit by bit.

The backward pass recomputes the weights; only the inputs are stored. For the bias of the dense layer that gave queries,
keys and values it also writes sums of their gradients over each window, so that these are not read once more. Windows
that do not fit in a program are left to the kernels of `tiled_attention`.
"""

import functools
import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from einops import rearrange
from jax.experimental import pallas as pl
from jax.experimental.pallas import triton
from jaxtyping import Array, Float, Shaped

from sarwmix_jax.models.interpreter import interpreting
from sarwmix_jax.models.state import FORBIDDEN, Product, keep
from sarwmix_jax.models.tiled_attention import attend_tiled

SMALLEST, LARGEST = 16, 64
"""Tokens per program: with fewer a tile of the matrix unit is not full, with more the registers do not suffice."""

DEPTHS = (16, 32, 64)
"""Head depths that the kernels support."""

KEYS = 1
"""The part whose gradients add up to zero: what is added to all keys adds the same to all logits of a query, and so
changes no weight."""


class Launch(NamedTuple):
    """How a GPU runs the kernels; changes speed, not results beyond rounding.

    Attributes:
        programs: Wanted number of programs, several per multiprocessor; more give shorter chunks and more partial sums.
        tokens_per_warp: Tokens of a window per warp of a program.
        stages: Depth of the pipeline that loads rows ahead.
    """

    programs: int = 1024
    tokens_per_warp: int = 16
    stages: int = 2


LAUNCH = Launch()

Rows = Float[Array, "rows groups n 3 heads depth"]
Layer = Float[Array, "3 heads depth"]
"""The bias of the dense layer."""

Bias = Float[Array, "groups heads n n"]


def unsupported(qkv: Shaped[Array, "*batch n packed"] | jax.ShapeDtypeStruct, heads: int) -> str | None:
    """Why the kernels do not support these packed arrays, or None where they do."""
    depth = qkv.shape[-1] // (3 * heads)
    if qkv.dtype not in (jnp.float32, jnp.bfloat16, jnp.float16):
        return f"the type {qkv.dtype} is not float32, bfloat16 or float16"
    return None if depth in DEPTHS else f"the head depth {depth} is not one of {', '.join(map(str, DEPTHS))}"


def fits_a_program(n: int, groups: int = 1) -> bool:
    """Whether one program can hold a window of `n` tokens, alone or with others of as many groups that have a bias."""
    power_of_two = n & (n - 1) == 0
    return power_of_two and n <= LARGEST and (n >= SMALLEST or groups % (SMALLEST // n) == 0)


def fused_attention(
    qkv: Product, heads: int, bias: Float[Array, "*groups heads n n"] | None = None, launch: Launch = LAUNCH
) -> Float[Array, "*batch n width"]:
    """Scaled dot-product self-attention; logits and softmax in float32.

    Args:
        qkv: What the dense layer of queries, keys and values gives, (*batch, n, packed), the last axis in the order
            (part, head, depth); `unsupported` lists the limits.
        heads: Number of heads.
        bias: Added to the logits: none, one (heads, n, n) or (1, heads, n, n) for all, or one for each window of the
            last batch axis. Its gradient is the exact sum over all windows that share it.
        launch: How a GPU runs the kernels.
    """
    assert unsupported(qkv.values, heads) is None
    groups, shape = _groups(bias), qkv.values.shape
    parts = (3, heads, shape[-1] // (3 * heads))
    bias = None if bias is None else bias.reshape(groups, *bias.shape[-3:])
    if not fits_a_program(shape[-2], groups):
        rows = keep("qkv", qkv.total).reshape(-1, groups, shape[-2], *parts)
        return attend_tiled(rows, bias, interpreting()).reshape(*shape[:-1], -1)
    total = qkv._replace(bias=jax.lax.stop_gradient(qkv.bias)).total  # its gradient comes from the kernel
    rows = keep("qkv", total).reshape(-1, groups, shape[-2], *parts)
    if shape[-2] < SMALLEST:
        rows, bias = _stack(rows, bias, SMALLEST // shape[-2])
    return _attend(rows, qkv.bias.reshape(parts), bias, launch, interpreting()).reshape(*shape[:-1], -1)


def _groups(bias: Float[Array, "..."] | jax.ShapeDtypeStruct | None) -> int:
    return 1 if bias is None or bias.ndim == 3 else bias.shape[0]


def _stack(
    rows: Rows, bias: Bias | None, windows: int
) -> tuple[Float[Array, "rows tiles m 3 heads depth"], Float[Array, "tiles heads m m"]]:
    """Lets neighbouring groups share a tile: `windows` of them become one, without attention between them."""
    assert bias is not None  # without one there is a single group
    rows = rearrange(rows, "row (group window) n ... -> row group (window n) ...", window=windows)
    own = jnp.eye(windows, dtype=bool)[:, None, :, None]
    each = rearrange(bias, "(group window) head q k -> group head window q 1 k", window=windows)
    return rows, rearrange(jnp.where(own, each, FORBIDDEN), "g head w q v k -> g head (w q) (v k)")


def _chunk(rows: Rows, launch: Launch) -> int:
    """Rows per program; the last one may have fewer."""
    count, groups, _, _, heads, _ = rows.shape
    return math.ceil(count / min(count, math.ceil(launch.programs / (groups * heads))))


@functools.partial(jax.custom_vjp, nondiff_argnums=(3, 4))
def _attend(
    rows: Rows, layer: Layer, bias: Bias | None, launch: Launch, interpret: bool
) -> Float[Array, "rows groups n heads depth"]:
    """Attention; `rows` hold the bias of the `layer` already, which is given for its gradient alone."""
    given = {"packed": rows} | ({} if bias is None else {"bias": bias})
    results = {"out": jax.ShapeDtypeStruct(rows.shape[:3] + rows.shape[4:], rows.dtype)}
    return _call(_forward_kernel, "window_attention", given, results, launch, interpret)[0]


def _attend_forward(
    rows: Rows, layer: Layer, bias: Bias | None, launch: Launch, interpret: bool
) -> tuple[Float[Array, "rows groups n heads depth"], tuple[Rows, Bias | None]]:
    return _attend(rows, layer, bias, launch, interpret), (rows, bias)


def _attend_backward(
    launch: Launch,
    interpret: bool,
    saved: tuple[Rows, Bias | None],
    cotangent: Float[Array, "rows groups n heads depth"],
) -> tuple[Rows, Layer, Bias | None]:
    rows, bias = saved
    given, results = {"packed": rows, "out": cotangent}, {"packed": jax.ShapeDtypeStruct(rows.shape, rows.dtype)}
    results["sums"] = jax.ShapeDtypeStruct((*rows.shape[:2], *rows.shape[3:]), jnp.float32)
    if bias is not None:
        chunks = math.ceil(len(rows) / _chunk(rows, launch))
        given["bias"], results["partial"] = bias, jax.ShapeDtypeStruct((chunks, *bias.shape), jnp.float32)
    d_rows, sums, *partials = _call(_backward_kernel, "window_attention_backward", given, results, launch, interpret)
    d_bias = None if bias is None else partials[0].sum(axis=0).astype(bias.dtype)
    return d_rows, sums.sum(axis=(0, 1)).astype(rows.dtype), d_bias


_attend.defvjp(_attend_forward, _attend_backward)


def _call(
    kernel: Any, name: str, given: dict[str, Array], results: dict[str, Any], launch: Launch, interpret: bool
) -> list[Array]:
    """Runs a kernel over arrays; each is given with the name of its block.

    Blocks: `packed` for queries, keys and values and for their gradients, `sums` for sums of the latter over tokens,
    `out` for the output, `bias`, and `partial` for the partial sums of the bias' gradient. Heads change fastest, since
    those of a token are adjacent in memory.
    """
    rows, groups, n, _, heads, depth = given["packed"].shape
    chunk = _chunk(given["packed"], launch)
    blocks = {
        "packed": pl.BlockSpec((chunk, None, n, 3, None, depth), lambda h, g, c: (c, g, 0, 0, h, 0)),
        "sums": pl.BlockSpec((chunk, None, 3, None, depth), lambda h, g, c: (c, g, 0, h, 0)),
        "out": pl.BlockSpec((chunk, None, n, None, depth), lambda h, g, c: (c, g, 0, h, 0)),
        "bias": pl.BlockSpec((None, None, n, n), lambda h, g, c: (g, h, 0, 0)),
        "partial": pl.BlockSpec((None, None, None, n, n), lambda h, g, c: (c, g, h, 0, 0)),
    }
    call = pl.pallas_call(
        functools.partial(kernel, rows=rows, chunk=chunk),
        grid=(heads, groups, math.ceil(rows / chunk)),
        in_specs=[blocks[array] for array in given],
        out_specs=[blocks[array] for array in results],
        out_shape=list(results.values()),
        compiler_params=triton.CompilerParams(num_warps=max(1, n // launch.tokens_per_warp), num_stages=launch.stages),
        interpret=interpret,
        name=name,
    )
    return list(call(*given.values()))


def _forward_kernel(rows_ref: Any, *refs: Any, rows: int, chunk: int) -> None:
    *bias_ref, out_ref = refs
    bias = bias_ref[0][...] if bias_ref else None

    def row(i: Array, nothing: None) -> None:
        q, k, v = (rows_ref[i, :, part, :] for part in range(3))
        out_ref[i] = _dot(_weights(q, k, bias).astype(v.dtype), v).astype(out_ref.dtype)

    jax.lax.fori_loop(0, _rows_here(rows, chunk), row, None)


def _backward_kernel(rows_ref: Any, cotangent_ref: Any, *refs: Any, rows: int, chunk: int) -> None:
    bias_ref, d_rows_ref, sums_ref, partial_ref = refs if len(refs) == 4 else (None, *refs, None)
    bias = None if bias_ref is None else bias_ref[...]

    def row(i: Array, d_bias: Array | None) -> Array | None:
        def write(part: int, gradient: Array) -> None:
            narrow = gradient.astype(d_rows_ref.dtype)
            d_rows_ref[i, :, part, :] = narrow
            sums_ref[i, part, :] = jnp.zeros(narrow.shape[1:], jnp.float32) if part == KEYS else _over_tokens(narrow)

        q, k, v = (rows_ref[i, :, part, :] for part in range(3))
        d_out = cotangent_ref[i]
        weights = _weights(q, k, bias)
        write(2, _dot(weights.astype(v.dtype).T, d_out))  # first, else registers do not suffice
        d_weights = _dot(d_out, v.T)
        d_logits = weights * (d_weights - (weights * d_weights).sum(axis=1)[:, None])
        scaled = (d_logits * _scale(q)).astype(q.dtype)
        write(0, _dot(scaled, k))
        write(1, _dot(scaled.T, q))
        return None if d_bias is None else d_bias + d_logits

    start = None if bias is None else jnp.zeros(bias.shape, jnp.float32)
    total = jax.lax.fori_loop(0, _rows_here(rows, chunk), row, start)
    if partial_ref is not None:
        partial_ref[...] = total


def _rows_here(rows: int, chunk: int) -> Array:
    """Number of rows in this program's chunk."""
    return jnp.minimum(chunk, rows - pl.program_id(2) * chunk)


def _weights(q: Array, k: Array, bias: Array | None) -> Float[Array, "n n"]:
    logits = _dot(q, k.T) * _scale(q)
    logits = logits if bias is None else logits + bias.astype(jnp.float32)
    weights = jnp.exp(logits - logits.max(axis=1)[:, None])
    return weights / weights.sum(axis=1)[:, None]


def _over_tokens(x: Array) -> Float[Array, " depth"]:
    """The sum over tokens, by the matrix unit: threads would have to exchange values for it."""
    first = jnp.broadcast_to((jnp.arange(SMALLEST) == 0)[:, None], (SMALLEST, len(x))).astype(x.dtype)
    # float32 is not rounded to TF32 here: what is added up is no product
    return jnp.dot(first, x, precision=jax.lax.Precision.HIGHEST, preferred_element_type=jnp.float32).sum(axis=0)


def _scale(q: Array) -> float:
    return float(q.shape[-1] ** -0.5)


def _dot(a: Array, b: Array) -> Array:
    return jnp.dot(a, b, preferred_element_type=jnp.float32)
