"""Models as pure arrays: what the compiled steps, the optimiser and the checkpoints handle."""

from collections.abc import Iterator
from typing import Any

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
