"""Finetuning on pairs of dates of SEN12-FLOOD, flooded or not: recipe `new` or `published`.

    sarwmix finetune --config=finetune_sen12flood:new --config.data.records=FOLDER \
        --config.init_from=CHECKPOINT --workdir=runs/flood
    sarwmix evaluate --checkpoint=runs/flood --records=FOLDER --split=test --out=evaluation

FOLDER is what `sarwmix prepare sen12flood` wrote; CHECKPOINT a pretraining run or a converted file (published:
BigEarthNet v1, base).
`new` cuts true VH/VV tiles, flips both dates in the same way, and selects on a tenth of the training sequences.
`published` cuts tiles as the released code did, has no flips, and selects on the test split, so that its test scores
are optimistic.

Hardware: one GPU. A pair of 512 px is 32 tiles, so four pairs are computed at a time and blocks are recomputed in the
backward pass; `dry-run` estimates the memory. The published batch is not known; it is taken from BigEarthNet.
Published scores are not known.
Measured: not yet measured.
"""

from ml_collections import ConfigDict

from sarwmix_jax.errors import UserError
from sarwmix_jax.settings.config import finetuning_config


def get_config(recipe: str = "new") -> ConfigDict:
    """Settings of one recipe: new or published."""
    if recipe not in {"new", "published"}:
        raise UserError(f"recipe {recipe!r} is unknown; use new or published")
    config = finetuning_config("base")
    config.task = "flood"
    config.model.dtype = "bfloat16"
    config.model.recompute = "block"
    config.data.statistics = "bigearthnet_v1"
    config.batch.micro_batch = 4
    config.checkpoint.every_epochs = 5.0
    config.validation.split = "held_out"
    if recipe == "published":
        config.flood.tiling = "released"
        config.validation.split = "test"
        config.augment.horizontal_flip = 0.0
        config.augment.vertical_flip = 0.0
    return config
