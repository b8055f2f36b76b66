"""Measures training and inference, and compares with PyTorch: programs take turns in one run.

    python -m benchmarks --device=gpu --out=DIR

Runs from the root of a clone. Lists are separated by spaces; an empty list of peers or variants means none.
"""

import sys
from pathlib import Path
from typing import Any

from benchmarks.programs import DEFAULTS, PEERS, TASKS, make_plan
from benchmarks.report import MARKDOWN, Results
from benchmarks.runner import Bench
from sarwmix_jax.cli.main import Parser, guarded
from sarwmix_jax.facts.sizes import SIZES
from sarwmix_jax.huge_pages import ask_for_huge_pages

FLAGS: dict[str, dict[str, Any]] = {
    "device": {"choices": tuple(DEFAULTS), "required": True},
    "out": {"type": Path, "required": True, "help": "folder for bench.json and bench.md"},
    "tasks": {"nargs": "+", "choices": TASKS, "help": "pretrain on a CPU; on a GPU all"},
    "sizes": {"nargs": "+", "choices": (*SIZES, "tiny"), "help": "base on a CPU; on a GPU the published three"},
    "batches": {"nargs": "+", "type": int, "help": "images per step: 8 on a CPU; on a GPU 256 (finetuning 128)"},
    "dtype": {"choices": ("float32", "bfloat16"), "help": "float32 on a CPU, bfloat16 on a GPU"},
    "peers": {"nargs": "*", "choices": tuple(PEERS), "help": "PyTorch models; eager on a CPU, on a GPU all"},
    "variants": {
        "nargs": "*",
        "help": "names, or NAME:field=value,field=value for settings of the model (xla=FLAG adds to XLA_FLAGS); "
        "plain on a CPU, on a GPU all that have names",
    },
    "fed": {"action": "store_true", "help": "also fed by the input pipeline, and from records in device memory"},
    "threads": {"type": int, "default": 4, "help": "reading threads of the pipeline"},
    "workers": {"type": int, "default": 0, "help": "reading processes of the pipeline"},
    "records": {"type": int, "default": 2048, "help": "records to write for the pipeline"},
    "rounds": {"type": int, "default": 5, "help": "rounds that programs take in turn"},
    "round-seconds": {"type": float, "default": 1.5, "help": "length of a round"},
    "budget": {"type": float, "default": float("inf"), "help": "minutes after which nothing new is started"},
    "profile": {"action": "store_true", "help": "also write a profiler's trace of the first program to OUT/trace"},
}


def main(arguments: list[str]) -> int:
    """Measure; returns the exit code."""
    return guarded(lambda: measure(arguments))


def measure(arguments: list[str]) -> None:
    """Measure and print the table."""
    parser = Parser(prog="python -m benchmarks", description=__doc__)
    for name, about in FLAGS.items():
        parser.add_argument(f"--{name}", **about)
    options = parser.parse_args(arguments)
    plan = make_plan(options)
    Bench(options, Results(options.out, arguments, plan)).run(plan)
    print((options.out / MARKDOWN).read_text())


if __name__ == "__main__":
    ask_for_huge_pages()
    sys.exit(main(sys.argv[1:]))
