"""From the command line to a config: a recipe by its name or an own file, and settings changed by flags.

--config=pretrain_bigearthnet_v2:base      a recipe that comes with the package, with its argument
--config=folder/own.py:argument            an own file that has the function `get_config`
--config.batch.global_batch=256            one setting, changed
--config.batch.micro_batch=                one setting, unset
"""

import ast
import difflib
import inspect
import re
import runpy
import traceback
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sarwmix_jax.errors import UserError
from sarwmix_jax.settings.declarations import Type, setting_types
from sarwmix_jax.settings.sections import TASKS
from sarwmix_jax.settings.study import StudySettings

if TYPE_CHECKING:
    from ml_collections import ConfigDict

_TYPES = {task: setting_types(kind) for task, kind in (TASKS | {"study": StudySettings}).items()}

_GIVEN = re.compile(r"--?(no)?config(\.[^=]*)?(=.*)?", re.DOTALL)

_NO_VALUE = (ValueError, TypeError, KeyError, ArithmeticError, SyntaxError, MemoryError, RecursionError)

_TRUE_FALSE = {"true": True, "t": True, "1": True, "false": False, "f": False, "0": False}


def recipes() -> dict[str, Path]:
    """Files of the recipes that come with the package, by name.

    They are inside the installed package or, in a clone, in the folder `configs` beside it.
    """
    package = Path(__file__).parents[1]
    inside = package / "configs"
    return {
        path.stem: path for path in sorted((inside if inside.is_dir() else package.parent / "configs").glob("*.py"))
    }


def split_arguments(arguments: Sequence[str]) -> tuple[list[str], list[str]]:
    """Splits the arguments of a command line into those of the config and the others.

    The former are returned as `--config=PLACE` and `--config.NAME=VALUE`. They may be given with one dash or two, with
    a space before the value, or as a switch (`--config.model.scan`, `--noconfig.model.scan`).
    """
    about_config, others, rest = [], [], iter(arguments)
    for argument in rest:
        if argument == "--":
            others += [argument, *rest]
            break
        found = _GIVEN.fullmatch(argument)
        if found is None or (found[1] and not found[2]):
            others.append(argument)
            continue
        name, value = found[2] or "", found[3]
        if found[1] or (value is None and _is_switch(name[1:])):
            value = "=false" if found[1] else "=true"
        elif value is None:
            following = next(rest, None)
            value = "" if following is None else f"={following}"
        about_config.append(f"--config{name}{value}")
    return about_config, others


def read_config(arguments: Sequence[str], default: str | None = None) -> "ConfigDict":
    """The config that the arguments name and change, locked.

    Args:
        arguments: The config's arguments from `split_arguments`.
        default: Place of the config if the arguments name none.

    Raises:
        UserError: No config is named, it cannot be used, or a setting is unknown or has a value of another type.
    """
    place, changes = default, []
    for argument in split_arguments(arguments)[0]:
        flag, equals, value = argument.partition("=")
        if not equals:
            raise UserError(f"{flag} has no value; give {flag}=VALUE")
        if flag == "--config":
            place = value
        else:
            changes.append((flag.removeprefix("--config."), value))
    if not place:
        raise UserError(
            f"--config is not given; give an own file, --config=FILE.py, or a recipe, --config={_choices()}"
        )
    config = load_config(place)
    for name, value in _values(changes, kind_of(config)).items():
        group, _, own = name.rpartition(".")
        try:
            setattr(config[group] if group else config, own, value)
        except (AttributeError, KeyError, TypeError) as error:
            raise UserError(
                f"--config={place} has no setting {name}: {error}; start from pretraining_config()"
            ) from error
    return config


def kind_of(config: "ConfigDict") -> str:
    """What a config describes: `pretraining`, `finetuning` or a `study`."""
    return "study" if "variants" in config else "finetuning" if "task" in config else "pretraining"


def load_config(place: str) -> "ConfigDict":
    """The config of a place: the name of a recipe or the path of a Python file, with its argument after a colon.

    Raises:
        UserError: There is no such config, or it cannot be used.
    """
    from ml_collections import ConfigDict

    path, argument = _located(place)
    given = [] if argument is None else [argument]
    try:
        get_config = runpy.run_path(str(path)).get("get_config")
        if get_config is None:
            raise UserError(f"{path} has no function get_config; write one that returns pretraining_config(), changed")
        try:
            inspect.signature(get_config).bind(*given)
        except TypeError as error:
            raise UserError(f"--config={place}: get_config({', '.join(map(repr, given))}): {error}") from error
        config = get_config(*given)
    except UserError:
        raise
    except Exception as error:
        lines = [frame.lineno for frame in traceback.extract_tb(error.__traceback__) if frame.filename == str(path)]
        where = f"{path}, line {lines[-1]}" if lines else str(path)
        raise UserError(f"the config cannot be used: {where}: {type(error).__name__}: {error}") from error
    if not isinstance(config, ConfigDict):
        raise UserError(f"get_config of {path} returns a {type(config).__name__}; return pretraining_config(), changed")
    return config.lock()


