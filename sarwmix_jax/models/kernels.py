"""Whether a machine has the attention kernel that a model asks for."""

import jax
import jax.numpy as jnp

from sarwmix_jax.errors import UserError
from sarwmix_jax.models.settings import STAGES, ModelSettings


def check_kernel(settings: ModelSettings, platform: str) -> None:
    """Refuses a kernel that this machine lacks, or that would serve no part of the model.

    Args:
        settings: Shape and arithmetic of the model.
        platform: That of the devices, such as "cpu" or "gpu".

    Raises:
        UserError: The line says what is missing and what to use.
    """
    if settings.kernel == "xla":
        return
    if platform != "gpu":
        raise UserError(f"model.kernel {settings.kernel} needs a GPU and this machine computes on {platform}; use xla")
    reason = _no_fused(settings) if settings.kernel == "fused" else _no_cudnn(settings)
    if reason is not None:
        raise UserError(f"model.kernel {settings.kernel} cannot serve this model: {reason}; use xla")


def head_depths(settings: ModelSettings) -> tuple[int, ...]:
    """Width of a head in each stage, then in the decoder."""
    stages = (settings.embed_dim * 2**stage // settings.num_heads[stage] for stage in range(STAGES))
    return (*stages, settings.decoder_dim // settings.decoder_heads)


def _no_cudnn(settings: ModelSettings) -> str | None:
    odd = [depth for depth in head_depths(settings) if depth % 8 or depth > 128]
    return f"a head depth of {odd[0]} is not a multiple of 8 up to 128" if odd else None


def _no_fused(settings: ModelSettings) -> str | None:
    """Why not one stage can go through the fused kernel, or None where one can."""
    try:
        from sarwmix_jax.models.fused_attention import unsupported
    except ImportError:
        return f"jax {jax.__version__} no longer has Pallas' Triton backend"
    reasons = []
    for stage, (window, heads) in enumerate(zip(settings.windows, settings.num_heads, strict=True)):
        shape = (1, 1, window**2, 3 * settings.embed_dim * 2**stage)
        reasons.append(unsupported(jax.ShapeDtypeStruct(shape, jnp.dtype(settings.dtype)), heads))
    return None if None in reasons else reasons[0]
