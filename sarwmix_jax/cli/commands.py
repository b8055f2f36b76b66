"""All commands of `sarwmix`, and the text of `sarwmix --help`."""

import functools
import operator
from typing import NamedTuple

from sarwmix_jax.cli import checkpoints, prepare


class Command(NamedTuple):
    """One command: a file of `sarwmix_jax.cli` that has `define`, which adds flags, and `run`, which does the work.

    Attributes:
        module: Name of the file, which is imported when the command is called; its docstring, without the first line,
            is part of the command's `--help`.
        summary: One line for `sarwmix --help`.
    """

    module: str
    summary: str


DATA_SETS = {
    "bigearthnet-v2": Command("prepare.bigearthnet_v2", "Write the Sentinel-1 part of BigEarthNet v2 as records."),
    "bigearthnet-v1": Command(
        "prepare.bigearthnet_v1", "Write the Sentinel-1 part of BigEarthNet v1 as records, with the 19 classes."
    ),
    "sen12flood": Command("prepare.sen12flood", "Write SEN12-FLOOD as records with an index of pairs, or as .npy."),
    "geotiff": Command("prepare.geotiff", "Write any Sentinel-1 GeoTIFFs (GRD or RTC, calibrated) as records."),
    "synthetic": Command("prepare.synthetic", "Write synthetic dual-polarisation scenes as records."),
    "statistics": Command("prepare.statistics", "Measure mean, standard deviation and percentiles of a record set."),
}
"""Commands of `sarwmix prepare`."""

OF_CHECKPOINTS = {"verify": Command("checkpoints.verify", "Compare every array of checkpoints with its checksum.")}
"""Commands of `sarwmix checkpoints`."""

GROUPS = {
    "Train": {
        "pretrain": Command("pretrain", "Pretrain a model, or continue a run."),
        "finetune": Command("finetune", "Train a classifier or flood model, from a checkpoint or from scratch."),
        "dry-run": Command("dry_run", "Check settings, records and memory, and print the plan of a run."),
        "demo": Command("demo", "Pretrain a small model on synthetic scenes and draw what it learned."),
    },
    "Evaluate": {
        "evaluate": Command("evaluate", "Score classifiers and flood models, with intervals and baselines."),
        "probe": Command("probe", "Score frozen features by logistic regression and nearest neighbours."),
        "embed": Command("embed", "Write features as Parquet."),
        "study": Command("study", "Run a grid of pretraining and finetuning runs, and draw what they gave."),
        "reconstruct": Command("reconstruct", "Draw reconstructions of one or several checkpoints side by side."),
        "report": Command("report", "Tabulate and draw one or many runs from their logs."),
    },
    "Data": {
        "prepare": Command("prepare", "Write a data set as records, or measure records."),
        "inspect": Command("inspect", "Count, measure, check and draw a record set."),
    },
    "Checkpoints": {
        "convert": Command("convert", "Read and write PyTorch checkpoints with the published names."),
        "checkpoints": Command("checkpoints", "Verify checkpoints against their checksums."),
        "audit": Command("audit", "Repeat logged steps of a run from a checkpoint, and compare every bit."),
    },
    "Settings": {"settings": Command("settings", "List what --config.GROUP.NAME=VALUE can change.")},
}

COMMANDS = functools.reduce(operator.or_, GROUPS.values())

FAMILIES = {"prepare": ("data set", DATA_SETS), "checkpoints": ("command", OF_CHECKPOINTS)}
"""Commands that have commands of their own: what those are called, and which they are."""


def overview() -> str:
    """Text of `sarwmix --help`."""
    width = max(map(len, COMMANDS))
    lines = [
        "SAR-W-MixMAE in JAX: masked pretraining on Sentinel-1 backscatter.",
        "",
        "  sarwmix COMMAND [--flag=VALUE ...]",
    ]
    for group, commands in GROUPS.items():
        lines += ["", group, *(f"  {name:{width}}  {command.summary}" for name, command in commands.items())]
    lines += ["", "sarwmix COMMAND --help explains a command, with examples; sarwmix --version prints the version."]
    return "\n".join(lines)


def overview_of_family(family: str) -> str:
    """Text of `sarwmix prepare --help` and of the same for other families."""
    what, commands = FAMILIES[family]
    width = max(map(len, commands))
    details = {"prepare": prepare, "checkpoints": checkpoints}[family].__doc__ or ""
    lines = [COMMANDS[family].summary, *details.rstrip().splitlines()[1:]]
    lines += ["", *(f"  {name:{width}}  {command.summary}" for name, command in commands.items())]
    name = what.replace(" ", "").upper()
    return "\n".join([*lines, "", f"sarwmix {family} {name} --help explains its flags, with examples."])
