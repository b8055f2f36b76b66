"""What a declared setting says about itself: its type, whether it may be unset, and its range."""

import dataclasses
import types
import typing
from typing import Any

RANGES = {
    "positive": (lambda value: value > 0, "a number above 0"),
    "not negative": (lambda value: value >= 0, "0 or more"),
    "below one": (lambda value: 0 <= value < 1, "a number from 0 to below 1"),
    "probability": (lambda value: 0 <= value <= 1, "a probability from 0 to 1"),
    "share": (lambda value: 0 < value <= 1, "a number above 0, up to 1"),
}


def hints(kind: Any) -> dict[str, Any]:
    """Type of every setting, by name, in order."""
    found = typing.get_type_hints(kind, include_extras=True)
    return {item.name: found[item.name] for item in dataclasses.fields(kind)}


class Type(typing.NamedTuple):
    """What a type hint says: plain type, type of a tuple's parts, range, choices, and whether it may be unset."""

    kind: Any
    part: Any
    range: str | None
    choices: tuple[str, ...]
    optional: bool

    @classmethod
    def of(cls, hint: Any) -> "Type":
        """The type that a hint such as `Annotated[int, "positive"] | None` means."""
        optional = isinstance(hint, types.UnionType) or typing.get_origin(hint) is typing.Union
        if optional:
            hint = next(part for part in typing.get_args(hint) if part is not types.NoneType)
        limits = getattr(hint, "__metadata__", (None,))[0]
        hint = typing.get_args(hint)[0] if limits else hint
        if typing.get_origin(hint) is typing.Literal:
            return cls(str, None, limits, typing.get_args(hint), optional)
        return cls(typing.get_origin(hint) or hint, next(iter(typing.get_args(hint)), None), limits, (), optional)


def setting_names(kind: Any) -> list[str]:
    """Dotted names of all settings of a kind of run."""
    return list(setting_types(kind))


def setting_types(kind: Any, where: str = "") -> dict[str, Type]:
    """Types of all settings of a kind of run by their dotted names."""
    types_of: dict[str, Type] = {}
    for own, hint in hints(kind).items():
        inside = dataclasses.is_dataclass(hint)
        types_of |= setting_types(hint, f"{where}{own}.") if inside else {where + own: Type.of(hint)}
    return types_of
