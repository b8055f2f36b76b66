"""Flags that several commands share: one name, one meaning."""

import argparse
from pathlib import Path
from typing import Any


def positive(text: str) -> int:
    """A whole number from 1.

    Raises:
        argparse.ArgumentTypeError: The text is not such a number.
    """
    if not text.strip().isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number from 1")
    return int(text)


def names(text: str) -> list[str]:
    """Names separated by commas."""
    return [name.strip() for name in text.split(",")]


SHARED: dict[str, dict[str, Any]] = {
    "--checkpoint": {
        "nargs": "+",
        "action": "extend",
        "required": True,
        "metavar": "PLACE",
        "help": "run, checkpoint or converted folder",
    },
    "--records": {"required": True, "metavar": "FOLDER", "help": "folder of a record set"},
    "--split": {"help": "part of the records, such as test, train+validation or 'train[:10%%]'"},
    "--fit": {"metavar": "SPLIT", "help": "split on which heads and baselines are fitted"},
    "--batch": {"type": positive, "default": 32, "help": "samples per device at a time"},
    "--replicates": {"type": positive, "default": 2000, "help": "bootstrap replicates of intervals"},
    "--samples": {"type": positive, "help": "images to draw"},
    "--seed": {"type": int, "default": 0, "help": "the same seed gives the same result"},
    "--workers": {"type": int, "default": 1, "help": "processes that share the work"},
    "--dry-run": {"action": "store_true", "help": "print what would be done, without doing it"},
    "--out": {"type": Path},
    "--config": {
        "metavar": "PLACE",
        "help": "settings: the name of a recipe such as demo or pretrain_bigearthnet_v2:base, or an own Python file",
    },
    "--config.GROUP.NAME": {
        "metavar": "VALUE",
        "help": "change one setting, or unset it with an empty value; sarwmix settings lists all with their meaning",
    },
    "--workdir": {"type": Path, "metavar": "FOLDER", "help": "folder for checkpoints, logs and pictures"},
    "--compiled": {
        "metavar": "FOLDER",
        "help": "folder of compiled programs, kept between starts, or off; if not given, in the user's cache",
    },
}
"""Arguments of `add_argument` for a flag of this name; a command may replace some of them."""
