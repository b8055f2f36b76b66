"""Common inputs of all programs: the model of a size, and random records that resemble Sentinel-1 patches."""

import numpy as np

from sarwmix_jax.facts.bands import STATISTICS
from sarwmix_jax.facts.labels import CLASSES as CLASS_NAMES
from sarwmix_jax.settings.model import ModelSettings, published

CLASSES = len(CLASS_NAMES)
BATCHES = 4
"""Batches on the device that are used in turn."""

TINY = ModelSettings(
    embed_dim=8,
    depths=(1, 1, 2, 1),
    num_heads=(1, 2, 4, 8),
    decoder_dim=16,
    decoder_depth=2,
    decoder_heads=4,
)
"""The model of the golden numbers, also used for short trials."""

DATA = STATISTICS["bigearthnet_v2"]
RECORD_SIDE = 120
LOOKS = 4.4
"""Equivalent number of looks of Sentinel-1 IW GRD at high resolution."""

LABEL_SHARE = 0.15


def settings_of(size: str) -> ModelSettings:
    """The published model of a size, or `tiny`."""
    return TINY if size == "tiny" else published(size)


def host_batches(count: int, batch: int, seed: int = 0) -> list[dict[str, np.ndarray]]:
    """Batches of speckle around a mean per image and band, and random labels.

    Returns:
        Dicts of `image`, float16 dB (batch, band, 120, 120), and `labels`, float32 (batch, classes).
    """
    rng = np.random.default_rng(seed)
    mean, std = (np.asarray(values, np.float32)[:, None, None] for values in (DATA.mean_db, DATA.std_db))
    batches = []
    for _ in range(count):
        level = mean + std * rng.standard_normal((batch, len(mean), 1, 1), np.float32)
        power = rng.standard_gamma(LOOKS, (batch, len(mean), RECORD_SIDE, RECORD_SIDE), np.float32) / LOOKS
        labels = (rng.random((batch, CLASSES)) < LABEL_SHARE).astype(np.float32)
        batches.append({"image": (level + 10 * np.log10(power + 1e-6)).astype(np.float16), "labels": labels})
    return batches
