"""Division of any number of images into batches of few sizes, so that few programs are compiled."""

from collections.abc import Iterator

import numpy as np
from jaxtyping import Int


def batches(count: int, limit: int) -> Iterator[tuple[int, int, int]]:
    """Start, stop and padded size of each batch; sizes are powers of two, so that few programs are compiled."""
    for start in range(0, count, limit):
        stop = min(count, start + limit)
        yield start, stop, min(limit, 1 << (stop - start - 1).bit_length())


def padded(images: np.ndarray, size: int) -> np.ndarray:
    """Images padded to `size` by repeating the last one."""
    return images if len(images) == size else np.concatenate([images, np.repeat(images[-1:], size - len(images), 0)])


def mirrored_chunks(count: int, limit: int) -> Iterator[tuple[Int[np.ndarray, " rows"], int]]:
    """Rows of each chunk of a batch, and how many of them count: reversing a chunk brings every image to its partner.

    The partner is the image as far from the other end; the middle one of an odd batch has the first one. Some pairs may
    be repeated so that few sizes occur; repeated rows get the same result.
    """
    for start in range(0, count // 2, max(1, limit // 2)):
        front = np.arange(start, min(start + max(1, limit // 2), count // 2))
        size = min(max(1, limit // 2), 1 << (len(front) - 1).bit_length())
        front = np.concatenate([front, np.repeat(front[-1:], size - len(front))])
        yield np.concatenate([front, count - 1 - front[::-1]]), 2 * size
    if count % 2:
        yield np.array([count // 2, 0]), 1
