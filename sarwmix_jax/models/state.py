"""Models as pure arrays: what the compiled steps, the optimiser and the checkpoints handle."""

from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array

Tree = dict[Any, Any]


class Fixed(nnx.Variable):
    """A table that belongs to the model's state but is not trained."""


def split_model(model: nnx.Module) -> tuple[nnx.GraphDef, Tree, Tree]:
    """Splits a model into its static structure, its trained parameters and its fixed tables (nested dicts)."""
    split: tuple[Any, ...] = nnx.split(model, nnx.Param, Fixed)
    graphdef, params, fixed = split
    return graphdef, nnx.to_pure_dict(params), nnx.to_pure_dict(fixed)


def merge_model(graphdef: nnx.GraphDef, params: Tree, fixed: Tree) -> Any:
    """The model with these arrays; the inverse of `split_model`, usable while tracing."""
    return nnx.merge(graphdef, params, fixed)


def named_leaves(tree: Tree, prefix: str = "") -> Iterator[tuple[str, Array]]:
    """Leaves with their names, such as `encoder/stages/0/blocks/1/norm1/scale`, in definition order of the tree."""
    for key, value in tree.items():
        if isinstance(value, dict):
            yield from named_leaves(value, f"{prefix}{key}/")
        else:
            yield f"{prefix}{key}", value


def flatten_names(tree: Tree) -> dict[str, Array]:
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


def unstack_blocks(tree: Any) -> Any:
    """Trees of a model with stacked blocks (`scan`) as those of a model without; others stay as they are.

    `blocks/norm1/scale` becomes `blocks/0/norm1/scale`, `blocks/1/norm1/scale` and so on.

    Args:
        tree: Parameters, or anything that holds trees of their form, such as an optimiser's state.
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
