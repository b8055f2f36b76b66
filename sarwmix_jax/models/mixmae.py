"""The masked autoencoder: masks, mixing, the decoder, the whole model, and its weighted reconstruction loss.

Image i of a mix group of B images is mixed with image B-1-i; the middle one of an odd group is its own partner.
Mixing pixels is equivalent to mixing embedded tokens, since the mask is constant in a cell and the patch embedding
acts on each patch alone; it moves much less memory.
"""

import math

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Bool, Float

from sarwmix_jax.models.encoder import Encoder
from sarwmix_jax.models.layers import (
    Attention,
    Key,
    LayerNorm,
    Mlp,
    attend,
    dense,
    dense_columns,
    linear,
    numbered,
    product,
    self_attend,
    split_heads,
)
from sarwmix_jax.models.state import Blocks, Execution, Fixed, Stream, add, make_blocks, run_blocks, split_last
from sarwmix_jax.models.tokens import image_to_vectors, sine_cosine_positions
from sarwmix_jax.settings.model import CELL, ModelSettings

Mask = Float[Array, " cells"]


def fixed_masked_count(cells: int, ratio: float, range_mask_ratio: float) -> int | None:
    """The number of masked cells where it is the same for all masks, else None."""
    return math.floor(cells * ratio) if range_mask_ratio == 0 else None


def draw_mask(key: Key, cells: int, ratio: float, range_mask_ratio: float = 0.0) -> Mask:
    """Draws a 0/1 mask with exactly floor(cells * (ratio + u)) ones, u uniform in [0, range_mask_ratio]."""
    count_key, order_key = jax.random.split(key)
    count: int | Array | None = fixed_masked_count(cells, ratio, range_mask_ratio)
    if count is None:
        count = jnp.floor(cells * (ratio + range_mask_ratio * jax.random.uniform(count_key))).astype(jnp.int32)
    return (jax.random.permutation(order_key, cells) < count).astype(jnp.float32)


def mix(images: Float[Array, "batch band height width"], mask: Mask) -> Float[Array, "batch band height width"]:
    """Image i where the mask is 0, its partner where it is 1."""
    side = round(mask.size**0.5)
    pixels = jnp.repeat(jnp.repeat(mask.reshape(side, side), CELL, axis=0), CELL, axis=1)
    return jnp.where(pixels == 1, images[::-1], images)


def unmix(reconstruction: Float[Array, "2 batch cells values"], mask: Mask) -> Float[Array, "batch cells values"]:
    """Every cell of every image, taken from the sequence in which it was missing."""
    return jnp.where(mask[:, None] == 1, reconstruction[0], reconstruction[1][::-1])


def swap_partners(x: Float[Array, "batch cells values"], mask: Mask) -> Float[Array, "batch cells values"]:
    """Keeps masked cells and exchanges the others with the partner; it is its own inverse.

    Converts cells per image to the order of the half decoder's output and back.
    """
    return jnp.where(mask[:, None] == 1, x, x[::-1])


Tokens = Float[Array, "batch cells width"]


class DecoderBlock(nnx.Module):
    """Pre-norm attention over all cells, and MLP."""

    def __init__(self, settings: ModelSettings, *, rngs: nnx.Rngs):
        width = settings.decoder_dim
        self.norm1 = LayerNorm(width, settings, rngs=rngs)
        self.attention = Attention(width, settings.decoder_heads, "decoder", settings, rngs=rngs)
        self.norm2 = LayerNorm(width, settings, rngs=rngs)
        self.mlp = Mlp(width, settings, rngs=rngs)

    def __call__(self, x: Stream, key: Key | None = None) -> Stream:
        """Transforms complete sequences, (batch, cells, width)."""
        normed, stream = self.norm1.beside(x)
        normed, stream = self.norm2.beside(add(stream, self.attention(normed, key=numbered(key, 0))))
        return add(stream, self.mlp(normed, numbered(key, 1)))

    def half(self, x: Stream, mask: Mask, key: Key | None = None) -> Stream:
        """The same, computed only where the loss reads it: sequence 1 at masked cells, sequence 2 at the others.

        Queries, projection and MLP run on one token per cell instead of two; keys and values come from the sequence of
        each query. Exact for any mask.
        """
        normed, stream = self.norm1.beside(x)
        seen = self._attend_half(normed, mask)
        normed, out = self.norm2.beside(add(select(stream, mask), self.attention.project(seen, numbered(key, 0))))
        return add(out, self.mlp(normed, numbered(key, 1)))

    def _attend_half(self, normed: Float[Array, "2 batch cells width"], mask: Mask) -> Tokens:
        qkv, width, heads, kernel = self.attention.qkv, normed.shape[-1], self.attention.heads, self.attention.kernel
        if kernel == "fused":  # whose kernel takes packed arrays; the queries that are not read cost it next to nothing
            return select(self_attend(product(qkv, normed), heads, kernel=kernel), mask)
        (q,) = split_heads(dense_columns(qkv, select(normed, mask), slice(width)), 1, heads)
        k, v = split_heads(dense_columns(qkv, normed, slice(width, None)), 2, heads)
        return select(jnp.stack([attend(q, k[own], v[own], kernel=kernel) for own in (0, 1)]), mask)


