"""The command `sarwmix evaluate`: scores of classifiers and flood models, with intervals and baselines."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from absl import flags

from sarwmix_jax.cli.main import needed


def define(values: flags.FlagValues, _: Sequence[str]) -> None:
    """Its flags."""
    flags.DEFINE_string("checkpoint", None, "run, checkpoint or converted folder; more may follow", flag_values=values)
    flags.DEFINE_string("records", None, "folder of a record set with labels, or with pairs", flag_values=values)
    flags.DEFINE_list("split", ["test"], "splits to score, separated by commas", flag_values=values)
    flags.DEFINE_string("fit", "train", "split on which the baselines are fitted", flag_values=values)
    flags.DEFINE_string(
        "calibrate", "validation", "split on which temperature and thresholds are fitted; none: no", flag_values=values
    )
    flags.DEFINE_boolean("tune_thresholds", False, "choose each class's threshold on that split", flag_values=values)
    flags.DEFINE_string(
        "best", None, "the best checkpoint of a run by this selection rule, such as weighted", flag_values=values
    )
    flags.DEFINE_enum(
        "patch_op", None, ["avg", "max"], "how flood tiles are pooled; by default as trained", flag_values=values
    )
    flags.DEFINE_integer("batch", 32, "samples of one device at a time", lower_bound=1, flag_values=values)
    flags.DEFINE_integer("replicates", 2000, "bootstrap replicates of intervals", lower_bound=1, flag_values=values)
    flags.DEFINE_string("out", None, "folder for tables and pictures", flag_values=values)


def run(values: flags.FlagValues, more: list[str]) -> int:
    """Evaluate and print the tables."""
    checkpoints = [needed(values, "checkpoint"), *more]
    records, out = needed(values, "records"), Path(needed(values, "out"))
    from sarwmix_jax.evaluation.evaluate import Request, evaluate
    from sarwmix_jax.training.logs import quiet_libraries
    from sarwmix_jax.training.resources import keep_compiled

    quiet_libraries()
    keep_compiled()
    given: dict[str, Any] = {name: values[name].value for name in values}
    request = Request(
        checkpoints=checkpoints,
        records=records,
        splits=given["split"],
        calibrate=None if given["calibrate"] == "none" else given["calibrate"],
        **{name: given[name] for name in ("fit", "tune_thresholds", "best", "patch_op", "batch", "replicates")},
    )
    for table in evaluate(request, out).values():
        print(table)
    print(f"tables and pictures: {out}")
    return 0
