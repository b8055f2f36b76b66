"""A small classifier on synthetic scenes with few labels, from the demo's pretrained encoder or from scratch.

    sarwmix finetune --config=finetune_demo --config.data.records=demo_output/records \
        --config.data.split=train[:128] --config.init_from=demo_output --workdir=runs/finetuned

`demo_output` is what `sarwmix demo` wrote; leave `init_from` out to start from scratch. The demo itself does both and
prints what they give.

Hardware: two CPU cores.
Measured on two cores, in the demo (seed 0), 256 test scenes: micro AP 0.668 (95 % interval 0.642 to 0.694) from
pretraining with the head trained alone first, 0.637 (0.607 to 0.666) from scratch, gain 0.031 (0.011 to 0.052); 0.692
by a linear model on eight plain statistics, as the classes differ by level above all.
"""

from ml_collections import ConfigDict

from sarwmix_jax.settings.config import finetuning_config


def get_config() -> ConfigDict:
    """The model of the pretraining demo, with a head."""
    config = finetuning_config()
    config.model.embed_dim = 8
    config.model.depths = (1, 1, 1, 1)
    config.model.num_heads = (1, 1, 1, 2)
    config.model.windows = (4, 4, 8, 4)
    config.model.mlp_ratio = 2
    config.model.decoder_dim = 192
    config.model.decoder_depth = 2
    config.model.decoder_heads = 4
    config.model.scan = False
    config.data.statistics = "records"
    config.batch.global_batch = 16
    config.optimizer.base_lr = 32e-3
    # no handicap for the layers of an encoder from scratch
    config.optimizer.layer_decay = 1.0
    config.optimizer.warmup_epochs = 1.0
    config.optimizer.schedule_epochs = 40.0
    config.optimizer.stop_after_epochs = 40.0
    config.checkpoint.every_epochs = 40.0
    config.checkpoint.powers_of_two = False
    return config
