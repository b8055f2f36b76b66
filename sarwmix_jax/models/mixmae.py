"""The masked autoencoder: mixing, encoder, decoder."""

import functools
from typing import Any

from flax import nnx
from jaxtyping import Array, Float

from sarwmix_jax.models.decoder import Decoder
from sarwmix_jax.models.encoder import Encoder
from sarwmix_jax.models.layers import Key, numbered
from sarwmix_jax.models.mixing import Mask, mix, swap_partners, unmix
from sarwmix_jax.models.settings import ModelSettings
from sarwmix_jax.models.state import split_model

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
        """Features per cell, row by row; with a mask, of the batch mixed with its reverse."""
        inputs = images if mask is None else mix(images, mask)
        return self.encoder(inputs, mask, masked_count=masked_count, key=numbered(key, 0))

    def sequences(
        self, images: Images, mask: Mask, *, masked_count: int | None = None, key: Key | None = None
    ) -> Float[Array, "2 batch cells values"]:
        """Both decoded sequences whole: the second belongs to the reversed batch."""
        encoded = self.encode(images, mask, masked_count=masked_count, key=key)
        return self.decoder.full(encoded, mask, key=numbered(key, 1))

    def reconstruct(
        self, images: Images, mask: Mask, *, masked_count: int | None = None, key: Key | None = None
    ) -> Float[Array, "batch cells values"]:
        """Every cell of every image, each predicted from a mix that did not hold it.

        Args:
            images: Standardised images of one mix group.
            mask: 0/1 per cell, row-major.
            masked_count: Its number of ones where that is fixed; allows the gathered-groups path.
            key: Randomness of dropout and drop path; without it there is none.
        """
        if not self.shortcut:
            return unmix(self.sequences(images, mask, masked_count=masked_count, key=key), mask)
        encoded = self.encode(images, mask, masked_count=masked_count, key=key)
        return swap_partners(self.decoder.half(encoded, mask, key=numbered(key, 1)), mask)


@functools.cache
def abstract_model(settings: ModelSettings) -> tuple[nnx.GraphDef, Any, Any]:
    """Structure, and shapes of trained parameters and fixed tables; seconds for the large sizes, so done once."""
    return split_model(nnx.eval_shape(lambda: MixMAE(settings, rngs=nnx.Rngs(0))))
