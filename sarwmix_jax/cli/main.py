"""The command `sarwmix`: reads the command line, calls the work, reports mistakes in one line.

Nothing heavy is imported before a command is known, so that `--help` answers at once and touches no device.
"""

import io
import os
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from absl import flags

from sarwmix_jax import huge_pages
from sarwmix_jax.command_line import flags_help
from sarwmix_jax.errors import UserError, one_line

FAILED = 1
"""Exit code when the work was done and its result is not good enough."""

MISTAKE = 2
"""Exit code after a `UserError`."""

STOPPED = 75
"""Exit code of a run that a signal ended: saved; the same command goes on. Launch scripts requeue on it."""

INTERRUPTED = 130
"""Exit code after Ctrl-C."""

LEAST_COMPILER_LOG = "TF_CPP_MIN_LOG_LEVEL", "3"
"""Least severe messages that XLA, the compiler, prints: fatal ones (3), unless the environment says otherwise.

XLA prints, as errors (2), blocks of text such as "Very slow compile? ... file a bug" about every program that takes it
two minutes, and lets nobody choose by content. What fails raises an exception all the same, which has the message of
the error, so that of true errors only XLA's own account is lost; `TF_CPP_MIN_LOG_LEVEL=1` before a command shows it.
"""

COMPUTING = ("pretrain", "finetune", "demo")
"""Commands that need much memory and time."""


@dataclass(frozen=True)
class Command:
    """One command of `sarwmix`.

    Attributes:
        summary: One line for `sarwmix --help`.
        usage: An example call.
        define: Adds its flags.
        run: Does the work and gives the exit code, from the flags and what is left over on the command line.
        takes_more: Whether something may be left over.
    """

    summary: str
    usage: str
    define: Callable[[flags.FlagValues, Sequence[str]], None]
    run: Callable[[flags.FlagValues, list[str]], int]
    takes_more: bool = False


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; gives its exit code."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    if not arguments or arguments[0] in ("--help", "-h", "-help", "help"):
        print(overview())
        return 0
    if argv is None and arguments[0] in COMPUTING and not huge_pages.CHOSEN:
        huge_pages.ask_for_huge_pages()
    return guarded(lambda: dispatch(arguments[0], arguments[1:]))


def guarded(work: Callable[[], int | None]) -> int:
    """Do the work of a command; gives its exit code, after a mistake or Ctrl-C with one line on the standard error."""
    os.environ.setdefault(*LEAST_COMPILER_LOG)  # before JAX is imported, which reads it then alone
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")  # a name that the terminal cannot show is no failure
    try:
        return work() or 0
    except (UserError, flags.Error) as error:
        print(f"error: {one_line(error)}", file=sys.stderr)
        return MISTAKE
    except KeyboardInterrupt as stop:
        print(*stop.args or ("interrupted; the same command goes on from what is finished",), file=sys.stderr)
        return INTERRUPTED


def dispatch(name: str, arguments: list[str]) -> int:
    """Parse the flags of one command and run it.

    Raises:
        UserError: Unknown command, flag or setting.
    """
    command = COMMANDS.get(name)
    if command is None:
        raise UserError(f"unknown command {name!r}; choose one of {', '.join(COMMANDS)}")
    values = flags.FlagValues()
    values.set_gnu_getopt(True)
    program = f"sarwmix {name}"
    if set(arguments) & {"--help", "-h", "-help", "--helpfull"}:
        command.define(values, [program])
        print(f"{command.summary}\n\n  {command.usage}\n\n{flags_help(values)}")
        return 0
    from sarwmix_jax.settings.config import with_plain_texts

    argv = [program, *with_plain_texts(arguments)]
    command.define(values, argv)
    rest = parse(values, argv)
    if rest and not command.takes_more:
        raise UserError(f"{program} does not understand {rest[0]!r}; see {program} --help")
    return command.run(values, rest)


def overview() -> str:
    """Text of `sarwmix --help`."""
    width = max(map(len, COMMANDS))
    lines = [f"  {name:{width}}  {command.summary}" for name, command in COMMANDS.items()]
    head = ["SAR-W-MixMAE in JAX.", "", "sarwmix COMMAND [--flag=value ...]", ""]
    return "\n".join([*head, *lines, "", "sarwmix COMMAND --help explains its flags."])


def define_config(values: flags.FlagValues, argv: Sequence[str], default: str | None = None) -> None:
    """The flags `--config` and `--config.GROUP.NAME`."""
    from ml_collections import config_flags

    config_flags.DEFINE_config_file(
        "config",
        default,
        "settings: a Python file, with its argument after a colon; change one with --config.GROUP.NAME=VALUE",
        flag_values=values,
        lock_config=True,
        sys_argv=list(argv),
    )


def parse(values: flags.FlagValues, argv: list[str]) -> list[str]:
    """Parse flags; gives what is left over.

    Raises:
        UserError: A setting is unknown or of the wrong type, or the config file cannot be used.
    """
    try:
        rest: list[str] = values(argv)[1:]
        if "config" in values and values["config"].value is not None:
            values["config"].value.to_dict()  # a config file that cannot be used raises at its first use
    except (AttributeError, KeyError) as error:  # how a locked config refuses unknown names
        from sarwmix_jax.settings.config import unknown_setting

        raise UserError(unknown_setting(argv) or str(error)) from error
    except (ArithmeticError, LookupError, ValueError, TypeError, OSError, ImportError, SyntaxError) as error:
        raise UserError(f"the settings cannot be used: {error}") from error
    return rest


