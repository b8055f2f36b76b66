"""The table of all settings that `sarwmix settings` prints."""

import dataclasses
import itertools
import textwrap
from typing import Any

from sarwmix_jax.errors import UserError
from sarwmix_jax.settings.declarations import Type, hints, meaning_of
from sarwmix_jax.settings.sections import TASKS
from sarwmix_jax.settings.study import StudySettings

COLUMNS = (27, 25, 14, 46)
"""Widths of name, type, default and meaning, in characters."""

_HEAD = ("name", "type", "default", "meaning")

_LAST = (
    "Set one with --config.NAME=VALUE, such as --config.batch.global_batch=256; a list with commas, as 2,2,18,2; "
    "unset one with an empty value or none: --config.batch.micro_batch="
)


@dataclasses.dataclass(frozen=True)
class Setting:
    """One setting as it is declared."""

    name: str
    type: Type
    default: Any
    meaning: str


def declared(settings: Any, where: str = "") -> dict[str, Setting]:
    """All settings of an instance of a kind of run, by dotted name; its values are the defaults."""
    found: dict[str, Setting] = {}
    for own, hint in hints(type(settings)).items():
        name, value = where + own, getattr(settings, own)
        if dataclasses.is_dataclass(value):
            found |= declared(value, f"{name}.")
        else:
            found[name] = Setting(name, Type.of(hint), value, meaning_of(type(settings), own))
    return found


def settings_table(task: str | None = None) -> str:
    """Every setting with its type, default and meaning, in groups.

    Args:
        task: `pretraining`, `finetuning` or `study`; by default the first two, with common settings listed once.

    Raises:
        UserError: There is no such task.
    """
    kinds: dict[str, Any] = TASKS | {"study": StudySettings}
    if task is not None and task not in kinds:
        raise UserError(f"no settings of {task!r}; give one of {', '.join(kinds)}, or none for the first two")
    tasks = {name: declared(kinds[name]()) for name in (TASKS if task is None else [task])}
    names = list(dict.fromkeys(itertools.chain.from_iterable(tasks.values())))
    shared = [name for name in names if all(name in known for known in tasks.values())]
    titles = {f"Settings of {' and '.join(tasks)}": shared}
    if task is None:
        titles |= {f"Settings of {each} alone": [name for name in tasks[each] if name not in shared] for each in tasks}
    blocks = [_block(title, tasks, inside) for title, inside in titles.items()]
    return "\n\n".join([*blocks, textwrap.fill(_LAST, sum(COLUMNS) + 3)])


def _block(title: str, tasks: dict[str, dict[str, Setting]], names: list[str]) -> str:
    lines = [title, "", _row(_HEAD)]
    for _, group in itertools.groupby(sorted(names, key=lambda name: "." in name), key=lambda name: name.split(".")[0]):
        lines += ["", *(_row(_cells([known[name] for known in tasks.values() if name in known])) for name in group)]
    return "\n".join(lines)


def _cells(found: list[Setting]) -> tuple[str, str, str, str]:
    """Cells of one setting; where the defaults of the tasks differ, that of finetuning follows in brackets."""
    first, defaults = found[0], list(dict.fromkeys(_shown(each.default) for each in found))
    default = defaults[0] + (f" (finetuning {defaults[1]})" if len(defaults) > 1 else "")
    words = first.type.words.removeprefix("a ") + (", or unset" if first.type.optional else "")
    return first.name, words, default, first.meaning


def _shown(value: Any) -> str:
    """A value as written on the command line."""
    if isinstance(value, tuple):
        return ",".join(map(_shown, value)) or "empty"
    if value is None:
        return "unset"
    return str(value).lower() if isinstance(value, bool) else f"{value:g}" if isinstance(value, float) else str(value)


def _row(cells: tuple[str, ...]) -> str:
    wrapped = (textwrap.wrap(cell, width) for cell, width in zip(cells, COLUMNS, strict=True))
    lines = itertools.zip_longest(*wrapped, fillvalue="")
    return "\n".join(
        " ".join(f"{part:{width}}" for part, width in zip(line, COLUMNS, strict=True)).rstrip() for line in lines
    )
