"""Images to tokens and cells and back, and the fixed position tables."""

import numpy as np
from einops import rearrange
from flax import nnx
from jaxtyping import Array, Float, Int

from sarwmix_jax.models.layers import dense, layer_norm, linear
from sarwmix_jax.models.layout import z_order
from sarwmix_jax.models.settings import CELL, ModelSettings


def image_to_vectors(
    images: Float[Array, "batch band height width"], side: int = CELL
) -> Float[Array, "batch cells values"]:
    """Cuts images into side x side cells, row by row; values ordered (row, column, band), band fastest."""
    return rearrange(images, "b c (r y) (q x) -> b (r q) (y x c)", y=side, x=side)


def vectors_to_image(
    vectors: Float[Array, "batch cells values"], bands: int, side: int = CELL
) -> Float[Array, "batch band height width"]:
    """Undoes `image_to_vectors` for square images."""
    rows = round(vectors.shape[1] ** 0.5)
    return rearrange(vectors, "b (r q) (y x c) -> b c (r y) (q x)", r=rows, y=side, x=side, c=bands)


def sine_cosine_positions(grid: int, width: int) -> Float[np.ndarray, "tokens width"]:
    """Fixed 2-D sine-cosine table, row-major; the first half of the channels encodes the column, the last the row."""
    omega = 10000.0 ** (-np.arange(width // 4) / (width / 4))
    rows, columns = (axis.reshape(-1, 1) * omega for axis in np.indices((grid, grid)))
    return np.concatenate([np.sin(columns), np.cos(columns), np.sin(rows), np.cos(rows)], axis=1).astype(np.float32)


class PatchEmbed(nnx.Module):
    """4x4 patches to tokens: a dense layer over a patch's values (the published convolution), then LayerNorm."""

    def __init__(self, settings: ModelSettings, *, rngs: nnx.Rngs):
        values = settings.patch_size**2 * settings.bands
        self.proj = linear(values, settings.embed_dim, settings, bound=values**-0.5, rngs=rngs)
        self.norm = layer_norm(settings.embed_dim, settings, rngs=rngs)
        self.patch_size = settings.patch_size
        self.grid = settings.grids[0]

    @property
    def order(self) -> Int[np.ndarray, " tokens"]:
        """Row-major index of each token."""
        return z_order(self.grid)

    def __call__(self, images: Float[Array, "batch band height width"]) -> Float[Array, "batch tokens width"]:
        """Tokens in Z-order."""
        patches = image_to_vectors(images, self.patch_size)[:, self.order]
        return self.norm(dense(self.proj, patches))
