"""The small plain transformer that reconstructs cells."""

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

from sarwmix_jax.models.attention import Attention, attend, split_heads
from sarwmix_jax.models.execution import Execution, Row, keep, row, run_blocks, split_last
from sarwmix_jax.models.layers import Key, Mlp, dense, dense_columns, dropout, layer_norm, linear, numbered
from sarwmix_jax.models.patches import sine_cosine_positions
from sarwmix_jax.models.settings import CELL, ModelSettings
from sarwmix_jax.models.state import Fixed

Tokens = Float[Array, "batch cells width"]
Mask = Float[Array, " cells"]


class DecoderBlock(nnx.Module):
    """Pre-norm attention over all cells, and MLP."""

    def __init__(self, settings: ModelSettings, *, rngs: nnx.Rngs):
        width = settings.decoder_dim
        self.norm1 = layer_norm(width, settings, rngs=rngs)
        self.attention = Attention(width, settings.decoder_heads, settings, rngs=rngs)
        self.norm2 = layer_norm(width, settings, rngs=rngs)
        self.mlp = Mlp(width, settings, rngs=rngs)

    def __call__(self, x: Tokens, key: Key | None = None) -> Tokens:
        """Transforms whole sequences."""
        x = keep("residual", x + self.attention(self.norm1(x), key=numbered(key, 0)))
        return x + self.mlp(self.norm2(x), numbered(key, 1))

    def half(self, x: Float[Array, "2 batch cells width"], mask: Mask, key: Key | None = None) -> Tokens:
        """The same, computed only where it will be read: sequence 1 at masked cells, sequence 2 at the others.

        Queries, projection and MLP run on one token a cell instead of two; keys and values come from each query's own
        sequence. Exact for any mask.
        """
        normed = self.norm1(x)
        qkv, width, heads, kernel = self.attention.qkv, x.shape[-1], self.attention.heads, self.attention.kernel
        (q,) = split_heads(dense_columns(qkv, select(normed, mask), slice(width)), 1, heads)
        k, v = split_heads(dense_columns(qkv, normed, slice(width, None)), 2, heads)
        seen = select(jnp.stack([attend(q, k[own], v[own], kernel=kernel) for own in (0, 1)]), mask)
        out = select(x, mask) + dropout(dense(self.attention.proj, seen), self.attention.dropout, numbered(key, 0))
        return out + self.mlp(self.norm2(out), numbered(key, 1))


def select(sequences: Float[Array, "2 batch cells width"], mask: Mask) -> Tokens:
    """Sequence 1 where the mask is 1, sequence 2 elsewhere."""
    return jnp.where(mask[:, None] == 1, sequences[0], sequences[1])


class Decoder(nnx.Module):
    """Un-mixes the encoded sequence into two and reconstructs each one's missing cells."""

    def __init__(self, settings: ModelSettings, *, rngs: nnx.Rngs):
        width = settings.decoder_dim
        self.embed = linear(settings.features, width, settings, rngs=rngs)
        self.mask_token = nnx.Param(0.02 * jax.random.truncated_normal(rngs.params(), -100, 100, (width,)))
        self.position = Fixed(jnp.asarray(sine_cosine_positions(settings.image_size // CELL, width)))
        self.execution = Execution(settings.recompute, settings.scan)
        self.depth = settings.decoder_depth
        self.blocks = row(lambda rngs: DecoderBlock(settings, rngs=rngs), self.depth, self.execution, rngs=rngs)
        self.norm = layer_norm(width, settings, rngs=rngs)
        self.predict = linear(width, settings.cell_values, settings, rngs=rngs)

    def full(
        self, encoded: Float[Array, "batch cells features"], mask: Mask, *, key: Key | None = None
    ) -> Float[Array, "2 batch cells values"]:
        """Both sequences with every cell reconstructed; sequence 1 belongs to image i, sequence 2 to B-1-i."""
        x = self._sequences(encoded, mask)
        x, shape = x.reshape(-1, *x.shape[2:]), x.shape
        x = self._run(self.blocks, x, self.depth, key)
        return dense(self.predict, self.norm(x)).reshape(*shape[:-1], -1)

    def half(
        self, encoded: Float[Array, "batch cells features"], mask: Mask, *, key: Key | None = None
    ) -> Float[Array, "batch cells values"]:
        """What the loss reads of `full`: sequence 1 at masked cells, sequence 2 at the others."""
        x = self._sequences(encoded, mask)
        x, shape = x.reshape(-1, *x.shape[2:]), x.shape
        all_but_last, last = split_last(self.blocks, self.execution)
        x = self._run(all_but_last, x, self.depth - 1, key)
        x = last.half(x.reshape(shape), mask, numbered(key, self.depth - 1))
        return dense(self.predict, self.norm(x))

    def _run(self, blocks: Row, x: Tokens, count: int, key: Key | None) -> Tokens:
        return run_blocks(blocks, x, (), [(numbered(key, number),) for number in range(count)], self.execution)

    def _sequences(
        self, encoded: Float[Array, "batch cells features"], mask: Mask
    ) -> Float[Array, "2 batch cells width"]:
        x = dense(self.embed, encoded)
        token, own = self.mask_token[...].astype(x.dtype), mask[:, None] == 0
        sequences = jnp.stack([jnp.where(own, x, token), jnp.where(own, token, x)])
        return sequences + self.position[...].astype(x.dtype)
