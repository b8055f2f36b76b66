"""Attention by cuDNN, and which kernels serve a model; of interest on GPUs alone."""

import jax
import jax.numpy as jnp
from einops import rearrange
from jaxtyping import Array, Float

from sarwmix_jax.errors import UserError
from sarwmix_jax.settings.model import ModelSettings


def attend_cudnn(
    q: Float[Array, "*batch queries heads depth"],
    k: Float[Array, "*batch keys heads depth"],
    v: Float[Array, "*batch keys heads depth"],
    bias: Float[Array, "... heads queries keys"] | None,
) -> Float[Array, "*batch queries width"]:
    """`attend` by cuDNN, which takes one batch axis and computes the bias' gradient only where all samples share it.

    Windows with different biases are therefore passed as additional heads.
    """
    windows = 1 if bias is None or bias.ndim == 3 else bias.shape[0]
    q4, k4, v4 = (rearrange(x.reshape(-1, windows, *x.shape[-3:]), "b w n h d -> b n (w h) d") for x in (q, k, v))
    shared = None if bias is None else bias.reshape(1, -1, *bias.shape[-2:]).astype(q.dtype)
    out = jax.nn.dot_product_attention(q4, k4, v4, shared, implementation="cudnn")
    return rearrange(out, "b n (w h) d -> b w n (h d)", w=windows).reshape(*q.shape[:-2], -1)


def check_kernel(settings: ModelSettings, platform: str) -> None:
    """Refuses a kernel that this machine does not support, or that would be used in no part of the model.

    Args:
        settings: Shape and arithmetic of the model.
        platform: That of the devices, such as "cpu" or "gpu".

    Raises:
        UserError: The kernel cannot be used; the line states why and what to use instead.
    """
    if settings.kernel == "xla":
        return
    if platform != "gpu":
        raise UserError(
            f"model.kernel {settings.kernel} needs a GPU and this machine computes on {platform}; "
            "use --config.model.kernel=xla"
        )
    if reason := _no_fused(settings) if settings.kernel == "fused" else _no_cudnn(settings):
        raise UserError(
            f"model.kernel {settings.kernel} cannot serve this model: {reason}; use --config.model.kernel=xla"
        )


def _no_cudnn(settings: ModelSettings) -> str | None:
    stages = [width // heads for width, heads in zip(settings.widths, settings.num_heads, strict=True)]
    depths = [*stages, settings.decoder_dim // settings.decoder_heads]
    odd = [depth for depth in depths if depth % 8 or depth > 128]
    return f"a head depth of {odd[0]} is not a multiple of 8 up to 128" if odd else None


def _no_fused(settings: ModelSettings) -> str | None:
    """Why no stage can use the fused kernel, or None where one can."""
    try:
        from sarwmix_jax.models.fused_attention import unsupported
    except ImportError:
        return f"jax {jax.__version__} no longer has Pallas' Triton backend"
    reasons = []
    for window, heads, width in zip(settings.window_sides, settings.num_heads, settings.widths, strict=True):
        qkv = jax.ShapeDtypeStruct((1, 1, window**2, 3 * width), jnp.dtype(settings.dtype))
        reasons.append(unsupported(qkv, heads))
    return None if None in reasons else reasons[0]
