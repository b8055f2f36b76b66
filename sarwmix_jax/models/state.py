"""Models as pure arrays, for compiled steps, optimiser and checkpoints; sequences of equal blocks, and their stream.

A sequence of blocks runs unrolled or as a loop (scan), and its backward pass may recompute values. Each block adds to
the stream at once, or leaves the sum to the LayerNorm that follows. None of it changes the results.
"""

import functools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx
from jax.ad_checkpoint import checkpoint_name
from jaxtyping import Array, Float

Tree = dict[Any, Any]

FORBIDDEN = -1e9
"""Added to the logits of pairs that must not see each other; their weight becomes exactly 0."""


class Fixed(nnx.Variable):
    """A table that is part of the model's state but is not trained."""


def split_model(model: nnx.Module) -> tuple[nnx.GraphDef, Tree, Tree]:
    """Splits a model into its static structure, trained parameters and fixed tables (nested dicts)."""
    split: tuple[Any, ...] = nnx.split(model, nnx.Param, Fixed)
    graphdef, params, fixed = split
    return graphdef, nnx.to_pure_dict(params), nnx.to_pure_dict(fixed)


@functools.cache
def abstract_model(make: Callable[..., nnx.Module], *arguments: Any) -> tuple[nnx.GraphDef, Tree, Tree]:
    """`split_model` of `make(*arguments, rngs=...)` with shapes for arrays; cached, as it takes seconds if large."""
    return split_model(nnx.eval_shape(lambda: make(*arguments, rngs=nnx.Rngs(0))))


def merge_model(graphdef: nnx.GraphDef, params: Tree, fixed: Tree) -> Any:
    """The model with these arrays; the inverse of `split_model`, also under tracing."""
    return nnx.merge(graphdef, params, fixed)


