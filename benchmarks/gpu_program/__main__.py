r"""Compiles a step for GPUs that are not there, and shows what it will ask of them: memory, kernels, bytes, products.

    python -m benchmarks.gpu_program --gpu=h200 --task=pretraining --config.model.kernel=fused
    python -m benchmarks.gpu_program --gpu=h100 --task=pretraining --devices=8 --batch=256 --out=eight.json
    python -m benchmarks.gpu_program --gpu=h200 --task=flood --text=flood.txt.xz
    python -m benchmarks.gpu_program --check benchmarks/gpu_programs/pretraining_shallow_fused_h200.json

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

DEFAULTS = {"task": "pretraining", "size": "base", "devices": 1}
ALONE = {"check": {"check"}, "read": {"read", "gpu", "out"}}
"""Flags that take the rest from their files, and those that they may stand with."""

FLAGS: dict[str, dict[str, Any]] = {
    "gpu": {"choices": GPUS, "help": "the GPU"},
    "task": {"choices": TASKS, "help": "step of this task (default: pretraining); inference: logits"},
    "size": {"choices": tuple(SIZES), "help": "published size of the model (default: base)"},
    "batch": {"type": int, "help": "samples on each device: 256, multilabel 128, flood 4 pairs of 512 px"},
    "devices": {"type": int, "help": "number of GPUs, in one node (default: 1)"},
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
    given = [name for name in FLAGS if getattr(options, name) is not None] + ["config"] * bool(options.config)
    for name, beside in ALONE.items():
        if name in given and (others := [other for other in given if other not in beside]):
            raise UserError(f"--{name} takes the rest from its files; leave out --{others[0]}")
    if not {"gpu", *ALONE} & set(given):
        raise UserError(f"--gpu is not given; use one of {', '.join(GPUS)}")
    if any(argument.startswith("--config=") for argument in options.config):
        raise UserError("the recipe is that of --task; change its settings with --config.GROUP.NAME=VALUE")
    for name, default in DEFAULTS.items():
        setattr(options, name, default if getattr(options, name) is None else getattr(options, name))
    if min(options.devices, 1 if options.batch is None else options.batch) < 1:
        raise UserError("--devices and --batch must be at least 1")
    for path in filter(None, (options.out, options.text)):  # before minutes of the compiler
        if not path.parent.is_dir():
            raise UserError(f"{path} cannot be written: there is no folder {path.parent}; make it, or choose another")
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
