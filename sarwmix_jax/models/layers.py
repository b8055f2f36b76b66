"""The layers of which blocks consist: dense layers, LayerNorm, dropout, MLP, attention."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from einops import rearrange
from flax import nnx
from jaxtyping import Array, Float

from sarwmix_jax.models.state import Pending, Product, Stream, added, keep
from sarwmix_jax.settings.model import ModelSettings

Key = Array
"""A random key; one per sample where a sample's result must not depend on the rest of its batch."""

Rate = float | Float[Array, ""] | None
"""Probability of dropping: a number, an array inside a loop over blocks, or None for never."""


def linear(
    inputs: int, outputs: int, settings: ModelSettings, *, bias: bool = True, bound: float | None = None, rngs: nnx.Rngs
) -> nnx.Linear:
    """A dense layer that computes in the type of the activations.

    The initial weights are Xavier-uniform with zero bias or, with a `bound`, uniform in +-bound, bias included.
    """
    uniform = None if bound is None else partial(jax.random.uniform, minval=-bound, maxval=bound)
    return nnx.Linear(
        inputs,
        outputs,
        use_bias=bias,
        kernel_init=uniform or nnx.initializers.xavier_uniform(),
        bias_init=uniform or nnx.initializers.zeros_init(),
        dtype=jnp.dtype(settings.dtype),
        rngs=rngs,
    )


class LayerNorm(nnx.LayerNorm):
    """LayerNorm with eps 1e-5; statistics in float32, computed in two passes, or by the project's own GPU kernel."""

    def __init__(self, width: int, settings: ModelSettings, *, rngs: nnx.Rngs):
        dtype = jnp.dtype(settings.dtype)
        super().__init__(width, epsilon=1e-5, use_fast_variance=False, dtype=dtype, rngs=rngs)
        self.fused = settings.kernel_of("LayerNorm") == "fused"

    def __call__(self, x: Stream) -> Float[Array, "*batch width"]:  # type: ignore[override]
        """Normalises the last axis."""
        if isinstance(x, Pending):
            return self.beside(x)[0]
        if not self.fused:
            return super().__call__(x)
        from sarwmix_jax.models.fused_norm import fused_layer_norm

        return fused_layer_norm(x.astype(self.dtype), *self._parameters())

    def beside(self, x: Stream) -> tuple[Float[Array, "*batch width"], Float[Array, "*batch width"]]:
        """The normalised `x`, and `x` for the residual connection; the kernel adds the gradients of both."""
        if not self.fused:
            x = added(x)
            return self(x), x
        from sarwmix_jax.models.fused_norm import fused_add_layer_norm, fused_layer_norm_beside

        if isinstance(x, Pending):
            values, bias = x.branch
            return fused_add_layer_norm(x.stream.astype(self.dtype), values, bias, *self._parameters())
        return fused_layer_norm_beside(x.astype(self.dtype), *self._parameters())

    def _parameters(self) -> tuple[Array, Array, float]:
        assert self.scale is not None and self.bias is not None
        return self.scale[...], self.bias[...], self.epsilon


def dense(layer: nnx.Linear, x: Float[Array, "... inputs"]) -> Float[Array, "... outputs"]:
    """Applies a dense layer to tokens flattened to two dimensions, which XLA multiplies fastest on a CPU."""
    return layer(x.reshape(-1, x.shape[-1])).reshape(*x.shape[:-1], -1)


def product(layer: nnx.Linear, x: Float[Array, "... inputs"]) -> Product:
    """A dense layer without its bias, both in the type of `x`."""
    assert layer.bias is not None
    kernel, bias = (parameter[...].astype(x.dtype) for parameter in (layer.kernel, layer.bias))
    return Product((x.reshape(-1, x.shape[-1]) @ kernel).reshape(*x.shape[:-1], -1), bias)


def dense_columns(layer: nnx.Linear, x: Float[Array, "... inputs"], columns: slice) -> Float[Array, "... some_outputs"]:
    """Some of a dense layer's outputs, in the type of `x`."""
    assert layer.bias is not None
    kernel, bias = (parameter[...].astype(x.dtype) for parameter in (layer.kernel, layer.bias))
    return (x.reshape(-1, x.shape[-1]) @ kernel[:, columns] + bias[columns]).reshape(*x.shape[:-1], -1)


