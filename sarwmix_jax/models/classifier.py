"""The encoder with a linear head: multi-label classification."""

import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

from sarwmix_jax.models.encoder import Encoder
from sarwmix_jax.models.layers import Key, dense, linear
from sarwmix_jax.settings.model import ModelSettings

Images = Float[Array, "batch band height width"]


class Classifier(nnx.Module):
    """Encoder without masks, mean over tokens after the final LayerNorm, linear head. Images are standardised."""

    def __init__(self, settings: ModelSettings, classes: int, *, rngs: nnx.Rngs):
        self.encoder = Encoder(settings, rngs=rngs)
        self.head = linear(settings.features, classes, settings, rngs=rngs)

    def features(self, images: Images, *, key: Key | None = None) -> Float[Array, "batch features"]:
        """Mean of the encoder's tokens, float32."""
        return self.encoder(images, key=key).astype(jnp.float32).mean(axis=1)

    def __call__(self, images: Images, *, key: Key | None = None) -> Float[Array, "batch classes"]:
        """Logits, float32."""
        return dense(self.head, self.features(images, key=key)).astype(jnp.float32)
