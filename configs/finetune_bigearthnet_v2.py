"""Finetuning on BigEarthNet v2, 19 classes, with the published recipe: base, large or huge.

    sarwmix finetune --config=finetune_bigearthnet_v2:base --config.data.records=FOLDER \
        --config.init_from=CHECKPOINT --workdir=runs/finetuned
    sarwmix evaluate --checkpoint=runs/finetuned --records=FOLDER --split=test --out=evaluation

FOLDER is what `sarwmix prepare bigearthnet-v2` wrote; CHECKPOINT a pretraining run or a converted file. Leave
`init_from` out for random initialisation; `--config.data.label_fraction=0.125` takes an eighth of the labels.
What is not set here (layer decay, drop path, optimiser, 50 epochs) is the published recipe; `sarwmix settings
finetuning` lists it.

Hardware: the published runs had eight GPUs with 128 images each; with fewer, set `--config.batch.micro_batch=` to what
one device holds, and gradients are accumulated.
Published figures of this system on BigEarthNet v2 are not known.
Measured: not yet measured.
"""

from ml_collections import ConfigDict

from sarwmix_jax.settings.config import finetuning_config


def get_config(size: str = "base") -> ConfigDict:
    """Settings of one model size: base, large or huge."""
    config = finetuning_config(size)
    config.model.dtype = "bfloat16"
    config.data.quantity = "sigma0"
    config.checkpoint.every_epochs = 5.0
    return config