def load_config(place: str) -> Any:
    """The config that `--config=PLACE` names: a Python file, with its argument after a colon.

    Raises:
        UserError: It cannot be used.
    """
    values = flags.FlagValues()
    argv = ["sarwmix", f"--config={place}"]
    define_config(values, argv)
    parse(values, argv)
    return values["config"].value


def needed(values: flags.FlagValues, name: str) -> Any:
    """Value of a flag that must be given.

    Raises:
        UserError: It is not.
    """
    value = values[name].value
    if value is None:
        raise UserError(f"--{name} is not given")
    return value


def define_run(values: flags.FlagValues, argv: Sequence[str], default: str | None = None) -> None:
    """Flags of a command that has a config and a work directory."""
    define_config(values, argv, default)
    flags.DEFINE_string("workdir", None, "folder for checkpoints, logs and pictures", flag_values=values)
    kept = "folder that keeps compiled programs between starts, or off; unless given, in the user's cache"
    flags.DEFINE_string("compiled", None, kept, flag_values=values)
    if default is None:
        what = "go on although the settings differ from those of the checkpoint"
        flags.DEFINE_boolean("override", False, what, flag_values=values)


def settings_of(values: flags.FlagValues) -> Any:
    """Checked settings of a run, and compiled programs kept where the flags say."""
    config = needed(values, "config")
    from sarwmix_jax.settings.config import resolve
    from sarwmix_jax.settings.sections import FinetuningSettings, PretrainingSettings
    from sarwmix_jax.training.logs import quiet_libraries
    from sarwmix_jax.training.resources import keep_compiled

    quiet_libraries()
    keep_compiled(values["compiled"].value)
    return resolve(config, FinetuningSettings if "task" in config else PretrainingSettings)


def run_training(values: flags.FlagValues, _: list[str]) -> int:
    """`sarwmix pretrain` and `sarwmix finetune`."""
    _, workdir = needed(values, "config"), Path(needed(values, "workdir"))
    settings = settings_of(values)
    from sarwmix_jax.training.loop import train

    progress = train(settings, workdir, override=bool(values["override"].value))
    if progress.interrupted:
        return INTERRUPTED if progress.interrupted == "SIGINT" else STOPPED
    return 0


def run_dry(values: flags.FlagValues, _: list[str]) -> int:
    """`sarwmix dry-run`."""
    settings = settings_of(values)
    from sarwmix_jax.training.dry_run import plan_text
    from sarwmix_jax.training.resources import check_disk, tree_bytes
    from sarwmix_jax.training.run import abstract_state, set_up

    run = set_up(settings)
    print(plan_text(run))
    if values["workdir"].value is not None:
        check_disk(tree_bytes(abstract_state(run)), Path(values["workdir"].value))
    return 0


def _imported(module: str, name: str) -> Callable[..., Any]:
    """A function of another command's file, which is imported when it is called."""

    def call(*arguments: Any) -> Any:
        import importlib

        return getattr(importlib.import_module(f"sarwmix_jax.cli.{module}"), name)(*arguments)

    return call


def _other(module: str, summary: str, usage: str, *, takes_more: bool = False) -> Command:
    return Command(summary, usage, _imported(module, "define"), _imported(module, "run"), takes_more)


_EXAMPLE = "--config=configs/pretrain_bigearthnet_v2.py:base --config.data.records=FOLDER"

_TRAINING = (define_run, run_training)

COMMANDS = {
    "pretrain": Command(
        "Pretrain a model, or go on with a run.", f"sarwmix pretrain {_EXAMPLE} --workdir=runs/base", *_TRAINING
    ),
    "finetune": Command(
        "Train a classifier, from a checkpoint or from scratch, or go on with a run.",
        "sarwmix finetune --config=configs/finetune_bigearthnet_v2.py:base --config.data.records=FOLDER "
        "--config.init_from=runs/base --workdir=runs/finetuned",
        *_TRAINING,
    ),
    "dry-run": Command(
        "Check settings, records and memory and print the plan of a run, without training.",
        f"sarwmix dry-run {_EXAMPLE}",
        define_run,
        run_dry,
    ),
    "reconstruct": _other(
        "reconstruct",
        "Draw reconstructions of one or several checkpoints side by side.",
        "sarwmix reconstruct --checkpoint runs/a runs/b --records FOLDER --out pictures",
        takes_more=True,
    ),
    "evaluate": _other(
        "evaluate",
        "Score classifiers and flood models, with intervals, calibration and baselines.",
        "sarwmix evaluate --checkpoint runs/finetuned --records FOLDER --split test --out evaluation",
        takes_more=True,
    ),
    "probe": _other(
        "probe",
        "Score frozen features by logistic regression and nearest neighbours.",
        "sarwmix probe --checkpoint runs/base --records FOLDER --out probe",
        takes_more=True,
    ),
    "embed": _other(
        "embed", "Write features as Parquet.", "sarwmix embed --checkpoint runs/base --records FOLDER --out x.parquet"
    ),
    "inspect": _other(
        "inspect", "Count, measure, check and draw a record set.", "sarwmix inspect FOLDER --out=x.png", takes_more=True
    ),
    "demo": Command(
        "Pretrain a small model on synthetic scenes and draw what it learned (some minutes on a CPU).",
        "sarwmix demo --workdir=demo_output",
        partial(define_run, default="configs/demo.py"),
        _imported("demo", "run"),
    ),
}

if __name__ == "__main__":
    sys.exit(main())
