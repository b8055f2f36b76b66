"""Harmonic in-painting: hidden pixels from visible ones with no learning at all, to compare a model with."""

from functools import lru_cache

import numpy as np
import scipy.sparse
from jaxtyping import Bool, Float
from scipy.sparse.linalg import SuperLU, splu


def harmonic_inpainting(
    images: Float[np.ndarray, "image band height width"], hidden: Bool[np.ndarray, "image height width"]
) -> Float[np.ndarray, "image band height width"]:
    """Fills hidden pixels so that each is the mean of its neighbours: the discrete Laplace equation.

    Visible pixels are the boundary values; at the edge of the image the normal derivative is 0 (a pixel there is the
    mean of its two or three neighbours). Of all continuations it has the smallest sum of squared differences between
    neighbours, and none of its values lies outside those of the visible pixels.

    Args:
        images: Images in any unit; values of hidden pixels are not read.
        hidden: True for the pixels to fill, in all bands alike.

    Returns:
        The images with hidden pixels filled, float32; an image without a visible pixel becomes 0.
    """
    filled = np.where(hidden[:, None], 0.0, images).astype(np.float64)
    masks, which = np.unique(hidden.reshape(len(hidden), -1), axis=0, return_inverse=True)
    for number, mask in enumerate(masks):
        if mask.any() and not mask.all():
            rows = np.flatnonzero(which.reshape(-1) == number)
            pixels = filled[rows].reshape(-1, mask.size)
            factors, from_visible = _laplace_system(mask.tobytes(), hidden.shape[1:])
            pixels[:, mask] = factors.solve(from_visible @ pixels[:, ~mask].T).T
            filled[rows] = pixels.reshape(len(rows), *images.shape[1:])
    return filled.astype(np.float32)


@lru_cache(maxsize=64)
def _laplace_system(mask: bytes, shape: tuple[int, int]) -> tuple[SuperLU, scipy.sparse.csr_array]:
    """The factorised equations of the hidden pixels, and what visible pixels contribute to their right-hand side."""
    hidden = np.frombuffer(mask, bool)
    number = np.arange(hidden.size).reshape(shape)
    pairs = [(number[:, :-1], number[:, 1:]), (number[:-1], number[1:])]
    one, other = (np.concatenate([pair[side].ravel() for pair in pairs]) for side in (0, 1))
    ends = np.concatenate([one, other]), np.concatenate([other, one])
    neighbours = scipy.sparse.csr_array((np.ones(len(ends[0])), ends), shape=(hidden.size, hidden.size))
    laplacian = scipy.sparse.diags_array(neighbours.sum(axis=1)).tocsr() - neighbours
    unknown = laplacian[hidden]
    return splu(unknown[:, hidden].tocsc(), permc_spec="MMD_AT_PLUS_A"), -unknown[:, ~hidden]
