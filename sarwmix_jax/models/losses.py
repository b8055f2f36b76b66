"""The weighted reconstruction loss."""

import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from sarwmix_jax.models.patches import image_to_vectors

Vectors = Float[Array, "batch cells values"]
Valid = Bool[Array, "batch 1 height width"]


def target_vectors(
    images: Float[Array, "batch band height width"], *, norm_pix: bool, valid: Valid | None = None
) -> Vectors:
    """What the decoder predicts: a cell's values, standardised by their own mean and deviation if `norm_pix`."""
    vectors = image_to_vectors(images)
    if not norm_pix:
        return vectors
    mean, deviation = cell_statistics(images, valid=valid)
    return (vectors - mean) / deviation


def cell_statistics(
    images: Float[Array, "batch band height width"], *, valid: Valid | None = None
) -> tuple[Float[Array, "batch cells 1"], Float[Array, "batch cells 1"]]:
    """Mean and deviation per cell over all its valid values: unbiased variance, 1e-6 inside the root."""
    vectors = image_to_vectors(images)
    used = jnp.ones_like(vectors) if valid is None else valid_vectors(valid, images)
    count = used.sum(axis=-1, keepdims=True)
    mean = (vectors * used).sum(axis=-1, keepdims=True) / jnp.maximum(count, 1)
    variance = ((vectors - mean) ** 2 * used).sum(axis=-1, keepdims=True) / jnp.maximum(count - 1, 1)
    return mean, jnp.sqrt(variance + 1e-6)


def valid_vectors(valid: Valid, images: Float[Array, "batch band height width"]) -> Vectors:
    """1 for the values of valid pixels, 0 for the others, as cell vectors."""
    return image_to_vectors(jnp.broadcast_to(valid, images.shape).astype(jnp.float32))


def weighted_errors(
    reconstruction: Vectors, target: Vectors, weights: Float[Array, "batch band height width"]
) -> Vectors:
    """Weighted squared error of every value, in float32."""
    return image_to_vectors(weights) * (reconstruction.astype(jnp.float32) - target) ** 2


def loss_per_band(errors: Vectors, bands: int, used: Vectors | None = None) -> Float[Array, " band"]:
    """Mean error of each band over images, cells and pixels, or over the valid ones only."""
    by_band = errors.reshape(-1, bands)
    if used is None:
        return by_band.mean(axis=0)
    return (by_band * used.reshape(-1, bands)).sum(axis=0) / jnp.maximum(used.reshape(-1, bands).sum(axis=0), 1)
