"""SAR-W-MixMAE in JAX: masked pretraining on Sentinel-1 backscatter."""

from sarwmix_jax.version import __version__

__all__ = ["__version__"]
