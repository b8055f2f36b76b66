r"""The command `sarwmix finetune`.

    sarwmix finetune --config=finetune_bigearthnet_v2:base --config.data.records=records/bigearthnet_v2 \
        --config.init_from=runs/base --workdir=runs/finetuned

Starts from a checkpoint (`--config.init_from`), or from scratch without one. The same command continues a run that
was stopped: after Ctrl-C (exit code 130) and after another signal (75) the run is saved.
"""

from sarwmix_jax.cli.pretrain import define, run

__all__ = ["define", "run"]
