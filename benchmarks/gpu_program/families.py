"""To which part of the computation a kernel belongs: by the place in the source of what it computes last."""

import re

FAMILIES = {
    "attention": r"attend|attention|split_heads|_pairs",
    "LayerNorm": r"layer_?norm|_normalize|_compute_stats",
    "GELU": r"gelu|\bmlp\b",
    "dense layers": r"linear\b|dense|product|promote_dtype|converted_together",
    "residual connections": r"block\.__call__|block\.half|drop_path",
    "order of tokens": r"_embed|_regroup|_cells|patch|_to_vectors|_to_image|select|swap_|decoder|unmix",
    "gradient norm": r"gradient_norm|clip_by_norm",
    "optimiser": r"update_fn|moment|scale_by|apply_updates|train_step\.<locals>\.<lambda>",
    "sums of gradients": r"_share_gradients(\.<locals>\.add.*)?$|make_gradients\.<locals>\.share",
    "input and loss": r"prepare|resize|flip|standardise|mix|mask|keys|weight|loss|error|target|predict|logits|tiles",
}
"""Families by a pattern of function names, without regard to capitals; a name belongs to the first one that fits."""

PRODUCTS, COLLECTIVES, COPIES, OTHER = "products", "collectives", "copies", "other"

_PATTERNS = {family: re.compile(pattern, re.IGNORECASE) for family, pattern in FAMILIES.items()}


def family_of(functions: tuple[str, ...]) -> str:
    """The family of a place in the source: that of the innermost function that belongs to one.

    Args:
        functions: Qualified names, from the innermost one outwards.
    """
    fitting = (family for name in functions for family, pattern in _PATTERNS.items() if pattern.search(name))
    return next(fitting, OTHER)


def direction_of(operation: str) -> str:
    """The pass of an operation in training: `forward`, `backward`, or `recomputed` where that repeats the forward pass.

    Empty for what belongs to none, such as the optimiser and all of inference.

    Args:
        operation: The name that JAX gave to it, with the transformations that made it.
    """
    signs = {"rematted_computation": "recomputed", "transpose(": "backward", "jvp(": "forward"}
    return next((direction for sign, direction in signs.items() if sign in operation), "")
