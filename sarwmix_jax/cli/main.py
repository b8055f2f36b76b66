"""The command `sarwmix`: reads the command line, runs the command, reports mistakes in one line.

Nothing heavy is imported before the command line is parsed, so that `--help` answers at once and uses no device.
"""

import argparse
import contextlib
import difflib
import importlib
import io
import os
import re
import sys
import textwrap
from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType, ModuleType
from typing import Any, NoReturn

from sarwmix_jax import huge_pages
from sarwmix_jax.cli.commands import COMMANDS, FAMILIES, Command, overview, overview_of_family
from sarwmix_jax.cli.flags import SHARED
from sarwmix_jax.cluster.rules import LAUNCHED, PART
from sarwmix_jax.errors import CLOSED, INTERRUPTED, MISTAKE, STOPPED, UNPRINTABLE, UserError, one_line
from sarwmix_jax.processes import (
    INTERRUPTED_LINE,
    Terminated,
    drop_output,
    flush_output,
    nobody_reads,
    raised_signals,
)
from sarwmix_jax.version import __version__

LEAST_COMPILER_LOG = "TF_CPP_MIN_LOG_LEVEL", "3"
"""Lowest level of messages that XLA, the compiler, prints: fatal ones (3), unless the environment sets another level.

XLA prints, as errors (2), blocks of text such as "Very slow compile? ... file a bug" about every program that takes
two minutes to compile, and has no filter by content. A failure still raises an exception with the error's message, so
that only XLA's own report of it is lost; `TF_CPP_MIN_LOG_LEVEL=1` before a command shows it.
"""

COMPUTING = ("pretrain", "finetune", "demo", "study", "audit")
"""Commands that need much memory and time."""

HELP = ("-h", "--help", "help")


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; returns its exit code."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    if argv is None and arguments and arguments[0] in COMPUTING and not huge_pages.CHOSEN:
        huge_pages.ask_for_huge_pages()
    code = guarded(lambda: dispatch(arguments))
    if argv is None and code in (MISTAKE, INTERRUPTED) and arguments[0] in COMPUTING:
        with contextlib.suppress(UserError, OSError):
            flush_output()
        os._exit(code)  # after a failed write, threads of Orbax would keep the process for up to 20 minutes
    return code


