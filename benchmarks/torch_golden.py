"""The peers against numbers of the published system, before anything is timed."""

from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from benchmarks.sample import CLASSES, DATA, TINY
from benchmarks.torch_reference import per_channel_weights, pretraining_loss
from benchmarks.torch_strong import make_peer
from sarwmix_jax.conversion.torch_file import read_checkpoint

GOLDEN = Path(__file__).parents[1] / "tests" / "golden"
ENCODER, RECONSTRUCTION, LOSS, GRADIENT, LOGITS = "encoder_out", "x_rec", "loss", "largest gradient error", "logits"
TOLERANCES = {ENCODER: 2e-5, RECONSTRUCTION: 5e-5, LOSS: 1e-5, GRADIENT: 1e-4, LOGITS: 2e-5}
"""Largest difference allowed; of a gradient relative to its tensor's largest value."""


def released_weights(path: Path) -> dict[str, Tensor]:
    """State dict of a file in the released layout."""
    return {name: torch.from_numpy(np.array(array)) for name, array in read_checkpoint(path).model.items()}


def golden_differences(peer: str, folder: Path = GOLDEN, classifier: bool = False, **changes: Any) -> dict[str, float]:
    """Largest difference of each quantity of TOLERANCES that a model gives, in float32 on the CPU.

    Args:
        peer: `eager`, the plain model, or `strong`.
        folder: Holds `pretrain_tiny.npz`, `finetune_tiny.npz` and `.pth` files of these names.
        classifier: Whether to check the classifier instead of the autoencoder.
        changes: Further arguments of the model.
    """
    name = "finetune_tiny" if classifier else "pretrain_tiny"
    with np.load(folder / f"{name}.npz") as file:
        stored = dict(file)
    model = make_peer(peer, TINY, CLASSES if classifier else None, **changes)
    model.load_state_dict(released_weights(folder / f"{name}.pth"), strict=True)
    mean, std = (np.asarray(values, np.float32).reshape(-1, 1, 1) for values in (DATA.mean_db, DATA.std_db))
    images = torch.from_numpy((stored["x_db"].astype(np.float32) - mean) / std)
    if classifier:
        logits = model(images)
        found, loss = {LOGITS: logits}, F.multilabel_soft_margin_loss(logits, torch.from_numpy(stored["y"]).float())
    else:
        mask = torch.from_numpy(stored["mask"])
        found = {ENCODER: model.encode(images, mask), RECONSTRUCTION: model(images, mask)}
        loss = pretraining_loss(model, images, per_channel_weights(images), mask)
    loss.backward()
    gradients = {f"grad/{name}": p.grad for name, p in model.named_parameters() if f"grad/{name}" in stored}
    worst = max(largest(value, stored[key]) / np.abs(stored[key]).max() for key, value in gradients.items())
    return {key: largest(value, stored[key]) for key, value in (found | {LOSS: loss}).items()} | {
        GRADIENT: float(worst)
    }


def largest(value: Tensor, expected: np.ndarray) -> float:
    """Largest absolute difference."""
    return float(np.abs(value.detach().numpy() - expected).max())
