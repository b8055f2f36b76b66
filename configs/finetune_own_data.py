"""Finetuning on your own labelled records or pairs: start here and change what you need.

    sarwmix dry-run --config=finetune_own_data --config.data.records=FOLDER
    sarwmix finetune --config=finetune_own_data --config.data.records=FOLDER \
        --config.init_from=CHECKPOINT --workdir=runs/own
    sarwmix evaluate --checkpoint=runs/own --records=FOLDER --split=test --out=evaluation

The model is the base one, as the released checkpoints are; give `--config.model...` where yours has another size.
Classes exclude each other: `--config.task=single_label`; pairs of dates: `--config.task=flood`.
Few labels: `--config.head.frozen_encoder`, which trains the head alone. Rare classes:
`--config.head.class_weights=balanced`.
No validation split: `--config.validation.split=held_out` takes a tenth of the acquisitions out of training.

Hardware: sized for one GPU; on a CPU set `--config.batch.global_batch=16 --config.model.dtype=float32`.
Measured: not yet measured.
"""

from ml_collections import ConfigDict

from sarwmix_jax.settings.config import finetuning_config


def get_config() -> ConfigDict:
    """Settings for some thousand labelled samples."""
    config = finetuning_config("base")
    config.model.dtype = "bfloat16"
    config.batch.global_batch = 128
    config.optimizer.schedule_epochs = 30.0
    config.optimizer.stop_after_epochs = 30.0
    config.validation.patience = 8
    config.checkpoint.every_epochs = 5.0
    return config
