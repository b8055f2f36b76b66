"""Flags that several commands share: one name, one meaning."""

import argparse
from pathlib import Path
from typing import Any

from sarwmix_jax.cluster.rules import JOIN_SECONDS, SILENT_SECONDS

STUCK_SECONDS = 1800
"""Time without progress after which a run ends itself, unless a flag states another."""


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


def numbers(text: str) -> tuple[int, ...]:
    """Whole numbers from 0, separated by commas.

    Raises:
        argparse.ArgumentTypeError: The text is not such numbers.
    """
    if not all(part.isdecimal() for part in names(text)):
        raise argparse.ArgumentTypeError(f"{text!r} is not a list of whole numbers such as 0,1")
    return tuple(map(int, names(text)))


OF_A_JOB = ("--coordinator", "--processes", "--process", "--devices", "--join-seconds", "--silent-seconds")
"""Flags of the commands that several processes can do together."""

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
    "--coordinator": {"metavar": "HOST:PORT", "help": "of several processes: the address of process 0"},
    "--processes": {"type": positive, "metavar": "N", "help": "how many processes do the work together"},
    "--process": {"type": int, "metavar": "I", "help": "the number of this one, from 0"},
    "--devices": {"type": numbers, "metavar": "I,I", "help": "numbers of the GPUs of this process"},
    "--join-seconds": {
        "type": positive,
        "metavar": "S",
        "help": f"how long to wait for the other processes; if not given, {JOIN_SECONDS}",
    },
    "--silent-seconds": {
        "type": positive,
        "metavar": "S",
        "help": f"how long a process may not answer before the others end; if not given, {SILENT_SECONDS}",
    },
    "--stuck-seconds": {
        "type": positive,
        "metavar": "S",
        "help": "print the stacks of all threads and end, with exit code 76, when nothing has advanced for so long; "
        f"if not given, {STUCK_SECONDS}",
    },
    "--compiled": {
        "metavar": "FOLDER",
        "help": "folder of compiled programs, kept between starts, or off; if not given, in the user's cache",
    },
}
"""Arguments of `add_argument` for a flag of this name; a command may replace some of them."""
