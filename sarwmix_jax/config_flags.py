"""The flags `--config` and `--config.GROUP.NAME`, and what is said of mistakes in them."""

import difflib
from collections.abc import Sequence
from typing import Any

from absl import flags

from sarwmix_jax.errors import UserError


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
        UserError: a setting is unknown or of the wrong type, or the config file cannot be used.
    """
    try:
        rest: list[str] = values(argv)[1:]
        if "config" in values and values["config"].value is not None:
            values["config"].value.to_dict()  # a config file that cannot be used raises at its first use
    except (AttributeError, KeyError) as error:  # how a locked config refuses unknown names
        raise UserError(unknown_setting(argv) or str(error)) from error
    except (ArithmeticError, LookupError, ValueError, TypeError, OSError, ImportError, SyntaxError) as error:
        raise UserError(f"the settings cannot be used: {error}") from error
    return rest


def load_config(place: str) -> Any:
    """The config that `--config=PLACE` names: a Python file, with its argument after a colon.

    Raises:
        UserError: it cannot be used.
    """
    values = flags.FlagValues()
    argv = ["sarwmix", f"--config={place}"]
    define_config(values, argv)
    parse(values, argv)
    return values["config"].value


def unknown_setting(argv: Sequence[str]) -> str | None:
    """What to say about the first setting on the command line that does not exist."""
    from sarwmix_jax.settings import setting_names

    known = setting_names()
    for argument in argv:
        name = argument.lstrip("-").split("=", 1)[0].removeprefix("config.")
        if argument.lstrip("-").startswith("config.") and name not in known:
            group = name.rpartition(".")[0]
            inside = [each for each in known if each.rpartition(".")[0] == group]
            near = difflib.get_close_matches(name, known, n=1)
            hint = f"did you mean {near[0]}" if near else f"there are {', '.join(inside or known)}"
            return f"unknown setting {name}; {hint}"
    return None


def needed(values: flags.FlagValues, name: str) -> Any:
    """Value of a flag that must be given.

    Raises:
        UserError: it is not.
    """
    value = values[name].value
    if value is None:
        raise UserError(f"--{name} is not given")
    return value
