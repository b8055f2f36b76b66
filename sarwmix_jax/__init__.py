"""SAR-W-MixMAE in JAX: masked pretraining on Sentinel-1 backscatter."""

from pathlib import Path
from typing import TYPE_CHECKING

from sarwmix_jax.version import __version__

if TYPE_CHECKING:
    from sarwmix_jax.inference.model import LoadedModel

__all__ = ["__version__", "load"]


def load(path: str | Path, statistics: str | None = None, step: int | None = None) -> "LoadedModel":
    """A model from a checkpoint, converted or of a run; see `sarwmix_jax.inference.model.load`."""
    from sarwmix_jax.inference import model  # JAX takes a second to import; the package's other users need not wait

    return model.load(path, statistics, step)