def door(command: Command, argv: Sequence[str] | None = None) -> int:
    """Run a command under the name of the script that was started; returns its exit code."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    return guarded(lambda: run(command, f"python {sys.argv[0]}", arguments))


def guarded(work: Callable[[], int | None]) -> int:
    """Do the work of a command; returns its exit code. A mistake or a signal gives one line on standard error."""
    os.environ.setdefault(*LEAST_COMPILER_LOG)  # before JAX is imported, which reads it only then
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")  # a name that the terminal cannot show is not an error
    try:
        with raised_signals():
            code = work() or 0
        flush_output()
        return code
    except UserError as error:
        return _reported(f"error: {one_line(error)}", MISTAKE)
    except KeyboardInterrupt:
        return _reported(INTERRUPTED_LINE, INTERRUPTED)
    except Terminated as stop:
        return _reported(f"{stop}: stopped; the same command continues from what is finished", STOPPED)
    except BrokenPipeError:
        if not nobody_reads():
            raise
        drop_output(sys.stdout)
        return CLOSED
    finally:
        try:
            if sys.stderr is not None:
                sys.stderr.flush()
        except OSError:
            drop_output(sys.stderr)


def _reported(line: str, code: int) -> int:
    """Print a line on standard error, if it is still read; returns the exit code."""
    with contextlib.suppress(OSError):
        if sys.stderr is not None:
            print(line, file=sys.stderr)
    return code


def dispatch(arguments: list[str]) -> int | None:
    """Find the command and run it; returns its exit code.

    Raises:
        UserError: The command, a flag or a setting is unknown.
    """
    if arguments[:1] == ["help"] and len(arguments) > 1:
        arguments = [*arguments[1:], "--help"]
    if not arguments or arguments[0] in HELP:
        print(overview())
    elif arguments[0] in ("-V", "--version"):
        print(f"sarwmix_jax {__version__}")
    elif (family := arguments[0]) not in FAMILIES:
        return run(chosen(COMMANDS, "command", "sarwmix", arguments), f"sarwmix {arguments[0]}", arguments[1:])
    elif arguments[1:2] and arguments[1] in HELP:
        print(overview_of_family(family))
    else:
        what, commands = FAMILIES[family]
        command = chosen(commands, what, f"sarwmix {family}", arguments[1:])
        return run(command, f"sarwmix {family} {arguments[1]}", arguments[2:])
    return 0


def chosen(commands: dict[str, Command], what: str, program: str, arguments: list[str]) -> Command:
    """The command that the first argument names.

    Raises:
        UserError: There is none.
    """
    names = ", ".join(commands)
    if not arguments:
        raise UserError(f"{program} needs a {what}: one of {names}; see {program} --help")
    if arguments[0] not in commands:
        near = difflib.get_close_matches(arguments[0], commands, n=1)
        hint = f"did you mean {near[0]}?" if near else f"choose one of {names};"
        raise UserError(f"unknown {what} {arguments[0]!r}; {hint} see {program} --help")
    return commands[arguments[0]]


def run(command: Command, program: str, arguments: Sequence[str]) -> int | None:
    """Parse the flags of one command and run it; returns the exit code.

    Raises:
        UserError: A flag or a setting is unknown, or the command fails.
    """
    module = load(command)
    parser = parser_of(command, program)
    try:
        options = parser.parse_args(arguments)
    except SystemExit:  # after --help
        return 0
    part = [vars(options).get(name) for name in PART]
    if "coordinator" in options and (any(each is not None for each in part) or {*LAUNCHED} & {*os.environ}):
        from sarwmix_jax.cluster.joining import Given, together

        limits = options.join_seconds, options.silent_seconds
        return together(Given(*part), lambda: module.run(options), *limits, saves="workdir" in options)
    code: int | None = module.run(options)
    return code


def load(command: Command) -> ModuleType:
    """The file of a command."""
    return importlib.import_module(f"sarwmix_jax.cli.{command.module}")


def parser_of(command: Command, program: str) -> "Parser":
    """The parser of a command; its help ends with the docstring of the command's file, without the first line."""
    module = load(command)
    details = (module.__doc__ or "").partition("\n")[2]
    parser = Parser(SHARED, prog=program, description=f"{command.summary}\n{details}")
    module.define(parser)
    return parser


REQUIRED = "the following arguments are required: "
"""How argparse begins its message about what is missing."""

OTHER_WORDS = {
    "checkpoint": ("--config.init_from",),
    "out": ("--workdir",),
    "output": ("--out", "--workdir"),
    "workdir": ("--out",),
    "data": ("--records", "--config.data.records"),
    "dataset": ("--records", "--config.data.records"),
}
"""Flags of some commands that are meant by words of other commands or programs."""


