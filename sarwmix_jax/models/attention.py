"""Multi-head attention: the core, and window attention with a relative position bias."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from einops import rearrange
from flax import nnx
from jaxtyping import Array, Float, Int

from sarwmix_jax.models.execution import keep
from sarwmix_jax.models.layers import FORBIDDEN as FORBIDDEN
from sarwmix_jax.models.layers import Key, dense, dropout, linear
from sarwmix_jax.models.settings import Kernel, ModelSettings


def attend(
    q: Float[Array, "*batch queries heads depth"],
    k: Float[Array, "*batch keys heads depth"],
    v: Float[Array, "*batch keys heads depth"],
    bias: Float[Array, "... heads queries keys"] | None = None,
    kernel: Kernel = "xla",
) -> Float[Array, "*batch queries width"]:
    """Scaled dot-product attention; logits and softmax in float32, `bias` broadcast over the batch.

    Of the kernels only "cudnn" changes this form: "fused" knows packed arrays alone, see `self_attend`.
    """
    if kernel == "cudnn":
        return _attend_cudnn(q, k, v, bias)
    logits = jnp.einsum("...qhd,...khd->...hqk", q * q.shape[-1] ** -0.5, k, preferred_element_type=jnp.float32)
    weights = jax.nn.softmax(logits if bias is None else logits + bias, axis=-1)
    out = jnp.einsum("...hqk,...khd->...qhd", keep("weights", weights.astype(v.dtype)), v)
    return out.reshape(*out.shape[:-2], -1)


def _attend_cudnn(
    q: Float[Array, "*batch queries heads depth"],
    k: Float[Array, "*batch keys heads depth"],
    v: Float[Array, "*batch keys heads depth"],
    bias: Float[Array, "... heads queries keys"] | None,
) -> Float[Array, "*batch queries width"]:
    """The same by cuDNN, which takes one batch axis and gives the bias' gradient only where all of it shares the bias.

    Windows with a bias of their own therefore count as more heads.
    """
    windows = 1 if bias is None or bias.ndim == 3 else bias.shape[0]
    q4, k4, v4 = (rearrange(x.reshape(-1, windows, *x.shape[-3:]), "b w n h d -> b n (w h) d") for x in (q, k, v))
    shared = None if bias is None else bias.reshape(1, -1, *bias.shape[-2:]).astype(q.dtype)
    out = jax.nn.dot_product_attention(q4, k4, v4, shared, implementation="cudnn")
    return rearrange(out, "b n (w h) d -> b w n (h d)", w=windows).reshape(*q.shape[:-2], -1)


def self_attend(
    qkv: Float[Array, "*batch tokens packed"],
    heads: int,
    bias: Float[Array, "... heads tokens tokens"] | None = None,
    kernel: Kernel = "xla",
) -> Float[Array, "*batch tokens width"]:
    """Attention of tokens among themselves, from queries, keys and values packed (part, head, depth).

    What the fused kernel does not support goes the plain way.
    """
    if kernel == "fused":
        # Imported where it is needed: the plain way must not depend on Pallas.
        from sarwmix_jax.models.fused_attention import fused_attention, unsupported

        if unsupported(qkv, heads, bias) is None:
            return fused_attention(qkv, heads, bias)
    q, k, v = split_heads(qkv, 3, heads)
    return attend(q, k, v, bias, kernel)


def split_heads(x: Float[Array, "... parts_width"], parts: int, heads: int) -> tuple[Float[Array, "..."], ...]:
    """Splits the last axis, laid out (part, head, depth), into `parts` arrays (..., heads, depth)."""
    return tuple(rearrange(x, "... (part head depth) -> part ... head depth", part=parts, head=heads))


class Attention(nnx.Module):
    """Self-attention without position bias."""

    def __init__(self, width: int, heads: int, settings: ModelSettings, *, rngs: nnx.Rngs):
        self.qkv = linear(width, 3 * width, settings, rngs=rngs)
        self.proj = linear(width, width, settings, rngs=rngs)
        self.heads = heads
        self.dropout = settings.dropout
        self.kernel = settings.kernel

    def __call__(
        self,
        x: Float[Array, "*batch tokens width"],
        bias: Float[Array, "... heads tokens tokens"] | None = None,
        key: Key | None = None,
    ) -> Float[Array, "*batch tokens width"]:
        """Attends within the second last axis."""
        seen = keep("attended", self_attend(keep("qkv", dense(self.qkv, x)), self.heads, bias, self.kernel))
        return dropout(dense(self.proj, seen), self.dropout, key)


class Pairs(NamedTuple):
    """Which (query, key) pairs one stage's windows have: the same for all its blocks.

    Attributes:
        rows: Row of the bias table for each pair, (windows or nothing, n, n).
        forbidden: Bias that separates the two images, (windows, 1, n, n), or None where nothing needs it.
    """

    rows: Int[Array, "*windows n n"]
    forbidden: Float[Array, "windows 1 n n"] | None


class WindowAttention(Attention):
    """Attention within windows, with a trained bias for every relative position."""

    def __init__(self, width: int, heads: int, window: int, settings: ModelSettings, *, rngs: nnx.Rngs):
        super().__init__(width, heads, settings, rngs=rngs)
        # The published initialisation cuts at +-2, a hundred standard deviations.
        draw = jax.random.truncated_normal(rngs.params(), -100, 100, ((2 * window - 1) ** 2, heads))
        self.bias_table = nnx.Param(0.02 * draw)

    def bias(self, pairs: Pairs) -> Float[Array, "#windows heads n n"]:
        """The one bias of this block for a whole step: relative position and mask."""
        relative = rearrange(self.bias_table[...][pairs.rows], "... q k head -> ... head q k")
        return relative if pairs.forbidden is None else relative + pairs.forbidden