def named_leaves(tree: Tree, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Leaves with their names, such as `encoder/stages/0/blocks/1/norm1/scale`, in the tree's definition order.

    They are arrays, or shapes and types that stand for arrays.
    """
    for key, value in tree.items():
        if isinstance(value, dict):
            yield from named_leaves(value, f"{prefix}{key}/")
        else:
            yield f"{prefix}{key}", value


def flatten_names(tree: Tree) -> dict[str, Any]:
    """Leaves by name."""
    return dict(named_leaves(tree))


def unflatten_names(named: dict[str, Any]) -> Tree:
    """Undoes `flatten_names`; parts of a name that are digits become list indices."""
    tree: Tree = {}
    for name, value in named.items():
        *path, last = (int(part) if part.isdigit() else part for part in name.split("/"))
        node = tree
        for part in path:
            node = node.setdefault(part, {})
        node[last] = value
    return tree


def dense_parameters(params: Tree) -> dict[str, Any]:
    """Kernels and biases of dense layers by name; these, and no others, are computed in the type of the activations."""
    named = flatten_names(params)
    return {name: leaf for name, leaf in named.items() if f"{name.rpartition('/')[0]}/kernel" in named}


@functools.partial(jax.jit, static_argnames="dtype")
def converted_once(params: Tree, dtype: str) -> Tree:
    """The parameters of a model that is only applied, those of dense layers in the type in which they are computed.

    No result changes; but a call need not convert them, which takes about as long as ten images.
    """
    dense = {name: leaf.astype(dtype) for name, leaf in dense_parameters(params).items()}
    return unflatten_names(flatten_names(params) | dense)


def converted_together(params: Tree, dtype: str) -> Tree:
    """The parameters, those of dense layers in the type in which they are computed, converted by few kernels.

    XLA combines kernels that read the same array: what is converted is chosen by one that is true everywhere. Where
    blocks are computed again in the backward pass, what is converted before them is not converted again.
    """
    dense = dense_parameters(params)
    chosen = jax.lax.optimization_barrier(jnp.ones(max(leaf.shape[-1] for leaf in dense.values()), bool))
    same = {name: jnp.where(chosen[: leaf.shape[-1]], leaf, 0.0).astype(dtype) for name, leaf in dense.items()}
    return unflatten_names(flatten_names(params) | same)


def unstack_blocks(tree: Any) -> Any:
    """Converts trees of a model with stacked blocks (`scan`) to those of a model without; others stay as they are.

    `blocks/norm1/scale` becomes `blocks/0/norm1/scale`, `blocks/1/norm1/scale` and so on.

    Args:
        tree: Parameters, or anything that holds trees like them, such as the state of an optimiser.
    """
    return _on_blocks(tree, lambda blocks: blocks if 0 in blocks else _unstacked(blocks))


def stack_blocks(tree: Any) -> Any:
    """Undoes `unstack_blocks`."""
    return _on_blocks(
        tree,
        lambda blocks: jax.tree.map(lambda *leaves: jnp.stack(leaves), *blocks.values()) if 0 in blocks else blocks,
    )


def _unstacked(blocks: Tree) -> Tree:
    count = len(jax.tree.leaves(blocks)[0])
    return {number: jax.tree.map(lambda leaf, number=number: leaf[number], blocks) for number in range(count)}


def _on_blocks(tree: Any, change: Callable[[Tree], Tree]) -> Any:
    def inside(node: Any) -> Any:
        if not isinstance(node, dict):
            return node
        return {name: change(value) if name == "blocks" else inside(value) for name, value in node.items()}

    return jax.tree.map(inside, tree, is_leaf=lambda node: isinstance(node, dict))


KEPT = ("qkv", "weights", "attended", "residual", "hidden")
"""Results of a block that the backward pass needs and that are expensive to recompute: those of matrix products and
softmax. The rest is LayerNorm and GELU."""


@dataclass(frozen=True)
class Execution:
    """How blocks run; see `ModelSettings`."""

    recompute: Literal["none", "elementwise", "block"]
    scan: bool


def keep(name: str, x: Float[Array, "..."]) -> Float[Array, "..."]:
    """Marks a result that `recompute="elementwise"` keeps for the backward pass."""
    assert name in KEPT
    return checkpoint_name(x, name)


Blocks = Any
"""A sequence of equal blocks: a list of modules, or one module whose arrays hold the blocks stacked on a first axis."""


class Product(NamedTuple):
    """What a dense layer gives before its bias is added.

    Attributes:
        values: The matrix product.
        bias: The bias, in the type of the values.
    """

    values: Float[Array, "... width"]
    bias: Float[Array, " width"]

    @property
    def total(self) -> Float[Array, "... width"]:
        """What the layer gives; the bias is added in two dimensions, as XLA expects it after a product."""
        rows = self.values.reshape(-1, self.values.shape[-1])
        return (rows + self.bias).reshape(self.values.shape)


class Pending(NamedTuple):
    """The stream of a residual connection, and a branch that LayerNorm's own GPU kernel is to add to it.

    The sum is then written once and read no more before it is normalised, and the kernel that computes its gradient
    also sums that of the bias.

    Attributes:
        stream: The stream.
        branch: What is added.
    """

    stream: Float[Array, "... width"]
    branch: Product

    def reshape(self, shape: tuple[int, ...]) -> "Pending":
        """The same with other leading axes."""
        values, bias = self.branch
        return Pending(self.stream.reshape(shape), Product(values.reshape(shape), bias))


Stream = Float[Array, "..."] | Pending
"""Of a residual connection."""


def add(stream: Float[Array, "..."], branch: Float[Array, "..."] | Product) -> Stream:
    """A residual connection; of a product the sum is left to the LayerNorm that follows."""
    return Pending(stream, branch) if isinstance(branch, Product) else keep("residual", stream + branch)


def added(x: Stream) -> Float[Array, "..."]:
    """The sum, where no LayerNorm follows."""
    return x.stream + (x.branch.values + x.branch.bias) if isinstance(x, Pending) else x


def make_blocks(make: Callable[[nnx.Rngs], nnx.Module], count: int, execution: Execution, *, rngs: nnx.Rngs) -> Blocks:
    """Makes equal blocks in the form that `run_blocks` takes.

    They are initialised in one vectorised program, which compiles much faster than one program per block.

    Args:
        make: Makes a block with the random numbers given; must not keep them.
        count: Number of blocks.
        execution: How they will run.
        rngs: Random numbers of all blocks.
    """
    arrays = jax.vmap(lambda key: nnx.state(make(nnx.Rngs(key))))(jax.random.split(rngs.params(), count))
    structure = nnx.graphdef(nnx.eval_shape(lambda: make(nnx.Rngs(0))))
    if execution.scan:
        stacked: nnx.Module = nnx.merge(structure, arrays)
        return stacked
    parts = (jax.tree.map(lambda leaf, number=number: leaf[number], arrays) for number in range(count))
    return nnx.List([nnx.merge(structure, part) for part in parts])


def split_last(blocks: Blocks, execution: Execution) -> tuple[Blocks, Any]:
    """All blocks but the last, and the last one."""
    if not execution.scan:
        *others, last = blocks
        return nnx.List(others), last
    structure, arrays = nnx.split(blocks)
    others, last = (jax.tree.map(lambda leaf, part=part: leaf[part], arrays) for part in (slice(None, -1), -1))
    return nnx.merge(structure, others), nnx.merge(structure, last)


def run_blocks(
    blocks: Blocks,
    x: Stream,
    shared: tuple[Any, ...],
    own: Sequence[tuple[Any, ...]],
    execution: Execution,
) -> Stream:
    """Runs `x = block(x, *shared, *own[number])` for all blocks.

    Args:
        blocks: The blocks from `make_blocks`.
        x: Input of the first block; its shape stays. In a loop it is an array.
        shared: Further arguments, the same for all blocks.
        own: Further arguments of each block: arrays, numbers or None.
        execution: How the blocks run.
    """
    if not own:
        return x
    if not execution.scan:
        for block, arguments in zip(blocks, own, strict=True):
            x = _recomputing(block, execution)(x, *shared, *arguments)
        return x
    structure, arrays = nnx.split(blocks)

    def body(x: Stream, each: tuple[Any, tuple[Any, ...]]) -> tuple[Stream, None]:
        block = nnx.merge(structure, each[0])
        return _recomputing(block, execution)(x, *shared, *each[1]), None

    stacked = jax.tree.map(lambda *values: jnp.stack(values), *own)
    return jax.lax.scan(body, x, (arrays, stacked), length=len(own))[0]


def _recomputing(block: Callable[..., Any], execution: Execution) -> Callable[..., Any]:
    """The block with recomputation in its backward pass as set."""
    if execution.recompute == "none":
        return block
    kept = jax.checkpoint_policies.save_only_these_names(*KEPT) if execution.recompute == "elementwise" else None
    return jax.checkpoint(block, policy=kept, prevent_cse=not execution.scan)
