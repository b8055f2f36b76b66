"""The command `sarwmix probe`.

    sarwmix probe --checkpoint runs/base runs/converted --records records/bigearthnet_v2 --fraction 0.05 --out probe

Baselines and intervals are those of `sarwmix evaluate`.
"""

import argparse


def define(parser: argparse.ArgumentParser) -> None:
    """Add the flags of the command."""
    parser.add_argument("--checkpoint")
    parser.add_argument("--records")
    tasks = ("multilabel", "single_label")
    parser.add_argument("--task", choices=tasks, default="multilabel", help="whether classes exclude each other")
    parser.add_argument("--fit", default="train")
    parser.add_argument(
        "--tune", metavar="SPLIT", default="validation", help="split on which C and the number of neighbours are chosen"
    )
    parser.add_argument("--split", default="test")
    parser.add_argument("--fraction", type=float, default=1.0, help="share of the training labels")
    parser.add_argument("--seed")
    parser.add_argument("--replicates")
    parser.add_argument("--out", required=True, metavar="FOLDER", help="folder for the table")


def run(options: argparse.Namespace) -> None:
    """Probe and print the table.

    Raises:
        UserError: A checkpoint, the records or a split cannot be used.
    """
    from sarwmix_jax.evaluation.probe import probe
    from sarwmix_jax.training.logs import quiet_libraries
    from sarwmix_jax.training.resources import keep_compiled

    quiet_libraries()
    keep_compiled()
    splits = (options.fit, options.tune, options.split)
    given = {name: vars(options)[name] for name in ("task", "fraction", "seed", "replicates")}
    print(probe(options.checkpoint, options.records, options.out, splits=splits, **given))
    print(f"table: {options.out / 'probe.md'}")
