"""The command `sarwmix reconstruct`: pictures and figures of pretraining checkpoints."""

from collections.abc import Sequence
from pathlib import Path

from absl import flags

from sarwmix_jax.cli.main import needed


def define(values: flags.FlagValues, _: Sequence[str]) -> None:
    """Its flags."""
    flags.DEFINE_string("checkpoint", None, "work directory or checkpoint; more may follow", flag_values=values)
    flags.DEFINE_string("records", None, "folder of a record set", flag_values=values)
    flags.DEFINE_string("split", "validation", "held-out records", flag_values=values)
    flags.DEFINE_string("fit", None, "split to fit the best constant prediction on", flag_values=values)
    flags.DEFINE_integer("samples", 4, "images to draw", flag_values=values)
    flags.DEFINE_string("out", None, "folder for the pictures", flag_values=values)


def run(values: flags.FlagValues, more: list[str]) -> int:
    """Draw and print."""
    checkpoints = [needed(values, "checkpoint"), *more]
    records, out = needed(values, "records"), Path(needed(values, "out"))
    from sarwmix_jax.evaluation.reconstruction import reconstruct
    from sarwmix_jax.training.logs import quiet_libraries

    quiet_libraries()
    split, samples, fit = (values[name].value for name in ("split", "samples", "fit"))
    figures = reconstruct(checkpoints, records, str(split), out, samples=int(samples or 0), fit=fit)
    for name, result in figures.items():
        correlations = ", ".join(f"{band} {value:.3f}" for band, value in result["correlation"].items())
        margin = f", {result['margin']:.1%} below the best constant prediction" if "margin" in result else ""
        print(f"{name}: held-out loss {result['held_out_loss']:.4f}{margin}; correlation {correlations}")
    print(f"pictures: {out}")
    return 0
