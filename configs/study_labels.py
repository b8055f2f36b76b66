"""What pretraining gives for few labels, beside random parameters and plain statistics, on synthetic scenes.

    sarwmix study --config=study_labels --workdir=runs/labels
    sarwmix study --config=study_labels:short --workdir=study_output/labels

Both initialisations get the same finetuning recipes, of which validation selects one for each label fraction.
The short form has one seed less, shorter runs and two recipes.

Hardware: two CPU cores.
Measured on two cores with other jobs on them: 81 minutes; scores in docs/evidence.md.
"""

from ml_collections import ConfigDict

from sarwmix_jax.errors import UserError
from sarwmix_jax.settings.study import study_config


def get_config(form: str = "full") -> ConfigDict:
    """Settings of one form: full or short."""
    if form not in {"full", "short"}:
        raise UserError(f"form {form!r} is unknown; use full or short")
    config = study_config()
    config.variants = ("pretrained",)
    config.pretraining = "demo validation.split="
    config.tries = (
        "all_at_once",
        "lower_rate optimizer.base_lr=8e-3",
        "head_first head.frozen_encoder=True optimizer.base_lr=0.32 then",
    )
    config.finetuning_steps = 400
    config.fractions = (0.01, 0.04, 0.16, 0.64)
    config.score = "ap_micro"
    config.minutes = ("scenes 0.2", "pretrain 4", "finetune 0.5", "probe 0.6", "baseline 0.2")
    if form == "short":
        config.pretraining = "demo validation.split= optimizer.schedule_epochs=8 optimizer.stop_after_epochs=8"
        config.tries = ("all_at_once", "head_first head.frozen_encoder=True optimizer.base_lr=0.32 then")
        config.finetuning_steps = 200
        config.seeds = (0, 1)
        config.minutes = ("scenes 0.2", "pretrain 2", "finetune 0.35", "probe 0.6", "baseline 0.2")
    return config
