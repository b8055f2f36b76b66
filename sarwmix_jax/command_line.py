"""What all command lines share: mistakes in one line, and help that tells every default."""

import argparse
import sys
import textwrap
from typing import Any, NoReturn

from absl import flags

from sarwmix_jax.errors import UNPRINTABLE, UserError, one_line

_WIDTH = 100


class Parser(argparse.ArgumentParser):
    """Tells mistakes like everything else, in one line, and in its help every default."""

    def __init__(self, **options: Any) -> None:
        super().__init__(formatter_class=_Defaults, **options)

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> Any:
        """Called by argparse for every command line.

        Raises:
            UserError: A mistake, or an argument that is not UTF-8 (as Python reads it: lone surrogates).
        """
        for argument in sys.argv[1:] if args is None else args:
            if not argument.isprintable() and UNPRINTABLE.search(argument):
                self.error(
                    f"argument {one_line(argument)} has bytes that are not UTF-8, or control characters: rename it"
                )
        return super().parse_known_args(args, namespace)

    def error(self, message: str) -> NoReturn:
        """Called by argparse at a mistake.

        Raises:
            UserError: Always.
        """
        raise UserError(f"{message}; see {self.prog} --help")


class _Defaults(argparse.HelpFormatter):
    def _get_help_string(self, action: argparse.Action) -> str | None:
        silent = action.default in (None, [], argparse.SUPPRESS) or isinstance(action.default, bool)
        return action.help if silent else f"{action.help} (default: %(default)s)"


def flags_help(values: flags.FlagValues) -> str:
    """One paragraph per flag: name, meaning, default."""
    lines = []
    for name in sorted(values):
        default = (values[name].default_as_str or "").strip("'")
        known = "" if default in ("", "None", "false") else f" (default: {default})"
        text = f"  --{name}: {values[name].help}{known}"
        lines += textwrap.wrap(text, _WIDTH, subsequent_indent="      ")
    return "\n".join(lines)
