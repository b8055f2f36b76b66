"""Pretraining on BigEarthNet v1 with the published recipe: base, large or huge.

    sarwmix pretrain --config=pretrain_bigearthnet_v1:base --workdir=runs/base --config.data.records=FOLDER

FOLDER is what `sarwmix prepare bigearthnet-v1` wrote. What is not set here (mask, weights, optimiser, 64 of 1024
epochs) is the published recipe; `sarwmix settings pretraining` lists it.

Hardware: the published runs had eight GPUs with 256 images each; with fewer, set `--config.batch.micro_batch=` to what
one device holds, and gradients are accumulated.
Measured: not yet measured.

Differences from the published runs, on purpose:
- bfloat16 instead of float16 with loss scaling;
- weights from true power (`weighting.power_of = "backscatter"`: paper and README). The released code took them from the
  standardised values; `--config.weighting.power_of=standardised` does the same.
"""

from ml_collections import ConfigDict

from sarwmix_jax.settings.config import pretraining_config


def get_config(size: str = "base") -> ConfigDict:
    """Settings of one model size: base, large or huge."""
    config = pretraining_config(size)
    config.model.dtype = "bfloat16"
    config.data.split = "train+validation"
    config.data.statistics = "bigearthnet_v1"
    config.data.quantity = "sigma0"
    return config
