"""AdamW with the published groups, set up as the plain and as the strong peer do."""

from collections.abc import Callable
from typing import Any

import torch
from torch import nn

WEIGHT_DECAY = 0.05
PRETRAINING_BETAS = (0.9, 0.95)
FINETUNING_BETAS = (0.9, 0.999)
LAYER_DECAY = 0.7

Groups = list[dict[str, Any]]


def trained(model: nn.Module) -> list[tuple[str, nn.Parameter]]:
    """Parameters by name, without the fixed position tables."""
    return [(name, parameter) for name, parameter in model.named_parameters() if parameter.requires_grad]


def pretraining_groups(model: nn.Module) -> Groups:
    """Two groups: neither 1-D parameters nor biases are decayed; bias tables and the mask token are."""
    return grouped(model, lambda name, p: (1.0, 0.0 if p.ndim == 1 or name.endswith(".bias") else WEIGHT_DECAY))


def finetuning_groups(model: nn.Module, depths: tuple[int, ...]) -> Groups:
    """A group for each layer and weight decay; its `scale` multiplies the learning rate."""
    scales = [LAYER_DECAY ** (sum(depths) + 1 - layer) for layer in range(sum(depths) + 2)]
    return grouped(model, lambda name, p: (scales[layer_of(name, depths)], 0.0 if p.ndim == 1 else WEIGHT_DECAY))


def layer_of(name: str, depths: tuple[int, ...]) -> int:
    """Layer of a parameter: 0 the patch embedding, 1.. the blocks, the last block's number the final norm and head."""
    parts = name.split(".")
    if parts[0] == "patch_embed":
        return 0
    if parts[0] != "layers":
        return sum(depths)
    stage = int(parts[1])
    if parts[2] == "downsample":
        return sum(depths[: stage + 1]) + 1
    return sum(depths[:stage]) + int(parts[3]) + 1


def grouped(model: nn.Module, rule: Callable[[str, nn.Parameter], tuple[float, float]]) -> Groups:
    """Parameters to which the rule gives the same (scale, weight decay) together."""
    groups: dict[tuple[float, float], list[nn.Parameter]] = {}
    for name, parameter in trained(model):
        groups.setdefault(rule(name, parameter), []).append(parameter)
    return [{"params": found, "weight_decay": decay, "scale": scale} for (scale, decay), found in groups.items()]


def make_adamw(groups: Groups, betas: tuple[float, float], *, strong: bool) -> torch.optim.AdamW:
    """AdamW at rate 0 until `set_rate`: as PyTorch chooses, or fused."""
    return torch.optim.AdamW(groups, lr=0.0, betas=betas, eps=1e-8, fused=strong or None)


def set_rate(optimizer: torch.optim.Optimizer, rate: float) -> None:
    """Gives every group its share of the learning rate; waits for nothing."""
    for group in optimizer.param_groups:
        group["lr"] = rate * group["scale"]
