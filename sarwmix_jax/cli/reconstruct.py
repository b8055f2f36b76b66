"""The command `sarwmix reconstruct`.

    sarwmix reconstruct --checkpoint runs/base --records records/bigearthnet_v2 --out pictures --fit train

Takes pretraining checkpoints; several are drawn side by side.
"""

import argparse


def define(parser: argparse.ArgumentParser) -> None:
    """Add the flags of the command."""
    parser.add_argument("--checkpoint")
    parser.add_argument("--records")
    parser.add_argument("--split", default="validation")
    parser.add_argument("--fit", help="split on which the best constant prediction is fitted, for comparison")
    parser.add_argument("--samples", default=4)
    parser.add_argument("--out", required=True, metavar="FOLDER", help="folder for the pictures")


def run(options: argparse.Namespace) -> None:
    """Draw and print.

    Raises:
        UserError: A checkpoint, the records or a split cannot be used.
    """
    from sarwmix_jax.evaluation.reconstruction import cells_lines, reconstruct
    from sarwmix_jax.training.logs import quiet_libraries

    quiet_libraries()
    figures = reconstruct(
        options.checkpoint, options.records, options.split, options.out, samples=options.samples, fit=options.fit
    )
    for name, result in figures.items():
        correlations = ", ".join(f"{band} {value:.3f}" for band, value in result["correlation"].items())
        margin = f", {result['margin']:.1%} below the best constant prediction" if "margin" in result else ""
        print(f"{name}: held-out loss {result['held_out_loss']:.4f}{margin}; correlation {correlations}")
        print("\n".join(cells_lines(result)))
    print(f"pictures: {options.out}")
