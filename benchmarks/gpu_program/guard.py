"""From a case to its program, and stored results compiled again: no figure may grow unnoticed."""

import argparse
import json
import lzma
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

import jax

from benchmarks.gpu_program.compiling import Compiled, compile_step, missing_wheels
from benchmarks.gpu_program.reader import Program, read_program
from benchmarks.gpu_program.report import make_result
from benchmarks.gpu_program.results import NO_CASE, Case, case_from, read_result, regressions
from benchmarks.gpu_program.steps import TASKS, settings_of
from benchmarks.gpu_program.targets import target_of
from benchmarks.hlo import condensed
from sarwmix_jax.errors import UserError
from sarwmix_jax.progress import show
from sarwmix_jax.settings.sections import RunSettings

CASE = "// case"
"""Begins the line of a stored program that states what it is."""


def case_of(options: argparse.Namespace) -> tuple[Case, RunSettings]:
    """The case that a command line names, and its settings.

    Raises:
        UserError: A setting is wrong.
    """
    batch = TASKS[options.task].batch if options.batch is None else options.batch
    changes = tuple(options.config)
    settings = settings_of(options.task, options.size, batch, options.devices, changes)
    model = settings.model
    about = (options.gpu, options.devices, options.task, options.size, batch, model.dtype, model.kernel, changes)
    return Case(jax.__version__, *about), settings


def compile_case(case: Case, settings: RunSettings) -> tuple[Compiled, Program]:
    """Compiles a case.

    Raises:
        UserError: The compiler is not installed, or does not accept the program.
    """
    if reason := missing_wheels(case.kernel):
        raise UserError(reason)
    show(f"compiling {case.title}; at full depth this takes minutes on two cores")
    compiled = compile_step(case.task, settings, target_of(case.gpu), case.devices)
    show(f"compiled in {compiled.seconds:.0f} s")
    return compiled, read_program(compiled.text)


def as_text(case: Case, text: str, path: Path) -> bytes:
    """A compiled program as it is stored: condensed, with its case in the last line; compressed for names in .xz."""
    data = f"{condensed(text)}\n{CASE} {json.dumps(asdict(case))}\n".encode()
    return lzma.compress(data, preset=9 | lzma.PRESET_EXTREME) if path.suffix == ".xz" else data


def read_stored(path: Path) -> tuple[Case, Program]:
    """The case and the program in a file that `--text` wrote.

    Raises:
        UserError: The file cannot be read, or holds something else.
    """
    try:
        data = path.read_bytes()
        text, found, case = (lzma.decompress(data) if path.suffix == ".xz" else data).decode().rpartition(f"\n{CASE} ")
        if not found:
            raise UserError("it is cut off, or no program that --text wrote; write it again")
        return case_from(json.loads(case)), read_program(text)
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror}; name a file that --text wrote") from error
    except (lzma.LZMAError, *NO_CASE) as error:
        raise UserError(f"{path} is damaged ({error}); write it again with --text") from error
    except UserError as error:
        raise UserError(f"{path}: {error}") from error


def check(paths: Sequence[Path]) -> bool:
    """Compiles stored results again and prints how they compare; whether any figure is above the stored one.

    Results of another version of JAX, whose compiler is another, are skipped, which a line states.

    Raises:
        UserError: A file is not a result, or the compiler is not installed.
    """
    worse = False
    for path, stored in [(path, read_result(path)) for path in paths]:
        case = stored.case
        if case.jax != jax.__version__:
            print(f"{path}: skipped, for it was compiled by jax {case.jax} and jax {jax.__version__} is installed")
            continue
        settings = settings_of(case.task, case.size, case.batch, case.devices, case.changes)
        compiled, program = compile_case(case, settings)
        lines = regressions(stored, make_result(case, program, target_of(case.gpu), compiled))
        print("\n".join([f"{path}: {'worse' if lines else 'no figure is above the stored one'}", *lines]))
        worse |= bool(lines)
    return worse