def suggestion(flag: str, task: str | None = None) -> str | None:
    """The flag of the setting that a mistyped or shortened flag probably means, such as `--config.data.records`.

    Args:
        flag: The flag as given: `--records`, `--config.record` or `--global-batch=64`.
        task: `pretraining` or `finetuning`, to search only among its settings.
    """
    wanted = flag.split("=", 1)[0].lstrip("-").removeprefix("config.").replace("-", "_")
    known = [name for each in TASKS if task in (None, each) for name in _TYPES[each]]
    last = {name.rpartition(".")[2]: name for name in reversed(known)}
    same = [wanted] if wanted in known else [name for name in known if wanted and f".{name}".endswith(f".{wanted}")]
    begun = [name for name in known if len(wanted) > 2 and (name.startswith(wanted) or f".{wanted}" in f".{name}")]
    near = difflib.get_close_matches(wanted, known, n=1, cutoff=0.75)
    near_last = difflib.get_close_matches(wanted.rpartition(".")[2], last, n=1, cutoff=0.8)
    found = next(iter([*same, *begun, *near, *(last[name] for name in near_last)]), None)
    return None if found is None else f"--config.{found}"


def _choices() -> str:
    return ", ".join(recipes())


def _located(place: str) -> tuple[Path, str | None]:
    """File of a config and the argument for it.

    Raises:
        UserError: There is no such file or recipe.
    """
    found = re.fullmatch(r"(.*?\.py|[^:]*)(?::(.*))?", place, re.DOTALL)
    path, argument = found.groups() if found else (place, None)
    shipped, after = recipes(), "" if argument is None else f":{argument}"
    if not path.endswith(".py") and "/" not in path:
        if path in shipped:
            return shipped[path], argument
        near = difflib.get_close_matches(path, shipped, n=1)
        hint = f"did you mean --config={near[0]}{after}; " if near else ""
        raise UserError(f"no recipe {path!r}; {hint}there are {_choices()}; the name of an own file ends in .py")
    if not Path(path).is_file():
        name, remedy = Path(path).stem, f"the recipes that come with the package are {_choices()}"
        remedy = f"it comes with the package, --config={name}{after}" if name in shipped else remedy
        raise UserError(f"--config={place}: no file {path}; {remedy}")
    return Path(path), argument


def _is_switch(name: str) -> bool:
    return any(name in types and types[name].kind is bool for types in _TYPES.values())


def _values(changes: list[tuple[str, str]], task: str) -> dict[str, Any]:
    """Values of settings by name; a repeated flag adds to a setting that lists values, and replaces any other.

    Raises:
        UserError: The task has no such setting, or the text is not one of its values.
    """
    values: dict[str, Any] = {}
    for name, text in changes:
        expected = _TYPES[task].get(name)
        if expected is None:
            raise UserError(_unknown(name, task))
        value = _parsed(name, text, expected)
        values[name] = (values.get(name) or ()) + value if expected.kind is tuple and value is not None else value
    return values


def _unknown(name: str, task: str) -> str:
    other = next((each for each in TASKS if name in _TYPES[each]), None)
    if other:
        return f"{task} has no setting --config.{name}; {other} has"
    inside = [f"--config.{each}" for each in _TYPES[task] if each.startswith(f"{name.partition('.')[0]}.")]
    near = None if "." not in name and inside else suggestion(name, task)
    hint = f"did you mean {near}" if near else f"there are {', '.join(inside)}" if inside else "see sarwmix settings"
    return f"unknown setting --config.{name}; {hint}"


def _parsed(name: str, text: str, expected: Type) -> Any:
    """Value of a setting from its text.

    Raises:
        UserError: The text has another type, or is empty where the setting cannot be unset.
    """
    unset = text == "" or (text.lower() == "none" and (expected.optional or str not in (expected.kind, expected.part)))
    if unset and expected.optional:
        return None
    try:
        if unset:
            raise ValueError
        return _tuple(text, expected.part) if expected.kind is tuple else _plain(text, expected.kind)
    except _NO_VALUE:
        found = "cannot be unset" if unset else f"is {text!r}"
        raise UserError(f"--config.{name} {found}; give {expected.words}, --config.{name}=VALUE") from None


def _plain(text: str, kind: type) -> Any:
    return _TRUE_FALSE[text.lower()] if kind is bool else kind(text)


def _tuple(text: str, part: type) -> tuple[Any, ...]:
    """Values from a text such as `1,1,2,1` or `(0.7, 0.3)`; for a list of texts, an unquoted text is one value."""
    if part is not str:
        value = ast.literal_eval(text)
        return tuple(_number(each, part) for each in (value if isinstance(value, tuple | list) else [value]))
    try:
        value = ast.literal_eval(text)
    except _NO_VALUE:
        return (text,)
    parts = tuple(value) if isinstance(value, tuple | list) else (value,)
    return parts if all(isinstance(each, str) for each in parts) else (text,)


def _number(value: Any, kind: type) -> Any:
    if isinstance(value, bool) or not isinstance(value, int | float) or (kind is int and value != int(value)):
        raise ValueError
    return kind(value)
