"""SAR-W-MixMAE in JAX: masked pretraining on Sentinel-1 backscatter.

In Python, `sarwmix_jax.load(FOLDER)` gives a model; everything else is the command `sarwmix`.
"""

from pathlib import Path
from typing import TYPE_CHECKING

from sarwmix_jax.errors import UserError
from sarwmix_jax.version import __version__

if TYPE_CHECKING:
    from sarwmix_jax.inference.model import LoadedModel

__all__ = ["UserError", "__version__", "load"]


def load(path: str | Path, statistics: str | None = None, step: int | None = None) -> "LoadedModel":
    """Load a model from a checkpoint, converted or of a run.

    Args:
        path: A folder that `sarwmix convert` wrote, a work directory of `sarwmix pretrain` or `sarwmix finetune`, or
            one checkpoint in it. A `.pth` file has to be converted first.
        statistics: Means and standard deviations in dB that standardise the input: "bigearthnet_v1" or
            "bigearthnet_v2". By default the checkpoint's own.
        step: Step of the checkpoint in the folder; by default the newest.

    Returns:
        A model; `print` it to see its input and results. Images are NumPy arrays, or anything that NumPy converts to
        one, of shape (batch, 2, height, width): VH, then VV, backscatter in dB, in any number, 128 x 128 px for the
        published sizes. They are standardised inside; results are NumPy arrays of float32.

        - `encode(images_db)`: pooled features, (batch, 8 * embed_dim), for every kind of checkpoint.
        - `encode_pyramid(images_db)`: four feature maps, (batch, rows, columns, width), for every kind: 32, 16, 8 and 4
          rows at 128 px, widths 1, 2, 4 and 8 times embed_dim.
        - `classify(images_db)`: logits, (batch, classes), for classifiers.
        - `flood(before_db, after_db)`: logits, (batch, 2), for flood checkpoints; images of at least one tile.
        - `reconstruct(images_db)`: for pretraining checkpoints, `image_db` and `prediction`, (batch, 2, height, width),
          and the `mask` per cell of 32 px.

        With `resize=True` the first three accept images of another size.

    Raises:
        UserError: There is no checkpoint, it does not fit this version, or the statistics are unknown. The methods
            raise it for a wrong shape, linear power, standardised values, swapped bands and NaN.

    Example:
        >>> import numpy as np
        >>> import sarwmix_jax
        >>> model = sarwmix_jax.load("runs/benv2_finetuned")
        >>> vh_db, vv_db = np.full((128, 128), -19.0), np.full((128, 128), -12.0)
        >>> images_db = np.stack([vh_db, vv_db])[np.newaxis]
        >>> features, logits = model.encode(images_db), model.classify(images_db)
        >>> features.shape == (1, model.settings.features)  # (1, 1024) for base
        True
        >>> logits.shape
        (1, 19)
    """
    from sarwmix_jax.inference import model  # importing JAX takes a second; other uses of the package need not wait

    return model.load(path, statistics, step)


def __dir__() -> list[str]:
    return __all__
