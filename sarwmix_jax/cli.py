"""The command `sarwmix`: reads the command line, calls the work, tells mistakes in one line.

Nothing heavy is imported before a command is known, so that `--help` answers at once and touches no device.
"""

import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from absl import flags

from sarwmix_jax.command_line import flags_help
from sarwmix_jax.config_flags import define_config, needed, parse
from sarwmix_jax.data.inspect_command import define_inspect, run_inspect
from sarwmix_jax.errors import UserError
from sarwmix_jax.huge_pages import ask_for_huge_pages

MISTAKE = 2
"""Exit code after a `UserError`."""

COMPUTING = ("pretrain", "demo")
"""Commands that need much memory and time."""

FAILED = 1
"""Exit code of a demo that did not learn enough."""


@dataclass(frozen=True)
class Command:
    """One command of `sarwmix`.

    Attributes:
        summary: one line for `sarwmix --help`.
        usage: an example call.
        define: adds its flags.
        run: does the work and gives the exit code.
        takes_more: whether `run` also takes what is left over on the command line.
    """

    summary: str
    usage: str
    define: Callable[[flags.FlagValues, Sequence[str]], None]
    run: Callable[..., int]
    takes_more: bool = False


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; gives its exit code."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    if not arguments or arguments[0] in ("--help", "-h", "-help", "help"):
        print(overview())
        return 0
    if argv is None and arguments[0] in COMPUTING:
        ask_for_huge_pages()
    try:
        return dispatch(arguments[0], arguments[1:])
    except (UserError, flags.Error) as error:
        print(f"error: {' '.join(str(error).split())}", file=sys.stderr)
        return MISTAKE