class Parser(argparse.ArgumentParser):
    """Reports mistakes like everything else, in one line that names the right flag, and in its help every default."""

    def __init__(self, shared: Mapping[str, dict[str, Any]] = MappingProxyType({}), **options: Any) -> None:
        self.shared = shared
        super().__init__(formatter_class=_Help, allow_abbrev=False, **options)

    def add_argument(self, *names: str, **own: Any) -> Any:
        """As argparse has it; a flag that several commands share only needs what is special about it."""
        return super().add_argument(*names, **self.shared.get(names[0], {}) | own)

    def parse_args(self, args: Any = None, namespace: Any = None) -> Any:
        """Options of a command line.

        Raises:
            UserError: A mistake.
        """
        options, rest = self.parse_known_args(args, namespace)
        if rest:
            raise UserError(f"{self.prog} does not understand {rest[0]!r}; see {self.prog} --help")
        return options

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> Any:
        """Options of a command line, and what is left over; those of a config lie in `config`, not yet read.

        Raises:
            UserError: A mistake, or an argument that is not UTF-8 (as Python reads it: lone surrogates).
        """
        arguments, config = list(sys.argv[1:] if args is None else args), None
        for argument in arguments:
            if not argument.isprintable() and UNPRINTABLE.search(argument):
                self.error(
                    f"argument {one_line(argument)} has bytes that are not UTF-8, or control characters: rename it"
                )
        if "--config" in self._option_string_actions:
            from sarwmix_jax.settings.recipes import split_arguments

            config, arguments = split_arguments(arguments)
        self._check_flags(arguments)
        options, rest = super().parse_known_args(self._with_negative_values(arguments), namespace)
        if config is not None:
            options.config = config
        return options, rest

    def _check_flags(self, arguments: Sequence[str]) -> None:
        """All flags are known; argparse itself would first ask for those that are not given."""
        known = self._option_string_actions
        end = arguments.index("--") if "--" in arguments else len(arguments)
        flags = [a.split("=", 1)[0] for a in arguments[:end] if re.match("--?[a-zA-Z]", a)]
        if not {"-h", "--help"} & set(flags):
            for flag in flags:
                if flag not in known and (flag.startswith("--") or flag[:2] not in known):
                    meant = self._meant(flag)
                    hint = f"did you mean {meant}? " if meant else ""
                    raise UserError(f"unknown flag {flag}; {hint}see {self.prog} --help")

    def _meant(self, flag: str) -> str | None:
        """The flag or setting that a mistyped or shortened flag probably means."""
        own = [each for each in self._option_string_actions if each.startswith("--") and "." not in each]
        has_config = "--config" in own
        word = flag.lstrip("-").replace("_", "-").rpartition(".")[2]
        begun = sorted((each for each in own if each.startswith(f"--{word}")), key=len)
        others = [e for e in OTHER_WORDS.get(word, ()) if e in own or (has_config and e.startswith("--config."))]
        near = difflib.get_close_matches(f"--{word}", own, n=1, cutoff=0.8)
        setting = None
        if has_config:
            from sarwmix_jax.settings.recipes import suggestion

            setting = suggestion(flag)
        return next(iter([*begun, *others, *near, *([setting] if setting else [])]), None)

    def _with_negative_values(self, arguments: Sequence[str]) -> list[str]:
        """The same with `--statistics=-19,-12,5,5` for `--statistics -19,-12,5,5`, which argparse takes for a flag."""
        joined: list[str] = []
        for argument in arguments:
            action = self._option_string_actions.get(joined[-1]) if joined else None
            if action is not None and action.nargs is None and re.match(r"-[\d.]", argument):
                joined[-1] += f"={argument}"
            else:
                joined.append(argument)
        return joined

    def error(self, message: str) -> NoReturn:
        """Called by argparse at a mistake.

        Raises:
            UserError: Always.
        """
        if message.startswith(REQUIRED):
            names = message.removeprefix(REQUIRED)
            message = f"{names} {'are' if ', ' in names else 'is'} not given"
        raise UserError(f"{message}; see {self.prog} --help")


class _Help(argparse.HelpFormatter):
    def _get_help_string(self, action: argparse.Action) -> str | None:
        silent = action.default in (None, [], argparse.SUPPRESS) or isinstance(action.default, bool)
        return action.help if silent else f"{action.help} (default: %(default)s)"

    def _fill_text(self, text: str, width: int, indent: str) -> str:
        """Paragraphs filled; examples, which are indented, as they are."""
        parts = re.split(r"\n\s*\n", text.strip("\n"))
        return "\n\n".join(part if part.startswith(" ") else textwrap.fill(part, width) for part in parts)


if __name__ == "__main__":
    sys.exit(main())
