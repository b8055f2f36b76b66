"""The command `sarwmix probe`: how good frozen features are."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from absl import flags

from sarwmix_jax.cli.main import needed


def define(values: flags.FlagValues, _: Sequence[str]) -> None:
    """Its flags."""
    flags.DEFINE_string("checkpoint", None, "run, checkpoint or converted folder; more may follow", flag_values=values)
    flags.DEFINE_string("records", None, "folder of a record set with labels", flag_values=values)
    flags.DEFINE_enum(
        "task", "multilabel", ["multilabel", "single_label"], "whether classes exclude each other", flag_values=values
    )
    flags.DEFINE_string("train", "train", "split to fit on", flag_values=values)
    flags.DEFINE_string("validation", "validation", "split to choose C and neighbours on", flag_values=values)
    flags.DEFINE_string("split", "test", "split to score", flag_values=values)
    flags.DEFINE_float("fraction", 1.0, "share of the training labels", flag_values=values)
    flags.DEFINE_integer("seed", 0, "which share", flag_values=values)
    flags.DEFINE_integer("replicates", 2000, "bootstrap replicates of intervals", lower_bound=1, flag_values=values)
    flags.DEFINE_string("out", None, "folder for the table", flag_values=values)


def run(values: flags.FlagValues, more: list[str]) -> int:
    """Probe and print the table."""
    checkpoints = [needed(values, "checkpoint"), *more]
    records, out = needed(values, "records"), Path(needed(values, "out"))
    from sarwmix_jax.evaluation.probe import probe
    from sarwmix_jax.training.logs import quiet_libraries
    from sarwmix_jax.training.resources import keep_compiled

    quiet_libraries()
    keep_compiled()
    given: dict[str, Any] = {name: values[name].value for name in values}
    splits = (given["train"], given["validation"], given["split"])
    options = {name: given[name] for name in ("task", "fraction", "seed", "replicates")}
    print(probe(checkpoints, records, out, splits=splits, **options))
    print(f"table: {out / 'probe.md'}")
    return 0
