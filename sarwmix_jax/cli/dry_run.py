"""The command `sarwmix dry-run`.

    sarwmix dry-run --config=pretrain_bigearthnet_v2:base --config.data.records=records/bigearthnet_v2

Takes the flags of `sarwmix pretrain` and `sarwmix finetune` and trains nothing.
"""

import argparse

from sarwmix_jax.cli.pretrain import checked, define, verify_records

__all__ = ["define", "run"]


def run(options: argparse.Namespace) -> None:
    """Print the plan.

    Raises:
        UserError: A setting is wrong, the records cannot be used, or the disk is too small.
    """
    from sarwmix_jax.settings.recipes import read_config

    settings = checked(read_config(options.config), options.compiled)
    if options.verify:
        verify_records(settings.data.records)
    from sarwmix_jax.training.dry_run import plan_lines
    from sarwmix_jax.training.resources import check_disk, tree_bytes
    from sarwmix_jax.training.run import abstract_state, set_up

    planned = set_up(settings)
    for line in plan_lines(planned):  # a plan for other devices is of use although the step does not fit here
        print(line, flush=True)
    if options.workdir is not None:
        check_disk(tree_bytes(abstract_state(planned)), options.workdir)
