"""What a model costs: parameters and arithmetic per part, and what a device could do at best."""

from dataclasses import dataclass

import jax
import numpy as np

from sarwmix_jax.models.mixmae import abstract_model
from sarwmix_jax.models.settings import STAGES, ModelSettings
from sarwmix_jax.models.state import flatten_names

PEAK_FLOPS = {
    "NVIDIA H200": 989e12,
    "NVIDIA H100": 989e12,
    "NVIDIA GH200": 989e12,
    "NVIDIA A100": 312e12,
    "NVIDIA L40S": 362e12,
    "NVIDIA B200": 2250e12,
    "TPU v4": 275e12,
    "TPU v5 lite": 197e12,
    "TPU v5": 459e12,
    "TPU v6 lite": 918e12,
}
"""Dense bfloat16 operations per second that the makers state, by the beginning of the device's name."""


@dataclass(frozen=True)
class Part:
    """One part of a model: its trained parameters, and operations of one image forward."""

    name: str
    parameters: int
    flops: float


def peak_flops(device: jax.Device) -> float | None:
    """Operations per second that the device could do at best; `None` where it is not known."""
    known = [kind for kind in PEAK_FLOPS if device.device_kind.startswith(kind)]
    return PEAK_FLOPS[max(known, key=len)] if known else None


def pretraining_parts(settings: ModelSettings) -> list[Part]:
    """Parts of the pretraining model with their cost.

    Operations are two per multiplication, of matrix products and attention; both decoded sequences count whole, so
    that shortcuts show as speed and not as less work.
    """
    counts = parameters_by_part(settings)
    return [Part(name, counts.get(name, 0), flops) for name, flops in forward_flops(settings).items()]


def parameters_by_part(settings: ModelSettings) -> dict[str, int]:
    """Trained parameters by part, the same names as `forward_flops`."""
    params = abstract_model(settings)[1]
    counts: dict[str, int] = {}
    for name, leaf in flatten_names(params).items():
        part = part_of(name)
        counts[part] = counts.get(part, 0) + int(np.prod(leaf.shape))
    return counts


def part_of(name: str) -> str:
    """Part that a parameter belongs to; the encoder's last norm counts to its last stage."""
    if name.startswith("decoder/"):
        return "decoder"
    if name.startswith("encoder/patch_embed/"):
        return "patches"
    return f"stage {int(name.split('/')[2]) + 1}" if name.startswith("encoder/stages/") else f"stage {STAGES}"


def forward_flops(settings: ModelSettings) -> dict[str, float]:
    """Operations of one image forward, by part."""
    grid = settings.grids[0]
    result = {"patches": 2.0 * settings.patch_size**2 * settings.bands * settings.embed_dim * grid**2}
    for stage, (depth, window) in enumerate(zip(settings.depths, settings.windows, strict=True)):
        tokens, width = settings.grids[stage] ** 2, settings.embed_dim * 2**stage
        flops = depth * block_flops(tokens, width, window**2, settings.mlp_ratio)
        merge = 0.0 if stage == STAGES - 1 else 2.0 * (tokens / 4) * (4 * width) * (2 * width)
        result[f"stage {stage + 1}"] = flops + merge
    cells, width = settings.cells, settings.decoder_dim
    blocks = settings.decoder_depth * block_flops(2 * cells, width, cells, settings.mlp_ratio)
    ends = 2.0 * cells * settings.features * width + 2.0 * 2 * cells * width * settings.cell_values
    return result | {"decoder": blocks + ends}


def block_flops(tokens: int, width: int, attended: int, mlp_ratio: int) -> float:
    """Operations of one transformer block: qkv, projection, MLP, and attention over `attended` tokens each."""
    return 2.0 * tokens * width**2 * (4 + 2 * mlp_ratio) + 4.0 * tokens * attended * width


def training_flops(settings: ModelSettings) -> float:
    """Operations of one image forward and backward."""
    return 3 * sum(forward_flops(settings).values())


def encoder_flops(settings: ModelSettings) -> float:
    """Operations of one image forward through the encoder alone, as a classifier needs it."""
    return sum(flops for part, flops in forward_flops(settings).items() if part != "decoder")


def table(parts: list[Part]) -> str:
    """Parts, parameters and operations as text."""
    total = Part("all", sum(part.parameters for part in parts), sum(part.flops for part in parts))
    lines = [f"{'part':10} {'parameters':>13} {'GFLOP forward':>14}"]
    lines += [f"{part.name:10} {part.parameters:13,} {part.flops / 1e9:14.3f}" for part in [*parts, total]]
    return "\n".join(lines)
