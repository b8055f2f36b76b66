"""How a setting is declared, and what follows from the declaration: type, range, choices, meaning."""

import dataclasses
import types
import typing
from typing import Annotated, Any, TypeVar

T = TypeVar("T")
Positive = Annotated[T, "positive"]
NotNegative = Annotated[T, "not negative"]
BelowOne = Annotated[T, "below one"]
Probability = Annotated[T, "probability"]
Share = Annotated[T, "share"]

RANGES = {
    "positive": (lambda value: value > 0, "above 0"),
    "not negative": (lambda value: value >= 0, "of 0 or more"),
    "below one": (lambda value: 0 <= value < 1, "from 0 to below 1"),
    "probability": (lambda value: 0 <= value <= 1, "from 0 to 1"),
    "share": (lambda value: 0 < value <= 1, "above 0, up to 1"),
}
"""Check of a range, and its text, by the name of the range."""

_NOUNS = {int: "whole number", float: "number", str: "text"}


def setting(default: T, meaning: str) -> T:
    """Field of a frozen dataclass of settings, with its meaning for `sarwmix settings`."""
    return dataclasses.field(default=default, metadata={"meaning": meaning})


def meaning_of(kind: type, name: str) -> str:
    """Meaning of a setting; a class that only changes the default inherits the meaning of its base class."""
    fields = (getattr(each, "__dataclass_fields__", {}).get(name) for each in kind.__mro__)
    return str(next((field.metadata["meaning"] for field in fields if field and "meaning" in field.metadata), ""))


def hints(kind: Any) -> dict[str, Any]:
    """Type of every setting, by name, in order."""
    found = typing.get_type_hints(kind, include_extras=True)
    return {item.name: found[item.name] for item in dataclasses.fields(kind)}


class Type(typing.NamedTuple):
    """What follows from a type hint: plain type, type of a tuple's parts, range, choices, whether it may be unset."""

    kind: Any
    part: Any
    range: str | None
    choices: tuple[str, ...]
    optional: bool

    @classmethod
    def of(cls, hint: Any) -> "Type":
        """The type for a hint such as `Annotated[int, "positive"] | None`."""
        optional = isinstance(hint, types.UnionType) or typing.get_origin(hint) is typing.Union
        if optional:
            hint = next(part for part in typing.get_args(hint) if part is not types.NoneType)
        limits = getattr(hint, "__metadata__", (None,))[0]
        hint = typing.get_args(hint)[0] if limits else hint
        if typing.get_origin(hint) is typing.Literal:
            return cls(str, None, limits, typing.get_args(hint), optional)
        return cls(typing.get_origin(hint) or hint, next(iter(typing.get_args(hint)), None), limits, (), optional)

    @property
    def words(self) -> str:
        """The possible values as text, such as `a whole number above 0`."""
        if self.choices:
            return f"one of {', '.join(self.choices)}"
        if self.part is not None:
            return f"{_NOUNS[self.part]}s separated by commas" if self.part is not str else "texts (repeat the flag)"
        return "true or false" if self.kind is bool else f"a {_NOUNS[self.kind]} {self.range_words}".rstrip()

    @property
    def range_words(self) -> str:
        """Text of the range, if there is one."""
        return RANGES[self.range][1] if self.range else ""


def setting_types(kind: Any, where: str = "") -> dict[str, Type]:
    """Types of all settings of a kind of run by their dotted names."""
    types_of: dict[str, Type] = {}
    for own, hint in hints(kind).items():
        inside = dataclasses.is_dataclass(hint)
        types_of |= setting_types(hint, f"{where}{own}.") if inside else {where + own: Type.of(hint)}
    return types_of
