"""The peers against numbers of the published system, before anything is timed."""

import argparse
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from benchmarks.torch_reference import TorchMixMAE, per_channel_weights, pretraining_loss
from benchmarks.torch_strong import StrongMixMAE
from sarwmix_jax.facts.bands import STATISTICS
from sarwmix_jax.settings.model import ModelSettings

GOLDEN_SETTINGS = ModelSettings(
    embed_dim=8,
    depths=(1, 1, 2, 1),
    num_heads=(1, 2, 4, 8),
    windows=(8, 8, 8, 4),
    decoder_dim=16,
    decoder_depth=2,
    decoder_heads=4,
)
"""The model of the golden numbers."""

ENCODER, RECONSTRUCTION, LOSS, GRADIENT = "encoder_out", "x_rec", "loss", "largest gradient error"
TOLERANCES = {ENCODER: 2e-5, RECONSTRUCTION: 5e-5, LOSS: 1e-5, GRADIENT: 1e-4}
"""Largest difference allowed; of a gradient relative to its tensor's largest value."""


def released_weights(path: Path) -> dict[str, Tensor]:
    """State dict of a file in the released layout."""
    with torch.serialization.safe_globals([argparse.Namespace]):
        return torch.load(path, weights_only=True)["model"]


def standardised_v2(db: np.ndarray, device: str) -> Tensor:
    """Golden backscatter in dB as the model sees it, with the statistics of BigEarthNet v2."""
    statistics = STATISTICS["bigearthnet_v2"]
    mean, std = (np.asarray(v, np.float32).reshape(-1, 1, 1) for v in (statistics.mean_db, statistics.std_db))
    return torch.from_numpy((db.astype(np.float32) - mean) / std).to(device)


@contextmanager
def full_float32() -> Iterator[None]:
    """Matrix products without TF32."""
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("highest")
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before)


def golden_differences(
    peer: Literal["eager", "strong"], folder: Path, device: str = "cpu", **changes: Any
) -> dict[str, float]:
    """Largest difference of each quantity of TOLERANCES, in float32 on the device.

    Args:
        peer: The plain or the strong model.
        folder: Holds `pretrain_tiny.npz` and `pretrain_tiny.pth`.
        device: `cpu` or `cuda`.
        changes: Further arguments of the model.
    """
    with np.load(folder / "pretrain_tiny.npz") as file:
        stored = dict(file)
    model = (StrongMixMAE if peer == "strong" else TorchMixMAE)(GOLDEN_SETTINGS, **changes)
    model.load_state_dict(released_weights(folder / "pretrain_tiny.pth"), strict=True)
    model.to(device)
    images, mask = standardised_v2(stored["x_db"], device), torch.from_numpy(stored["mask"]).to(device)
    with full_float32():
        loss = pretraining_loss(model, images, per_channel_weights(images), mask)
        loss.backward()
        with torch.no_grad():
            found = {ENCODER: model.encode(images, mask), RECONSTRUCTION: model(images, mask), LOSS: loss.detach()}
    differences = {name: largest(value, stored[name]) for name, value in found.items()}
    gradients = {name: p.grad for name, p in model.named_parameters() if f"grad/{name}" in stored}
    return {**differences, GRADIENT: max(relative(gradients[n], stored[f"grad/{n}"]) for n in gradients)}


def largest(value: Tensor, expected: np.ndarray) -> float:
    """Largest absolute difference."""
    return float(np.abs(value.cpu().numpy() - expected).max())


def relative(value: Tensor, expected: np.ndarray) -> float:
    """Largest absolute difference, over the largest expected value."""
    return largest(value, expected) / float(np.abs(expected).max())
