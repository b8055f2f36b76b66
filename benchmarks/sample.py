"""Random records that resemble Sentinel-1 patches: speckle in dB around the bands' means, never constant."""

from collections.abc import Iterator

import numpy as np
from jaxtyping import Float

from sarwmix_jax.facts.bands import STATISTICS

SIDE = 120
LOOKS = 4.4
"""Equivalent number of looks of Sentinel-1 IW GRD at high resolution."""

DATA = STATISTICS["bigearthnet_v2"]
LABEL_SHARE = 0.15


def speckle_db(rng: np.random.Generator, count: int, side: int = SIDE) -> Float[np.ndarray, "count band side side"]:
    """float16 records in dB, each band of each with a mean of its own."""
    mean, std = (np.asarray(values, np.float32)[:, None, None] for values in (DATA.mean_db, DATA.std_db))
    level = mean + std * rng.standard_normal((count, len(mean), 1, 1), np.float32)
    power = rng.standard_gamma(LOOKS, (count, len(mean), side, side), np.float32) / np.float32(LOOKS)
    return (level + 10 * np.log10(np.maximum(power, np.float32(1e-6)))).astype(np.float16)


def labels(rng: np.random.Generator, count: int, classes: int) -> Float[np.ndarray, "count classes"]:
    """Random multi-label targets, float32."""
    return (rng.random((count, classes)) < LABEL_SHARE).astype(np.float32)


def batches(count: int, size: int, classes: int, seed: int = 0) -> Iterator[dict[str, np.ndarray]]:
    """Host batches of records with labels."""
    for number in range(count):
        rng = np.random.default_rng([seed, number])
        yield {"image": speckle_db(rng, size), "labels": labels(rng, size, classes)}
