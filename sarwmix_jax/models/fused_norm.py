"""LayerNorm as one GPU kernel each way, which reads and writes every value once.

The backward pass keeps the input and two statistics a row. It adds the gradient of the residual connection, which
leaves the stream where LayerNorm does. The gradients of scale and bias are summed in registers over the rows of a
program and written once; these partial sums are added afterwards, always in the same order, so that results are
reproducible bit by bit. A width that is no power of two is filled up with lanes that neither read nor write.
"""

import functools
import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl
from jax.experimental.pallas import triton
from jaxtyping import Array, Float

from sarwmix_jax.models.interpreter import interpreting

PROGRAMS = 1056
"""Wanted number of programs: eight for each multiprocessor of a Hopper GPU."""

LEAST_ROWS = 32
"""Rows of a program at least: with fewer, partial sums are no longer small beside the rows."""

VALUES, VALUES_PER_THREAD, LARGEST_WARPS = 2048, 16, 16
"""Values that a program holds at a time, and of a thread: more would not fit in registers."""

Rows = Float[Array, "rows width"]
Vector = Float[Array, " width"]
Statistics = Float[Array, " rows"]


class Plan(NamedTuple):
    """How rows are divided over programs.

    Attributes:
        rows: Rows of the array.
        width: Values of a row.
        lanes: The width filled up to a power of two.
        tile: Rows that a program holds at a time.
        tiles: Such tiles of a program.
    """

    rows: int
    width: int
    lanes: int
    tile: int
    tiles: int

    @property
    def programs(self) -> int:
        """Number of programs; the last one may have fewer rows."""
        return math.ceil(self.rows / (self.tile * self.tiles))

    @property
    def warps(self) -> int:
        """Warps of a program."""
        return max(1, min(LARGEST_WARPS, self.tile * self.lanes // (32 * VALUES_PER_THREAD)))


def plan_of(rows: int, width: int) -> Plan:
    """The division of this many rows of this width."""
    lanes = pl.next_power_of_2(width)
    tile = max(1, VALUES // lanes)
    each = max(LEAST_ROWS, math.ceil(rows / PROGRAMS))
    return Plan(rows, width, lanes, tile, math.ceil(each / tile))


def fused_layer_norm(
    x: Float[Array, "*batch width"], scale: Vector, bias: Vector, epsilon: float
) -> Float[Array, "*batch width"]:
    """LayerNorm over the last axis, of any width; statistics in float32."""
    out, _ = _normalise(x.reshape(-1, x.shape[-1]), scale, bias, epsilon, False, interpreting())
    return out.reshape(x.shape)


def fused_layer_norm_beside(
    x: Float[Array, "*batch width"], scale: Vector, bias: Vector, epsilon: float
) -> tuple[Float[Array, "*batch width"], Float[Array, "*batch width"]]:
    """The same, and `x`: who goes on with this one has both gradients added in the kernel."""
    out, stream = _normalise(x.reshape(-1, x.shape[-1]), scale, bias, epsilon, True, interpreting())
    assert stream is not None
    return out.reshape(x.shape), stream.reshape(x.shape)


@functools.partial(jax.custom_vjp, nondiff_argnums=(3, 4, 5))
def _normalise(
    x: Rows, scale: Vector, bias: Vector, epsilon: float, beside: bool, interpret: bool
) -> tuple[Rows, Rows | None]:
    return _normalise_forward(x, scale, bias, epsilon, beside, interpret)[0]


def _normalise_forward(
    x: Rows, scale: Vector, bias: Vector, epsilon: float, beside: bool, interpret: bool
) -> tuple[tuple[Rows, Rows | None], tuple[Rows, Vector, Statistics, Statistics]]:
    plan, statistics = plan_of(*x.shape), jax.ShapeDtypeStruct(x.shape[:1], jnp.float32)
    kernel = functools.partial(_forward_kernel, plan=plan, epsilon=epsilon)
    results = [(jax.ShapeDtypeStruct(x.shape, x.dtype), "rows"), (statistics, "row"), (statistics, "row")]
    given = [(x, "rows"), (scale, "vector"), (bias, "vector")]
    out, mean, deviation = _call(kernel, "layer_norm", plan, given, results, interpret)
    return (out, x if beside else None), (x, scale, mean, deviation)


def _normalise_backward(
    epsilon: float,
    beside: bool,
    interpret: bool,
    saved: tuple[Rows, Vector, Statistics, Statistics],
    cotangents: tuple[Rows, Rows | None],
) -> tuple[Rows, Vector, Vector]:
    x, scale, mean, deviation = saved
    plan = plan_of(*x.shape)
    given = [(x, "rows"), (mean, "row"), (deviation, "row"), (scale, "vector")]
    given += [(cotangent, "rows") for cotangent in cotangents if cotangent is not None]
    partials = jax.ShapeDtypeStruct((plan.programs, 2, plan.width), jnp.float32)
    results = [(jax.ShapeDtypeStruct(x.shape, x.dtype), "rows"), (partials, "partial")]
    kernel = functools.partial(_backward_kernel, plan=plan)
    dx, partial = _call(kernel, "layer_norm_backward", plan, given, results, interpret)
    d_scale, d_bias = partial.sum(axis=0)
    return dx, d_scale, d_bias


_normalise.defvjp(_normalise_forward, _normalise_backward)


def _call(
    kernel: Any, name: str, plan: Plan, given: list[Any], results: list[Any], interpret: bool
) -> list[Float[Array, "..."]]:
    """Runs a kernel over arrays, each given with the name of its block."""
    each = plan.tile * plan.tiles
    blocks = {
        "rows": pl.BlockSpec((each, plan.lanes), lambda p: (p, 0)),
        "row": pl.BlockSpec((each,), lambda p: (p,)),
        "vector": pl.BlockSpec((plan.lanes,), lambda p: (0,)),
        "partial": pl.BlockSpec((None, 2, plan.lanes), lambda p: (p, 0, 0)),
    }
    call = pl.pallas_call(
        kernel,
        grid=(plan.programs,),
        in_specs=[blocks[block] for _, block in given],
        out_specs=[blocks[block] for _, block in results],
        out_shape=[shape for shape, _ in results],
        compiler_params=triton.CompilerParams(num_warps=plan.warps, num_stages=2),
        interpret=interpret,
        name=name,
    )
    return list(call(*(array for array, _ in given)))


class _Tile(NamedTuple):
    """A tile of rows: its place in the program's block, and which of its rows and values exist."""

    place: Any
    rows: Any
    values: Any


def _rows_here(plan: Plan) -> Array:
    """Number of rows from this program's first one on."""
    return plan.rows - pl.program_id(0) * (plan.tile * plan.tiles)


def _tile(number: Array, rows_here: Array, plan: Plan) -> _Tile:
    place = pl.ds(number * plan.tile, plan.tile)
    rows = number * plan.tile + jnp.arange(plan.tile) < rows_here
    return _Tile(place, rows, rows[:, None] & _lanes(plan)[None, :])


def _lanes(plan: Plan) -> Array:
    return jnp.arange(plan.lanes) < plan.width


def _read(ref: Any, mask: Any) -> Array:
    return triton.load(ref, mask=mask, other=0.0).astype(jnp.float32)


def _forward_kernel(
    x_ref: Any,
    scale_ref: Any,
    bias_ref: Any,
    out_ref: Any,
    mean_ref: Any,
    deviation_ref: Any,
    *,
    plan: Plan,
    epsilon: float,
) -> None:
    scale, bias = (_read(ref, _lanes(plan)) for ref in (scale_ref, bias_ref))
    rows_here = _rows_here(plan)

    def tile(number: Array, nothing: None) -> None:
        place, rows, values = _tile(number, rows_here, plan)
        x = _read(x_ref.at[place, :], values)
        mean = x.sum(axis=1) / plan.width
        centred = jnp.where(values, x - mean[:, None], 0.0)
        deviation = jax.lax.rsqrt((centred * centred).sum(axis=1) / plan.width + epsilon)
        out = centred * deviation[:, None] * scale[None] + bias[None]
        triton.store(out_ref.at[place, :], out.astype(out_ref.dtype), mask=values)
        triton.store(mean_ref.at[place], mean, mask=rows)
        triton.store(deviation_ref.at[place], deviation, mask=rows)

    jax.lax.fori_loop(0, plan.tiles, tile, None)


def _backward_kernel(
    x_ref: Any, mean_ref: Any, deviation_ref: Any, scale_ref: Any, cotangent_ref: Any, *refs: Any, plan: Plan
) -> None:
    *stream_ref, dx_ref, partial_ref = refs
    scale, rows_here = _read(scale_ref, _lanes(plan)), _rows_here(plan)

    def tile(number: Array, sums: tuple[Array, Array]) -> tuple[Array, Array]:
        place, rows, values = _tile(number, rows_here, plan)
        mean, deviation = (_read(ref.at[place], rows)[:, None] for ref in (mean_ref, deviation_ref))
        x, d_out = _read(x_ref.at[place, :], values), _read(cotangent_ref.at[place, :], values)
        normal = jnp.where(values, (x - mean) * deviation, 0.0)
        inner = d_out * scale[None]
        shift, slope = (part.sum(axis=1)[:, None] / plan.width for part in (inner, inner * normal))
        dx = deviation * (inner - shift - normal * slope)
        if stream_ref:
            dx += _read(stream_ref[0].at[place, :], values)
        triton.store(dx_ref.at[place, :], dx.astype(dx_ref.dtype), mask=values)
        return sums[0] + d_out * normal, sums[1] + d_out

    zeros = jnp.zeros((plan.tile, plan.lanes), jnp.float32)
    for part, total in enumerate(jax.lax.fori_loop(0, plan.tiles, tile, (zeros, zeros))):
        triton.store(partial_ref.at[pl.ds(part, 1), :], total.sum(axis=0)[None], mask=_lanes(plan)[None])
