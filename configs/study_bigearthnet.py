"""Label fractions on BigEarthNet as published, for a new pretraining run, random parameters and released weights.

    sarwmix study --config=study_bigearthnet:v2 --workdir=runs/study --config.records=records/bigearthnet_v2
    sarwmix study --config=study_bigearthnet:v1 --workdir=runs/study --config.records=records/bigearthnet_v1 \
        --config.checkpoints="released runs/benv1_pretrained"

`v1` is the data set of the publication, whose scores stand beside the result. Give micro-batches that a device can hold
in the recipes: --config.pretraining="pretrain_bigearthnet_v2:base batch.micro_batch=256", and likewise finetuning.
Without pretraining, from released weights alone: --config.variants="()" --config.checkpoints="released FOLDER".

Hardware: a GPU node; every step can be a job of its own.
Measured: not yet measured.
"""

from ml_collections import ConfigDict

from sarwmix_jax.errors import UserError
from sarwmix_jax.settings.study import study_config


def get_config(version: str = "v2") -> ConfigDict:
    """Settings for one version of the data set: v1 or v2."""
    if version not in {"v1", "v2"}:
        raise UserError(f"version {version!r} is unknown; use v1 or v2")
    config = study_config()
    config.pretraining = "pretrain_bigearthnet_v2:base"
    config.finetuning = "finetune_bigearthnet_v2:base"
    if version == "v1":
        config.pretraining = "pretrain_bigearthnet_v1:base"
        config.finetuning = "finetune_bigearthnet_v1:base"
    config.variants = ("per_channel",)
    config.best = "weighted"
    config.fractions = (0.125, 0.25, 0.5, 1.0)
    return config
