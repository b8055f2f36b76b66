"""The small parts that every block uses."""

from functools import partial

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

from sarwmix_jax.models.execution import keep
from sarwmix_jax.models.settings import ModelSettings

Key = Array
Rate = float | Float[Array, ""] | None
"""Probability of dropping: a number, an array inside a loop over blocks, or None for never."""

FORBIDDEN = -1e9
"""Added to the logits of pairs that must not see each other; their weight becomes exactly 0."""


def linear(
    inputs: int,
    outputs: int,
    settings: ModelSettings,
    *,
    bias: bool = True,
    bound: float | None = None,
    rngs: nnx.Rngs,
) -> nnx.Linear:
    """A dense layer computing in the activations' type.

    It starts Xavier-uniform with zero bias or, with a `bound`, uniform in +-bound, bias included.
    """
    uniform = None if bound is None else partial(jax.random.uniform, minval=-bound, maxval=bound)
    return nnx.Linear(
        inputs,
        outputs,
        use_bias=bias,
        kernel_init=uniform or nnx.initializers.xavier_uniform(),
        bias_init=uniform or nnx.initializers.zeros_init(),
        dtype=jnp.dtype(settings.dtype),
        param_dtype=jnp.float32,
        rngs=rngs,
    )


def layer_norm(width: int, settings: ModelSettings, *, rngs: nnx.Rngs) -> nnx.LayerNorm:
    """LayerNorm with eps 1e-5; statistics in float32, taken in two passes."""
    return nnx.LayerNorm(
        width,
        epsilon=1e-5,
        use_fast_variance=False,
        dtype=jnp.dtype(settings.dtype),
        param_dtype=jnp.float32,
        rngs=rngs,
    )


def dense(layer: nnx.Linear, x: Float[Array, "... inputs"]) -> Float[Array, "... outputs"]:
    """Applies a dense layer to tokens flattened to two dimensions, which XLA multiplies fastest on a CPU."""
    return layer(x.reshape(-1, x.shape[-1])).reshape(*x.shape[:-1], -1)


def dense_columns(layer: nnx.Linear, x: Float[Array, "... inputs"], columns: slice) -> Float[Array, "... some_outputs"]:
    """Some of a dense layer's outputs, in the type of `x`."""
    assert layer.bias is not None
    kernel, bias = (parameter[...].astype(x.dtype) for parameter in (layer.kernel, layer.bias))
    return (x.reshape(-1, x.shape[-1]) @ kernel[:, columns] + bias[columns]).reshape(*x.shape[:-1], -1)


def dropout(x: Float[Array, "..."], rate: float, key: Key | None) -> Float[Array, "..."]:
    """Zeroes values with probability `rate` and divides the rest by 1-rate; nothing without a key."""
    return x if key is None else _drop(x, rate, key, x.shape)


def drop_path(branch: Float[Array, "batch ..."], rate: Rate, key: Key | None) -> Float[Array, "batch ..."]:
    """Drops whole samples of a residual branch with probability `rate`; nothing without a key."""
    return branch if key is None else _drop(branch, rate, key, (branch.shape[0],) + (1,) * (branch.ndim - 1))


def _drop(x: Float[Array, "..."], rate: Rate, key: Key, shape: tuple[int, ...]) -> Float[Array, "..."]:
    if rate is None or (isinstance(rate, float) and rate == 0):
        return x
    kept = jax.random.bernoulli(key, 1 - rate, shape)
    return jnp.where(kept, x / (1 - rate), 0).astype(x.dtype)


def numbered(key: Key | None, number: int) -> Key | None:
    """The key of the part with this number, or none without a key."""
    return None if key is None else jax.random.fold_in(key, number)


class Mlp(nnx.Module):
    """Linear, exact GELU, Linear."""

    def __init__(self, width: int, settings: ModelSettings, *, rngs: nnx.Rngs):
        self.fc1 = linear(width, settings.mlp_ratio * width, settings, rngs=rngs)
        self.fc2 = linear(settings.mlp_ratio * width, width, settings, rngs=rngs)
        self.dropout = settings.dropout

    def __call__(self, x: Float[Array, "... width"], key: Key | None = None) -> Float[Array, "... width"]:
        """Transforms each token by itself."""
        hidden = nnx.gelu(keep("hidden", dense(self.fc1, x)), approximate=False)
        hidden = dropout(hidden, self.dropout, numbered(key, 0))
        return dropout(dense(self.fc2, hidden), self.dropout, numbered(key, 1))
