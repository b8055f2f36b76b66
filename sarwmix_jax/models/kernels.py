"""Attention by cuDNN or the project's own kernels, on GPUs alone."""

import jax
from einops import rearrange
from jaxtyping import Array, Float

from sarwmix_jax.errors import UserError
from sarwmix_jax.models.state import Product

REMEDY = "use --config.model.kernel=xla"


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


def attend_fused(
    qkv: Product, heads: int, bias: Float[Array, "... heads tokens tokens"] | None
) -> Float[Array, "*batch tokens width"]:
    """`self_attend` by the project's own kernels.

    Raises:
        UserError: They do not support such arrays.
    """
    from sarwmix_jax.models.fused_attention import fused_attention, unsupported

    if reason := unsupported(qkv.values, heads):
        raise UserError(f"model.kernel fused cannot compute this attention: {reason}; {REMEDY}")
    return fused_attention(qkv, heads, bias)
