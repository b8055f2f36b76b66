"""A small model on synthetic scenes, some minutes on a CPU.

    sarwmix demo --workdir=demo_output

Hardware: two CPU cores.
Measured on two cores: 2 to 2.5 minutes. Loss on 128 held-out scenes 1.679, best constant prediction 2.240 (25.0 %
below it), correlation VH 0.503, VV 0.491. In this time the model learns the brightness of hidden cells from their
surroundings, not yet the pattern inside them.
"""

from ml_collections import ConfigDict

from sarwmix_jax.settings.config import pretraining_config


def get_config() -> ConfigDict:
    """Settings of the demo; the command itself writes the records and names them."""
    config = pretraining_config()
    config.model.embed_dim = 32
    config.model.depths = (1, 1, 2, 1)
    config.model.num_heads = (1, 2, 4, 8)
    config.model.decoder_dim = 128
    config.model.decoder_depth = 2
    config.model.decoder_heads = 4
    # raw backscatter as target: what is drawn needs nothing from the truth
    config.loss.norm_pix = False
    config.validation.split = "validation"
    config.data.statistics = "records"
    config.batch.global_batch = 32
    config.optimizer.base_lr = 5e-3
    config.optimizer.warmup_epochs = 1.0
    config.optimizer.schedule_epochs = 10.0
    config.optimizer.stop_after_epochs = 10.0
    config.checkpoint.every_epochs = 5.0
    config.checkpoint.powers_of_two = False
    config.log.every_steps = 10
    return config
