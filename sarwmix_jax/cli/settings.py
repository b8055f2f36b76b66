"""The command `sarwmix settings`.

    sarwmix settings
    sarwmix settings finetuning
    sarwmix settings study

Name, type, default and meaning of every setting, as `--config.GROUP.NAME=VALUE` changes it.
"""

import argparse


def define(parser: argparse.ArgumentParser) -> None:
    """Add the flags of the command."""
    tasks = ("pretraining", "finetuning", "study")
    parser.add_argument(
        "task",
        nargs="?",
        choices=tasks,
        metavar="TASK",
        help="pretraining, finetuning or study; by default the first two",
    )


def run(options: argparse.Namespace) -> None:
    """Print the table."""
    from sarwmix_jax.settings.listing import settings_table

    print(settings_table(options.task))
