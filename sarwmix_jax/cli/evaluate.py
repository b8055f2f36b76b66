"""The command `sarwmix evaluate`.

    sarwmix evaluate --checkpoint runs/finetuned --records records/bigearthnet_v2 --split test --out evaluation
    sarwmix evaluate --checkpoint runs/a runs/b --best weighted --records records/bigearthnet_v2 --out evaluation

Several checkpoints of one task are compared on the same samples, with baselines. Several processes share the
predictions where mpirun or srun starts them.
"""

import argparse

from sarwmix_jax.cli.flags import OF_A_JOB, names


def define(parser: argparse.ArgumentParser) -> None:
    """Add the flags of the command."""
    parser.add_argument("--checkpoint")
    parser.add_argument("--records")
    parser.add_argument("--split", type=names, default="test", help="splits to score, separated by commas")
    parser.add_argument("--fit", default="train")
    parser.add_argument(
        "--calibrate",
        default="validation",
        metavar="SPLIT",
        help="split on which temperature and thresholds are fitted; none: no calibration",
    )
    parser.add_argument("--tune-thresholds", action="store_true", help="choose each class's threshold on that split")
    parser.add_argument(
        "--best", metavar="RULE", help="the best checkpoint of a run by this selection rule, such as weighted"
    )
    parser.add_argument("--patch-op", choices=("avg", "max"), help="how flood tiles are pooled; by default as trained")
    parser.add_argument("--batch")
    parser.add_argument("--replicates")
    parser.add_argument("--out", required=True, metavar="FOLDER", help="folder for tables and pictures")
    for name in OF_A_JOB:
        parser.add_argument(name)


def run(options: argparse.Namespace) -> None:
    """Evaluate and print the tables.

    Raises:
        UserError: A checkpoint, the records or a split cannot be used.
    """
    from sarwmix_jax.cluster.joining import written_once
    from sarwmix_jax.evaluation.evaluate import EvaluationRequest, evaluate
    from sarwmix_jax.training.logs import quiet_libraries
    from sarwmix_jax.training.resources import keep_compiled

    quiet_libraries()
    keep_compiled()
    given = ("records", "fit", "tune_thresholds", "best", "patch_op", "batch", "replicates")
    request = EvaluationRequest(
        checkpoints=options.checkpoint,
        splits=options.split,
        calibrate=None if options.calibrate == "none" else options.calibrate,
        **{name: vars(options)[name] for name in given},
    )
    with written_once(options.out) as out:
        for table in evaluate(request, out).values():
            print(table)
    print(f"tables and pictures: {options.out}")
