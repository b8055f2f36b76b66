"""Pretraining on BigEarthNet v1 with the published recipe: base, large or huge.

    sarwmix pretrain --config=configs/pretrain_bigearthnet_v1.py:base --workdir=runs/base --config.data.records=FOLDER

FOLDER is what `data_prep/bigearthnet_v1.py` wrote. Hardware of the published runs: eight GPUs with 256 images each;
with fewer, set `--config.batch.micro_batch` to what one device holds, and gradients are accumulated.
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

    config.model.image_size = 128
    config.model.drop_path = 0.0
    config.model.dtype = "bfloat16"

    config.mask.ratio = 0.5
    config.mask.range_mask_ratio = 0.0
    config.weighting.mode = "per_channel"
    config.weighting.power_of = "backscatter"
    config.loss.norm_pix = True

    config.data.split = "train+validation"
    config.data.statistics = "bigearthnet_v1"
    config.data.quantity = "sigma0"
    config.augment.horizontal_flip = 0.5
    config.augment.vertical_flip = 0.5
    config.batch.global_batch = 2048

    config.optimizer.base_lr = 1.5e-4
    config.optimizer.min_lr = 0.0
    config.optimizer.beta1 = 0.9
    config.optimizer.beta2 = 0.95
    config.optimizer.eps = 1e-8
    config.optimizer.weight_decay = 0.05
    config.optimizer.warmup_epochs = 40.0
    config.optimizer.schedule_epochs = 1024.0
    config.optimizer.stop_after_epochs = 64.0

    config.checkpoint.every_epochs = 1.0
    config.checkpoint.keep = 2
    config.checkpoint.powers_of_two = True
    return config