def dropout(x: Float[Array, "..."], rate: float, key: Key | None) -> Float[Array, "..."]:
    """Zeroes values with probability `rate` and divides the rest by 1-rate; nothing without a key."""
    return x if key is None else _drop(x, rate, key, x.shape)


def drop_path(
    branch: Float[Array, "batch ..."] | Product, rate: Rate, key: Key | None
) -> Float[Array, "batch ..."] | Product:
    """Drops whole samples of a residual branch with probability `rate`; nothing without a key, or of a product.

    Products there are only where nothing is dropped, see `ModelSettings.adds_in_norm`.
    """
    if key is None or isinstance(branch, Product):
        return branch
    return _drop(branch, rate, key, (branch.shape[0],) + (1,) * (branch.ndim - 1))


def _drop(x: Float[Array, "..."], rate: Rate, key: Key, shape: tuple[int, ...]) -> Float[Array, "..."]:
    if rate is None or (isinstance(rate, float) and rate == 0):
        return x
    if key.ndim:
        kept = jax.vmap(lambda own: jax.random.bernoulli(own, 1 - rate, shape[1:]))(key)
    else:
        kept = jax.random.bernoulli(key, 1 - rate, shape)
    return jnp.where(kept, x / (1 - rate), 0).astype(x.dtype)


def numbered(key: Key | None, number: int) -> Key | None:
    """The key of the part with this number (keys for a batch of keys), or None without a key."""
    if key is None:
        return None
    return jax.vmap(jax.random.fold_in, (0, None))(key, number) if key.ndim else jax.random.fold_in(key, number)


@jax.custom_vjp
def gelu(x: Float[Array, "..."]) -> Float[Array, "..."]:
    """Exact GELU, computed in float32; keeps only its input for the backward pass.

    By erf, which is one short polynomial on a GPU, and not by erfc, which is two with divisions and an exponential.
    """
    wide = x.astype(jnp.float32)
    return (wide * _normal_cdf(wide)).astype(x.dtype)


def _gelu_forward(x: Float[Array, "..."]) -> tuple[Float[Array, "..."], Float[Array, "..."]]:
    return gelu(x), x


def _gelu_backward(x: Float[Array, "..."], cotangent: Float[Array, "..."]) -> tuple[Float[Array, "..."]]:
    wide = x.astype(jnp.float32)
    density = jnp.exp(-0.5 * wide * wide) * (2 * np.pi) ** -0.5
    return ((cotangent.astype(jnp.float32) * (_normal_cdf(wide) + wide * density)).astype(x.dtype),)


def _normal_cdf(x: Float[Array, "..."]) -> Float[Array, "..."]:
    return 0.5 + 0.5 * jax.lax.erf(x * 0.5**0.5)


gelu.defvjp(_gelu_forward, _gelu_backward)


class Mlp(nnx.Module):
    """Linear, exact GELU, Linear."""

    def __init__(self, width: int, settings: ModelSettings, *, rngs: nnx.Rngs):
        self.fc1 = linear(width, settings.mlp_ratio * width, settings, rngs=rngs)
        self.fc2 = linear(settings.mlp_ratio * width, width, settings, rngs=rngs)
        self.dropout, self.adds_in_norm = settings.dropout, settings.adds_in_norm

    def __call__(self, x: Float[Array, "... width"], key: Key | None = None) -> Float[Array, "... width"] | Product:
        """Transforms each token by itself."""
        hidden = gelu(keep("hidden", dense(self.fc1, x)))
        if self.adds_in_norm:
            return product(self.fc2, hidden)
        hidden = dropout(hidden, self.dropout, numbered(key, 0))
        return dropout(dense(self.fc2, hidden), self.dropout, numbered(key, 1))


def attend(
    q: Float[Array, "*batch queries heads depth"],
    k: Float[Array, "*batch keys heads depth"],
    v: Float[Array, "*batch keys heads depth"],
    bias: Float[Array, "... heads queries keys"] | None = None,
    kernel: str = "xla",
) -> Float[Array, "*batch queries width"]:
    """Scaled dot-product attention; logits and softmax in float32, `bias` broadcast over the batch.

    Of the kernels only "cudnn" serves separate arrays: "fused" supports packed arrays alone, see `self_attend`.
    """
    if kernel == "cudnn":
        from sarwmix_jax.models.kernels import attend_cudnn

        return attend_cudnn(q, k, v, bias)
    weights = jax.nn.softmax(_logits(q * q.shape[-1] ** -0.5, k, bias), axis=-1)
    out = jnp.einsum("...hqk,...khd->...qhd", keep("weights", weights.astype(v.dtype)), v)
    return out.reshape(*out.shape[:-2], -1)


