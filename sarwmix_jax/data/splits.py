"""Split expressions such as `train[:12.5%]+validation[100:200]`, with the meaning TFDS gives them."""

import re
from collections.abc import Mapping
from dataclasses import dataclass

from sarwmix_jax.errors import UserError

_BOUND = r"(-?\d+(?:\.\d+)?)?(%)?"
_PART = re.compile(rf"([\w-]+)(?:\[{_BOUND}:{_BOUND}\])?")


@dataclass(frozen=True)
class SplitRange:
    """Records `start` to `stop` (exclusive) of the split `name`."""

    name: str
    start: int
    stop: int


def parse_split(expression: str, records: Mapping[str, int], where: object) -> list[SplitRange]:
    """The ranges of records that a split expression names, in its order.

    Args:
        expression: Names joined by `+`, each with an optional slice in records or percent; bounds may be
            negative (from the end); percentages are rounded to the closest record.
        records: Records per split.
        where: Name of the record set, for errors.

    Raises:
        UserError: Unknown split, an expression that cannot be understood, or no record in it.
    """
    ranges = [_parse_part(part.strip(), expression, records, where) for part in expression.split("+")]
    ranges = [part for part in ranges if part.stop > part.start]
    if not ranges:
        raise UserError(f"split {expression!r} of {where} is empty; it has {_known(records)}")
    return ranges


def _parse_part(part: str, expression: str, records: Mapping[str, int], where: object) -> SplitRange:
    match = _PART.fullmatch(part)
    if match is None:
        raise UserError(
            f"split {expression!r} cannot be understood; write it as train, train[:12.5%], train[100:200] or "
            "train+validation"
        )
    name, start, start_unit, stop, stop_unit = match.groups()
    if name not in records:
        raise UserError(f"no split {name!r} in {where}; it has {_known(records)}")
    count = records[name]
    return SplitRange(
        name,
        _bound(start, start_unit, 0, count, expression),
        _bound(stop, stop_unit, count, count, expression),
    )


def _bound(text: str | None, unit: str | None, default: int, count: int, expression: str) -> int:
    if text is None:
        return default
    if unit is None and "." in text:
        raise UserError(f"split {expression!r}: {text} is no whole number of records; write {text}% for percent")
    value = float(text)
    if unit is not None and abs(value) > 100:
        raise UserError(f"split {expression!r}: {text}% lies outside -100% to 100%")
    if unit is None and abs(value) > count:
        raise UserError(f"split {expression!r}: {text} lies outside the split's {count} records")
    position = round(value * count / 100) if unit is not None else int(value)
    if position < 0:
        position += count
    return position


def _known(records: Mapping[str, int]) -> str:
    return ", ".join(f"{name} ({count} records)" for name, count in records.items())
