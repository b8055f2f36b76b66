"""How a row of equal blocks runs: one after the other or as a loop, and what the backward pass recomputes.

None of it changes what is computed.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import jax
import jax.numpy as jnp
from flax import nnx
from jax.ad_checkpoint import checkpoint_name
from jaxtyping import Array, Float

KEPT = ("qkv", "weights", "attended", "residual", "hidden")
"""Results of a block that the backward pass needs and that are dear to recompute: those of matrix products and softmax.
The rest is LayerNorm and GELU."""


@dataclass(frozen=True)
class Execution:
    """How blocks run; see `ModelSettings`."""

    recompute: Literal["none", "elementwise", "block"]
    scan: bool


def keep(name: str, x: Float[Array, "..."]) -> Float[Array, "..."]:
    """Names a result that `recompute="elementwise"` keeps for the backward pass."""
    assert name in KEPT
    return checkpoint_name(x, name)


Row = Any
"""Equal blocks in a row: a list of modules, or one module whose every array has them stacked on its first axis."""


def row(make: Callable[[nnx.Rngs], nnx.Module], count: int, execution: Execution, *, rngs: nnx.Rngs) -> Row:
    """Makes equal blocks in the form that `run_blocks` takes.

    They are drawn in one vectorised program, which compiles much faster than one for each.

    Args:
        make: Makes a block with these random numbers; keeps none of them.
        count: How many.
        execution: How they will run.
        rngs: Random numbers of all.
    """
    arrays = jax.vmap(lambda key: nnx.state(make(nnx.Rngs(key))))(jax.random.split(rngs.params(), count))
    structure = nnx.graphdef(nnx.eval_shape(lambda: make(nnx.Rngs(0))))
    if execution.scan:
        stacked: nnx.Module = nnx.merge(structure, arrays)
        return stacked
    parts = (jax.tree.map(lambda leaf, number=number: leaf[number], arrays) for number in range(count))
    return nnx.List([nnx.merge(structure, part) for part in parts])


def split_last(blocks: Row, execution: Execution) -> tuple[Row, Any]:
    """All blocks but the last, and the last one."""
    if not execution.scan:
        *others, last = blocks
        return nnx.List(others), last
    structure, arrays = nnx.split(blocks)
    others, last = (jax.tree.map(lambda leaf, part=part: leaf[part], arrays) for part in (slice(None, -1), -1))
    return nnx.merge(structure, others), nnx.merge(structure, last)


def run_blocks(
    blocks: Row, x: Float[Array, "..."], shared: tuple[Any, ...], own: Sequence[tuple[Any, ...]], execution: Execution
) -> Float[Array, "..."]:
    """Runs `x = block(x, *shared, *own[number])` for all blocks.

    Args:
        blocks: What `row` made.
        x: What they transform; its shape stays.
        shared: Further arguments, the same for all.
        own: Further arguments of each: arrays, numbers or None.
        execution: How.
    """
    if not own:
        return x
    if not execution.scan:
        for block, arguments in zip(blocks, own, strict=True):
            x = _recomputing(block, execution)(x, *shared, *arguments)
        return x
    structure, arrays = nnx.split(blocks)

    def body(x: Float[Array, "..."], each: tuple[Any, tuple[Any, ...]]) -> tuple[Float[Array, "..."], None]:
        block = nnx.merge(structure, each[0])
        return _recomputing(block, execution)(x, *shared, *each[1]), None

    stacked = jax.tree.map(lambda *values: jnp.stack(values), *own)
    return jax.lax.scan(body, x, (arrays, stacked), length=len(own))[0]


def _recomputing(block: Callable[..., Any], execution: Execution) -> Callable[..., Any]:
    """The block with the wanted recomputation in its backward pass."""
    if execution.recompute == "none":
        return block
    kept = jax.checkpoint_policies.save_only_these_names(*KEPT) if execution.recompute == "elementwise" else None
    return jax.checkpoint(block, policy=kept, prevent_cse=not execution.scan)
