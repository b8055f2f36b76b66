r"""Compiles a step for GPUs that are not there, and shows what it will ask of them: memory, kernels, bytes, products.

    python -m benchmarks.gpu_program --gpu=h200 --task=pretraining --config.model.kernel=fused
    python -m benchmarks.gpu_program --gpu=h100 --task=pretraining --devices=8 --batch=256 --out=eight.json
    python -m benchmarks.gpu_program --gpu=h200 --task=flood --text=flood.txt.xz

Runs from the root of a clone, on CPUs alone, with the wheels of the extra gpu-program. Every figure is an estimate from
the compiled program: nothing is run on a GPU. `--check` compiles stored results again and fails (exit code 1) where a
figure is above the stored one.
"""

import argparse
import os
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

from benchmarks.gpu_program.silence import silence
from sarwmix_jax.cli.main import Parser, guarded
from sarwmix_jax.errors import FAILED, UserError
from sarwmix_jax.facts.sizes import SIZES

GPUS = ("h100", "h200")
TASKS = ("pretraining", "multilabel", "flood", "inference")

FLAGS: dict[str, dict[str, Any]] = {
    "gpu": {"choices": GPUS, "help": "the GPU"},
    "task": {"choices": TASKS, "default": "pretraining", "help": "step of this task; inference: logits"},
    "size": {"choices": tuple(SIZES), "default": "base", "help": "published size of the model"},
    "batch": {"type": int, "help": "samples on each device: 256, multilabel 128, flood 4 pairs of 512 px"},
    "devices": {"type": int, "default": 1, "help": "number of GPUs, in one node"},
    "out": {"type": Path, "help": "file for the result as JSON, to be checked later"},
    "text": {"type": Path, "help": "file for the compiled program, condensed; compressed if its name ends with .xz"},
    "read": {"type": Path, "help": "a file that --text wrote, read instead of compiling; --gpu may name another GPU"},
    "check": {"type": Path, "nargs": "+", "help": "files that --out wrote: compile again and compare"},
}


def main(arguments: list[str]) -> int:
    """Run the command; returns the exit code."""
    return guarded(lambda: run(parsed(arguments)))


def parsed(arguments: list[str]) -> argparse.Namespace:
    """Options of the command line.

    Raises:
        UserError: A flag or value is wrong, or no GPU is named.
    """
    parser = Parser(prog="python -m benchmarks.gpu_program", description=__doc__)
    parser.add_argument("--config", help="settings of the recipe that are changed: --config.GROUP.NAME=VALUE")
    for name, about in FLAGS.items():
        parser.add_argument(f"--{name}", **about)
    options: argparse.Namespace = parser.parse_args(arguments)
    if options.gpu is None and options.check is None and options.read is None:
        raise UserError(f"--gpu is not given; use one of {', '.join(GPUS)}")
    if any(argument.startswith("--config=") for argument in options.config):
        raise UserError("the recipe is that of --task; change its settings with --config.GROUP.NAME=VALUE")
    if min(options.devices, 1 if options.batch is None else options.batch) < 1:
        raise UserError("--devices and --batch must be at least 1")
    return options


def run(options: argparse.Namespace) -> int:
    """Compile, or read, and report; returns the exit code.

    Raises:
        UserError: A setting is wrong, the wheels are missing, or a file cannot be read or written.
    """
    with silence():
        from benchmarks.gpu_program import guard
        from benchmarks.gpu_program.report import make_result, report
        from benchmarks.gpu_program.results import as_json, write_whole
        from benchmarks.gpu_program.targets import target_of

    if options.check is not None:
        return FAILED if guard.check(options.check) else 0
    compiled = None
    if options.read is None:
        case, settings = guard.case_of(options)
        compiled, program = guard.compile_case(case, settings)
    else:
        case, program = guard.read_stored(options.read)
        case = case if options.gpu is None else replace(case, gpu=options.gpu)
    target = target_of(case.gpu)
    result = make_result(case, program, target, compiled)
    print(report(result, program, target, None if compiled is None else compiled.resources))
    if options.text is not None and compiled is not None:
        write_whole(options.text, guard.as_text(case, compiled.text, options.text))
    if options.out is not None:
        write_whole(options.out, as_json(result))
    return 0


if __name__ == "__main__":
    # A GPU that is there is not needed, and would be asked to tune. Of a program kept from earlier there is no code.
    os.environ |= {"JAX_PLATFORMS": "cpu", "JAX_ENABLE_COMPILATION_CACHE": "false"}
    sys.exit(main(sys.argv[1:]))
