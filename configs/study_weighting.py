"""What the weighting of the loss changes: features, and reconstruction of dark and bright areas, on synthetic scenes.

    sarwmix study --config=study_weighting --workdir=runs/weighting
    sarwmix study --config=study_weighting:short --workdir=study_output/weighting

`released` weighs by the standardised values, as the released code does. The short form has one seed less and shorter
runs.

Hardware: two CPU cores.
Measured on two cores: 28 minutes; scores in docs/evidence.md.
"""

from ml_collections import ConfigDict

from sarwmix_jax.errors import UserError
from sarwmix_jax.settings.study import study_config


def get_config(form: str = "full") -> ConfigDict:
    """Settings of one form: full or short."""
    if form not in {"full", "short"}:
        raise UserError(f"form {form!r} is unknown; use full or short")
    config = study_config()
    config.variants = (
        "per_channel weighting.mode=per_channel",
        "shared_power weighting.mode=shared_power",
        "shared_weight weighting.mode=shared_weight",
        "released weighting.mode=shared_power weighting.power_of=standardised",
        "off weighting.mode=off",
    )
    config.pretraining = "demo validation.split= optimizer.schedule_epochs=6 optimizer.stop_after_epochs=6"
    config.measured = ("probe", "baseline", "reconstruction")
    config.fractions = (0.04, 0.64)
    config.score = "ap_micro"
    config.minutes = ("scenes 0.2", "pretrain 1.6", "reconstruct 0.3", "probe 0.6", "baseline 0.2")
    if form == "short":
        config.pretraining = "demo validation.split= optimizer.schedule_epochs=3 optimizer.stop_after_epochs=3"
        config.seeds = (0, 1)
        config.minutes = ("scenes 0.2", "pretrain 0.9", "reconstruct 0.3", "probe 0.6", "baseline 0.2")
    return config