_PAIRS = partial(jnp.einsum, "...qhd,...khd->...hqk")


@jax.custom_vjp
def _logits(
    q: Float[Array, "*batch queries heads depth"],
    k: Float[Array, "*batch keys heads depth"],
    bias: Float[Array, "... heads queries keys"] | None,
) -> Float[Array, "*batch heads queries keys"]:
    """Products of queries and keys plus bias, float32; in the backward pass products are of the type of `q` too."""
    # Without the barrier XLA has cuBLAS add the bias, and for this writes it once for every window and image.
    logits = jax.lax.optimization_barrier(_PAIRS(q, k, preferred_element_type=jnp.float32))
    return logits if bias is None else logits + bias


def _logits_forward(q: Array, k: Array, bias: Array | None) -> tuple[Array, tuple[Array, Array, Array | None]]:
    return _logits(q, k, bias), (q, k, bias)


def _logits_backward(
    saved: tuple[Array, Array, Array | None], cotangent: Float[Array, "..."]
) -> tuple[Array, Array, Array | None]:
    q, k, bias = saved
    narrow = cotangent.astype(q.dtype)  # else XLA would write it, q and k in float32
    d_q, d_k = jax.vjp(_PAIRS, q, k)[1](narrow)
    if bias is None:
        return d_q, d_k, None
    (d_bias,) = jax.vjp(lambda bias: jnp.broadcast_to(bias, narrow.shape), bias)[1](narrow.astype(bias.dtype))
    return d_q, d_k, d_bias


_logits.defvjp(_logits_forward, _logits_backward)


def self_attend(
    qkv: Product,
    heads: int,
    bias: Float[Array, "... heads tokens tokens"] | None = None,
    kernel: str = "xla",
) -> Float[Array, "*batch tokens width"]:
    """Self-attention from the dense layer of packed queries, keys and values.

    Args:
        qkv: What the layer gives, (*batch, tokens, packed), the last axis in the order (part, head, depth).
        heads: Number of heads.
        bias: Added to the logits.
        kernel: What computes it; "fused" also sums the gradient of the layer's bias.

    Raises:
        UserError: The fused kernel does not support such arrays.
    """
    if kernel == "fused":
        # Imported where it is needed: `attend` must not depend on Pallas.
        from sarwmix_jax.models.kernels import attend_fused

        return attend_fused(qkv, heads, bias)
    q, k, v = split_heads(keep("qkv", qkv.total), 3, heads)
    return attend(q, k, v, bias, kernel)


def split_heads(x: Float[Array, "... parts_width"], parts: int, heads: int) -> tuple[Float[Array, "..."], ...]:
    """Splits the last axis, in the order (part, head, depth), into `parts` arrays (..., heads, depth)."""
    return tuple(rearrange(x, "... (part head depth) -> part ... head depth", part=parts, head=heads))


class Attention(nnx.Module):
    """Self-attention without position bias; `place` is one of `settings.model.PLACES`."""

    def __init__(self, width: int, heads: int, place: str, settings: ModelSettings, *, rngs: nnx.Rngs):
        self.qkv = linear(width, 3 * width, settings, rngs=rngs)
        self.proj = linear(width, width, settings, rngs=rngs)
        self.heads, self.dropout, self.kernel = heads, settings.dropout, settings.kernel_of(place)
        self.adds_in_norm = settings.adds_in_norm

    def __call__(
        self,
        x: Float[Array, "*batch tokens width"],
        bias: Float[Array, "... heads tokens tokens"] | None = None,
        key: Key | None = None,
    ) -> Float[Array, "*batch tokens width"] | Product:
        """Attends over the tokens of the second last axis."""
        seen = keep("attended", self_attend(product(self.qkv, x), self.heads, bias, self.kernel))
        return self.project(seen, key)

    def project(
        self, seen: Float[Array, "*batch tokens width"], key: Key | None = None
    ) -> Float[Array, "*batch tokens width"] | Product:
        """The last dense layer."""
        return product(self.proj, seen) if self.adds_in_norm else dropout(dense(self.proj, seen), self.dropout, key)