def select(sequences: Float[Array, "2 batch cells width"], mask: Mask) -> Tokens:
    """Sequence 1 where the mask is 1, sequence 2 elsewhere."""
    return jnp.where(mask[:, None] == 1, sequences[0], sequences[1])


class Decoder(nnx.Module):
    """Un-mixes the encoded sequence into two and reconstructs the missing cells of each."""

    def __init__(self, settings: ModelSettings, *, rngs: nnx.Rngs):
        width = settings.decoder_dim
        self.embed = linear(settings.features, width, settings, rngs=rngs)
        self.mask_token = nnx.Param(0.02 * jax.random.truncated_normal(rngs.params(), -100, 100, (width,)))
        self.position = Fixed(jnp.asarray(sine_cosine_positions(settings.image_size // CELL, width)))
        self.execution = Execution(settings.recompute, bool(settings.scan))
        self.depth = settings.decoder_depth
        self.blocks = make_blocks(lambda rngs: DecoderBlock(settings, rngs=rngs), self.depth, self.execution, rngs=rngs)
        self.norm = LayerNorm(width, settings, rngs=rngs)
        self.predict = linear(width, settings.cell_values, settings, rngs=rngs)

    def full(
        self, encoded: Float[Array, "batch cells features"], mask: Mask, *, key: Key | None = None
    ) -> Float[Array, "2 batch cells values"]:
        """Both sequences with every cell reconstructed; sequence 1 belongs to image i, sequence 2 to B-1-i."""
        x = self._sequences(encoded, mask)
        x, shape = x.reshape(-1, *x.shape[2:]), x.shape
        decoded = self._run(self.blocks, x, self.depth, key)
        return dense(self.predict, self.norm(decoded)).reshape(*shape[:-1], -1)

    def half(
        self, encoded: Float[Array, "batch cells features"], mask: Mask, *, key: Key | None = None
    ) -> Float[Array, "batch cells values"]:
        """The part of `full` that the loss reads: sequence 1 at masked cells, sequence 2 at the others."""
        x = self._sequences(encoded, mask)
        x, shape = x.reshape(-1, *x.shape[2:]), x.shape
        all_but_last, last = split_last(self.blocks, self.execution)
        decoded = self._run(all_but_last, x, self.depth - 1, key)
        decoded = last.half(decoded.reshape(shape), mask, numbered(key, self.depth - 1))
        return dense(self.predict, self.norm(decoded))

    def _run(self, blocks: Blocks, x: Tokens, count: int, key: Key | None) -> Stream:
        return run_blocks(blocks, x, (), [(numbered(key, number),) for number in range(count)], self.execution)

    def _sequences(
        self, encoded: Float[Array, "batch cells features"], mask: Mask
    ) -> Float[Array, "2 batch cells width"]:
        x = dense(self.embed, encoded)
        token, own = self.mask_token[...].astype(x.dtype), mask[:, None] == 0
        sequences = jnp.stack([jnp.where(own, x, token), jnp.where(own, token, x)])
        return sequences + self.position[...].astype(x.dtype)


Images = Float[Array, "batch band height width"]


class MixMAE(nnx.Module):
    """SAR-W-MixMAE for pretraining. Images are standardised; a batch is one mix group with one mask."""

    def __init__(self, settings: ModelSettings, *, rngs: nnx.Rngs):
        self.encoder = Encoder(settings, rngs=rngs)
        self.decoder = Decoder(settings, rngs=rngs)
        self.shortcut = settings.decoder == "auto"

    def encode(
        self,
        images: Images,
        mask: Mask | None = None,
        *,
        masked_count: int | None = None,
        key: Key | None = None,
    ) -> Float[Array, "batch cells features"]:
        """Features per cell, row by row; with a mask those of the batch mixed with its reverse."""
        inputs = images if mask is None else mix(images, mask)
        return self.encoder(inputs, mask, masked_count=masked_count, key=numbered(key, 0))

    def features(self, images: Images, *, key: Key | None = None) -> Float[Array, "batch features"]:
        """Mean of the encoder's tokens of images that are not mixed, float32."""
        return self.encode(images, key=key).astype(jnp.float32).mean(axis=1)

    def sequences(
        self, images: Images, mask: Mask, *, masked_count: int | None = None, key: Key | None = None
    ) -> Float[Array, "2 batch cells values"]:
        """Both decoded sequences, complete; the second one belongs to the reversed batch."""
        encoded = self.encode(images, mask, masked_count=masked_count, key=key)
        return self.decoder.full(encoded, mask, key=numbered(key, 1))

    def reconstruct(
        self, images: Images, mask: Mask, *, masked_count: int | None = None, key: Key | None = None
    ) -> Float[Array, "batch cells values"]:
        """Every cell of every image, predicted from a mix that did not contain it.

        Args:
            images: Standardised images of one mix group.
            mask: 0/1 per cell, row-major.
            masked_count: The number of ones in `mask` where it is fixed; allows attention within gathered groups.
            key: Random key of dropout and drop path; without it there are none.
        """
        if not self.shortcut:
            return unmix(self.sequences(images, mask, masked_count=masked_count, key=key), mask)
        encoded = self.encode(images, mask, masked_count=masked_count, key=key)
        return swap_partners(self.decoder.half(encoded, mask, key=numbered(key, 1)), mask)


Vectors = Float[Array, "batch cells values"]
Valid = Bool[Array, "batch 1 height width"]


def target_vectors(
    images: Float[Array, "batch band height width"], *, norm_pix: bool, valid: Valid | None = None
) -> Vectors:
    """Targets of the decoder: the values of each cell, standardised by the cell's statistics if `norm_pix`."""
    vectors = image_to_vectors(images)
    if not norm_pix:
        return vectors
    mean, deviation = cell_statistics(images, valid=valid)
    return (vectors - mean) / deviation


def cell_statistics(
    images: Float[Array, "batch band height width"], *, valid: Valid | None = None
) -> tuple[Float[Array, "batch cells 1"], Float[Array, "batch cells 1"]]:
    """Mean and standard deviation of the valid values per cell: unbiased variance, plus 1e-6 under the root."""
    vectors = image_to_vectors(images)
    used = jnp.ones_like(vectors) if valid is None else valid_vectors(valid, images)
    count = used.sum(axis=-1, keepdims=True)
    mean = (vectors * used).sum(axis=-1, keepdims=True) / jnp.maximum(count, 1)
    variance = ((vectors - mean) ** 2 * used).sum(axis=-1, keepdims=True) / jnp.maximum(count - 1, 1)
    return mean, jnp.sqrt(variance + 1e-6)


def valid_vectors(valid: Valid, images: Float[Array, "batch band height width"]) -> Vectors:
    """1 for the values of valid pixels, 0 for the others, as cell vectors."""
    return image_to_vectors(jnp.broadcast_to(valid, images.shape).astype(jnp.float32))


def weighted_errors(reconstruction: Vectors, target: Vectors, weights: Vectors) -> Vectors:
    """Weighted squared error of every value, in float32."""
    return weights * (reconstruction.astype(jnp.float32) - target) ** 2


def loss_per_band(errors: Vectors, bands: int, used: Vectors | None = None) -> Float[Array, " band"]:
    """Mean error of each band over images, cells and pixels, or over the valid values only."""
    by_band = errors.reshape(-1, bands)
    if used is None:
        return by_band.mean(axis=0)
    return (by_band * used.reshape(-1, bands)).sum(axis=0) / jnp.maximum(used.reshape(-1, bands).sum(axis=0), 1)
