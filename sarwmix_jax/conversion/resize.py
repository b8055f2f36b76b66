"""Resizing of position and bias tables to another image size: bicubic, as in PyTorch."""

import numpy as np
from jaxtyping import Float

from sarwmix_jax.settings.model import CELL, PATCH

_A = -0.75
"""PyTorch's cubic coefficient."""


def cubic_matrix(old: int, new: int) -> Float[np.ndarray, "new old"]:
    """Weight of every old sample for every new one: half-pixel centres, edges repeated, no antialiasing."""
    matrix = np.zeros((new, old))
    centre = (np.arange(new) + 0.5) * old / new - 0.5
    samples = np.floor(centre).astype(int)[:, None] + np.arange(-1, 3)
    distance = np.abs(centre[:, None] - samples)
    near = ((_A + 2) * distance - (_A + 3)) * distance**2 + 1
    far = ((distance - 5) * distance + 8) * distance * _A - 4 * _A
    weights = np.where(distance <= 1, near, far)
    np.add.at(matrix, (np.arange(new)[:, None], np.clip(samples, 0, old - 1)), weights)
    return matrix


def resize_table(table: Float[np.ndarray, "cells width"], new: int) -> Float[np.ndarray, "new_cells width"]:
    """A square table, row-major, resized to side `new`; float32."""
    old = round(table.shape[0] ** 0.5)
    if old == new:
        return table
    matrix = cubic_matrix(old, new)
    square = table.astype(np.float64).reshape(old, old, -1)
    resized = np.einsum("yi,xj,ijc->yxc", matrix, matrix, square, optimize=True)
    return resized.reshape(new * new, -1).astype(np.float32)


def resize_tables(tensors: dict[str, np.ndarray], image_size: int, windows: tuple[int, ...]) -> list[str]:
    """Resize every position and bias table in place to an image size and its windows.

    Args:
        tensors: Arrays by flat name; those that change are replaced.
        image_size: New side in pixels.
        windows: New window sides per stage.

    Returns:
        Names of the tables that changed.
    """
    sides = {"encoder/position": image_size // PATCH, "decoder/position": image_size // CELL}
    for name in tensors:
        if name.endswith("/bias_table"):
            sides[name] = 2 * windows[int(name.split("/")[2])] - 1
    changed = []
    for name, side in sides.items():
        if name in tensors and tensors[name].shape[0] != side * side:
            tensors[name] = resize_table(tensors[name], side)
            changed.append(name)
    return changed
