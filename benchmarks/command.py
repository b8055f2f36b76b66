"""The command `python -m benchmarks`: measures training and inference, and compares with PyTorch."""

import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from absl import flags

from sarwmix_jax.errors import UserError


def define_bench(values: flags.FlagValues, _: Sequence[str]) -> None:
    """Flags of `python -m benchmarks`."""
    text = {
        "device": "cpu or gpu",
        "out": "folder for bench.json and bench.md",
        "dtype": "float32 or bfloat16; by default float32 on a CPU, bfloat16 on a GPU",
    }
    for name, about in text.items():
        flags.DEFINE_string(name, None, about, flag_values=values)
    several = {
        "tasks": "of pretrain, finetune, inference; on a CPU pretrain alone by default, on a GPU all",
        "sizes": "of base, large, huge, tiny; on a CPU base alone by default, on a GPU the published three",
        "batches": "images a step; by default 8 on a CPU; 256 (finetuning 128) and a sweep on a GPU",
        "peers": "of eager, strong; or none; on a CPU eager by default, on a GPU both",
    }
    for name, about in several.items():
        flags.DEFINE_list(name, None, about, flag_values=values)
    flags.DEFINE_multi_string(
        "variants",
        None,
        "NAME:field=value,field=value changes settings of the model (xla=FLAG adds to XLA_FLAGS), NAME alone is a "
        "predefined one; may be repeated; none: no variants. By default all predefined on a GPU",
        flag_values=values,
    )
    flags.DEFINE_boolean("fed", False, "also fed by the real input pipeline", flag_values=values)
    flags.DEFINE_integer("threads", 4, "reading threads of the pipeline", lower_bound=1, flag_values=values)
    flags.DEFINE_integer("workers", 0, "reading processes of the pipeline", lower_bound=0, flag_values=values)
    flags.DEFINE_integer("records", 4096, "records to write for the pipeline", lower_bound=1, flag_values=values)
    flags.DEFINE_integer("rounds", 5, "rounds that contenders take in turn", lower_bound=1, flag_values=values)
    flags.DEFINE_float("round_seconds", 1.5, "length of a round", lower_bound=0.0, flag_values=values)
    flags.DEFINE_float("budget", None, "minutes after which nothing new is begun", lower_bound=0.0, flag_values=values)
    flags.DEFINE_boolean("profile", False, "also say where a step's time goes", flag_values=values)


def run_bench(values: flags.FlagValues) -> int:
    """Measure; gives the exit code.

    Raises:
        UserError: A flag is missing or wrong, or the folder cannot be used.
    """
    given: dict[str, Any] = {name: values[name].value for name in values}
    for name in ("device", "out"):
        if given[name] is None:
            raise UserError(f"--{name} is not given")
    options = options_of(given)
    from benchmarks.results import MARKDOWN_NAME
    from benchmarks.run import run

    started = time.monotonic()

    def say(text: str) -> None:
        print(f"{time.monotonic() - started:7.1f} s  {text}", file=sys.stderr, flush=True)

    out = Path(given["out"])
    run(options, out, given["budget"], say)
    print((out / MARKDOWN_NAME).read_text())
    return 0


def options_of(given: dict[str, Any]) -> Any:
    """The options of a run from the values of the flags.

    Raises:
        UserError: One of them is wrong.
    """
    from benchmarks.plan import Options
    from benchmarks.variants import parse_variants

    same = ("device", "dtype", "fed", "threads", "workers", "records", "rounds", "round_seconds", "profile")
    variants = given["variants"]
    peers = () if given["peers"] == ["none"] else given["peers"]
    return Options(
        **{name: given[name] for name in same},
        tasks=_several(given["tasks"]),
        sizes=_several(given["sizes"]),
        batches=None if given["batches"] is None else tuple(map(_whole, given["batches"])),
        peers=_several(peers),
        variants=None if variants is None else parse_variants(variants),
    )


def _several(value: Sequence[str] | None) -> tuple[str, ...] | None:
    return None if value is None else tuple(value)


def _whole(text: str) -> int:
    try:
        return int(text)
    except ValueError as error:
        raise UserError(f"--batches has {text!r}; give whole numbers") from error
