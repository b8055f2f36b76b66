"""Layer-wise learning rates of finetuning: the deeper a layer, the faster it learns."""

from typing import Any

import jax
import numpy as np
import optax

from sarwmix_jax.models.settings import STAGES


def layer_of(name: str, depths: tuple[int, ...]) -> int:
    """Layer number of a classifier's parameter: 0 for the patch embedding, k for block k counted from 1.

    A PatchMerging belongs to the first block of the next stage, the final norm and the head to the last block. Stacked
    blocks (`model.scan`) have the number of their first.

    Args:
        name: Such as `encoder/stages/0/blocks/1/norm1/scale`.
        depths: Blocks per stage.

    Raises:
        KeyError: The name is not a classifier's.
    """
    part, *rest = name.removeprefix("encoder/").split("/")
    if part == "patch_embed":
        return 0
    if part in ("norm", "head"):
        return sum(depths)
    if part != "stages" or not 0 <= int(rest[0]) < STAGES:
        raise KeyError(f"no layer is known for parameter {name}")
    stage, inside = int(rest[0]), rest[1]
    number = depths[stage] if inside != "blocks" else int(rest[2]) if rest[2].isdigit() else 0
    return sum(depths[:stage]) + number + 1


def layer_factors(params: Any, depths: tuple[int, ...], decay: float) -> Any:
    """Tree like `params`: what multiplies each parameter's learning rate, decay^(blocks + 1 - layer).

    Stacked blocks have an array of factors, one for each block.

    Source: reference page section 3 (the head's factor is `decay`, so nothing trains at the full rate).
    """
    layers = sum(depths) + 1

    def factor(path: tuple[Any, ...], leaf: Any) -> Any:
        name = jax.tree_util.keystr(path, simple=True, separator="/")
        first = layer_of(name, depths)
        if "/blocks/" not in name or name.split("/blocks/")[1][0].isdigit():
            return decay ** (layers - first)
        numbers = first + np.arange(leaf.shape[0], dtype=np.float32)
        return (decay ** (layers - numbers)).reshape(-1, *(1,) * (leaf.ndim - 1))

    return jax.tree_util.tree_map_with_path(factor, params)


def scale_by_layer(depths: tuple[int, ...], decay: float) -> optax.GradientTransformation:
    """Multiplies every update, weight decay included, by its layer's factor."""

    def update(updates: Any, state: Any, params: Any = None) -> tuple[Any, Any]:
        del params
        return jax.tree.map(lambda u, f: u * f, updates, layer_factors(updates, depths, decay)), state

    return optax.GradientTransformation(lambda _: optax.EmptyState(), update)