def dispatch(name: str, arguments: list[str]) -> int:
    """Parse the flags of one command and run it.

    Raises:
        UserError: unknown command, flag or setting.
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
    argv = [program, *arguments]
    command.define(values, argv)
    rest = parse(values, argv)
    if rest and not command.takes_more:
        raise UserError(f"{program} does not understand {rest[0]!r}; see {program} --help")
    return command.run(values, rest) if command.takes_more else command.run(values)


def overview() -> str:
    """Text of `sarwmix --help`."""
    width = max(map(len, COMMANDS))
    lines = [f"  {name:{width}}  {command.summary}" for name, command in COMMANDS.items()]
    return "\n".join(
        [
            "SAR-W-MixMAE in JAX.",
            "",
            "sarwmix COMMAND [--flag=value ...]",
            "",
            *lines,
            "",
            "sarwmix COMMAND --help tells its flags.",
        ]
    )


def define_run(values: flags.FlagValues, argv: Sequence[str]) -> None:
    """Flags of a command that has a config and a work directory."""
    define_config(values, argv)
    define_workdir(values)
    define_cache(values)
    flags.DEFINE_boolean(
        "override", False, "go on although the settings differ from those of the checkpoint", flag_values=values
    )


def define_demo(values: flags.FlagValues, argv: Sequence[str]) -> None:
    """Flags of the demo: its config is known."""
    define_config(values, argv, default="configs/demo.py")
    define_workdir(values)
    define_cache(values)


def define_workdir(values: flags.FlagValues) -> None:
    """The flag `--workdir`."""
    flags.DEFINE_string("workdir", None, "folder for checkpoints, logs and pictures", flag_values=values)


def define_cache(values: flags.FlagValues) -> None:
    """The flag `--compiled`."""
    flags.DEFINE_string(
        "compiled",
        None,
        "folder that keeps compiled programs between starts, or off; unless given, in the user's cache",
        flag_values=values,
    )


def run_pretrain(values: flags.FlagValues) -> int:
    """`sarwmix pretrain`."""
    config, workdir = needed(values, "config"), Path(needed(values, "workdir"))
    from sarwmix_jax.compilation import keep_compiled
    from sarwmix_jax.training.logs import quiet_libraries
    from sarwmix_jax.training.loop import pretrain
    from sarwmix_jax.training.plan import resolve

    quiet_libraries()
    keep_compiled(values["compiled"].value)
    pretrain(resolve(config), workdir, override=bool(values["override"].value))
    return 0


def run_demo(values: flags.FlagValues) -> int:
    """`sarwmix demo`."""
    config, workdir = needed(values, "config"), Path(needed(values, "workdir"))
    from sarwmix_jax.compilation import keep_compiled
    from sarwmix_jax.demo import NEEDED_MARGIN, demo, tell
    from sarwmix_jax.training.logs import quiet_libraries

    quiet_libraries()
    keep_compiled(values["compiled"].value)
    result = demo(workdir, config)
    print(tell(result))
    if result.held_out.margin < NEEDED_MARGIN:
        print(f"error: the margin is below {NEEDED_MARGIN:.0%}: the model did not learn enough", file=sys.stderr)
        return FAILED
    return 0


def run_dry(values: flags.FlagValues) -> int:
    """`sarwmix dry-run`."""
    config = needed(values, "config")
    from sarwmix_jax.compilation import keep_compiled
    from sarwmix_jax.training.dry_run import check_disk, plan_text
    from sarwmix_jax.training.plan import resolve
    from sarwmix_jax.training.setup import set_up

    keep_compiled(values["compiled"].value)
    run = set_up(resolve(config))
    print(plan_text(run))
    if values["workdir"].value is not None:
        check_disk(run, Path(values["workdir"].value))
    return 0


def define_reconstruct(values: flags.FlagValues, _: Sequence[str]) -> None:
    """Flags of `sarwmix reconstruct`."""
    flags.DEFINE_string("checkpoint", None, "work directory or checkpoint; more may follow", flag_values=values)
    flags.DEFINE_string("records", None, "folder of a record set", flag_values=values)
    flags.DEFINE_string("split", "validation", "held-out records", flag_values=values)
    flags.DEFINE_string("fit", None, "split to fit the best constant prediction on", flag_values=values)
    flags.DEFINE_integer("samples", 4, "images to draw", flag_values=values)
    flags.DEFINE_string("out", None, "folder for the pictures", flag_values=values)


def run_reconstruct(values: flags.FlagValues, more: list[str]) -> int:
    """`sarwmix reconstruct`."""
    checkpoints = [needed(values, "checkpoint"), *more]
    records, out = needed(values, "records"), Path(needed(values, "out"))
    from sarwmix_jax.evaluation.reconstruct import reconstruct
    from sarwmix_jax.training.logs import quiet_libraries

    quiet_libraries()
    split, samples, fit = (values[name].value for name in ("split", "samples", "fit"))
    figures = reconstruct(checkpoints, records, str(split), out, samples=int(samples or 0), fit=fit)
    for name, result in figures.items():
        correlations = ", ".join(f"{band} {value:.3f}" for band, value in result["correlation"].items())
        margin = f", {result['margin']:.1%} below the best constant prediction" if "margin" in result else ""
        print(f"{name}: held-out loss {result['held_out_loss']:.4f}{margin}; correlation {correlations}")
    print(f"pictures: {out}")
    return 0


COMMANDS = {
    "pretrain": Command(
        "Pretrain a model, or go on with a run.",
        "sarwmix pretrain --config=configs/pretrain_bigearthnet_v2.py:base --workdir=runs/base "
        "--config.data.records=FOLDER",
        define_run,
        run_pretrain,
    ),
    "dry-run": Command(
        "Check settings, records and memory and print the plan of a run, without training.",
        "sarwmix dry-run --config=configs/pretrain_bigearthnet_v2.py:base --config.data.records=FOLDER",
        define_run,
        run_dry,
    ),
    "reconstruct": Command(
        "Draw reconstructions of one or several checkpoints side by side.",
        "sarwmix reconstruct --checkpoint runs/a runs/b --records FOLDER --out pictures",
        define_reconstruct,
        run_reconstruct,
        takes_more=True,
    ),
    "inspect": Command(
        "Count, measure, check and draw a record set.",
        "sarwmix inspect FOLDER --out=sheet.png",
        define_inspect,
        run_inspect,
        takes_more=True,
    ),
    "demo": Command(
        "Pretrain a small model on synthetic scenes and draw what it learned (some minutes on a CPU).",
        "sarwmix demo --workdir=demo_output",
        define_demo,
        run_demo,
    ),
}

if __name__ == "__main__":
    sys.exit(main())
