"""The pickle inside a `.pth` file, interpreted as data.

Opcodes are decoded by `pickletools` (which only parses) and interpreted here. Nothing is ever imported or called. The
names listed in `names.py` are matched as text: the few that a checkpoint needs are converted to plain data and views of
the storages, the harmless ones beside it to nothing (`Inert`). Any other name, and any opcode that `torch.save` does
not use, is refused. Work and memory are bounded by the number of opcodes.
"""

import math
import pickletools
import re
import struct
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from sarwmix_jax.conversion import names

MAX_BYTES = 16 << 20
MAX_OPCODES = 250_000
"""Four times as many as in a base-size file with optimiser state; the number grows with the blocks, not their width."""
MAX_KEYS = 10_000
"""Keys per dictionary. Keys can be chosen to collide, and then take time that grows with the square of their number."""
_KEY_BITS = 31
"""Bits of a key that is a number: wider numbers can share one hash."""
_NUMBER_BYTES = 64
"""Bytes of any integer; states of random generators have 16."""
_STORAGE = re.compile(r"[0-9]{1,9}")
_MAX_DIMENSIONS = 8
_MAX_ELEMENT_BITS = 40
_MAX_DEPTH = 20


class Refused(ValueError):
    """The pickle is damaged or contains something that no checkpoint needs."""


class Surplus(Refused):
    """The pickle may be intact, but contains more than a model and the known objects beside it."""


@dataclass(frozen=True)
class Inert:
    """A name that is ignored, or an object that the file would create with it: without value, and never called."""

    name: str


@dataclass(frozen=True)
class _Storage:
    """A storage named in the pickle: the bytes of its archive member, and their type."""

    data: memoryview
    dtype: np.dtype


class _Namespace(dict[str, Any]):
    """An argparse.Namespace as plain data."""


@dataclass(frozen=True)
class _Name:
    """A known name; it is never looked up."""

    name: tuple[str, str]


class _Stack:
    """State of the interpreter: stack since the last mark, the stacks below, memo, and the archive's members."""

    def __init__(self, members: Mapping[str, memoryview]) -> None:
        self.members = members
        self.items: list[Any] = []
        self.below: list[list[Any]] = []
        self.memo: dict[int, Any] = {}

    def push(self, item: Any) -> None:
        self.items.append(item)

    def take(self, count: int) -> list[Any]:
        return [self.items.pop() for _ in range(count)][::-1]

    def mark(self) -> None:
        if len(self.below) > 5 * _MAX_DEPTH:  # very many open groups take Python's garbage collector seconds
            raise Refused("its pickle is nested too deeply")
        self.below.append(self.items)
        self.items = []

    def take_marked(self) -> list[Any]:
        items, self.items = self.items, self.below.pop()
        return items


def interpret(pickled: bytes, members: Mapping[str, memoryview]) -> Any:
    """Interpret a pickle as plain data, with tensors as read-only views of their storages.

    Args:
        pickled: The pickle.
        members: The archive's members by name; `data/<key>` holds the storage of a key.

    Raises:
        Refused: The pickle is damaged.
        Surplus: It is too long, or contains a name that is not in the list of `names`.
    """
    stack = _Stack(members)
    try:
        for count, (opcode, argument, _) in enumerate(pickletools.genops(pickled), 1):
            if count > MAX_OPCODES:
                raise Surplus(f"its pickle has more than {MAX_OPCODES} opcodes")
            if opcode.name == "STOP":
                result = stack.items.pop()
                if stack.items or stack.below:
                    raise Refused("its pickle ends with unused items")
                _check_depth(result, set())
                return result
            action = _ACTIONS.get(opcode.name)
            if action is None:
                raise Surplus(f"its pickle uses the opcode {opcode.name}, which no checkpoint needs")
            action(stack, argument)
    except Refused:
        raise
    except IndexError as error:
        raise Refused("its pickle takes from an empty stack, or ends a group that it never began") from error
    except (ValueError, struct.error, OverflowError, EOFError) as error:
        raise Refused("its pickle is damaged or truncated") from error
    raise Refused("its pickle has no end")


def _check_depth(item: Any, done: set[int], depth: int = 0) -> None:
    """Refuse deep nesting and therefore cycles; a shared item counts once."""
    if not isinstance(item, dict | list | tuple) or id(item) in done:
        return
    if depth > _MAX_DEPTH:
        raise Refused("its pickle is nested too deeply")
    for part in item.values() if isinstance(item, dict) else item:
        _check_depth(part, done, depth + 1)
    done.add(id(item))


def _push_number(stack: _Stack, argument: int) -> None:
    if argument.bit_length() > 8 * _NUMBER_BYTES:
        raise Surplus(f"its pickle contains an integer of more than {_NUMBER_BYTES} bytes")
    stack.push(argument)


def _put(stack: _Stack, argument: Any) -> None:
    if argument is not None and argument > MAX_OPCODES:  # positions count from 0; larger ones could be made to collide
        raise Refused("its pickle stores an item at a position that it does not need")
    stack.memo[len(stack.memo) if argument is None else argument] = stack.items[-1]


def _get(stack: _Stack, argument: Any) -> None:
    if argument not in stack.memo:
        raise Refused("its pickle recalls an item that it never stored")
    stack.push(stack.memo[argument])


def _extend(stack: _Stack, items: list[Any]) -> None:
    if not isinstance(stack.items[-1], list):
        raise Refused("its pickle appends to something that is not a list")
    stack.items[-1].extend(items)


def _add(stack: _Stack, argument: Any) -> None:
    stack.take_marked()
    if not isinstance(stack.items[-1], Inert):
        raise Refused("its pickle adds to something that is not a set")


def _frozenset(stack: _Stack, argument: Any) -> None:
    stack.take_marked()
    stack.push(Inert("builtins.frozenset"))


def _insert(stack: _Stack, items: list[Any]) -> None:
    target = stack.items[-1]
    if type(target) is not dict or len(items) % 2:
        raise Refused("its pickle sets items of something that is not a dictionary")
    # Only flat keys: the hash of a nested tuple can take unlimited time.
    if not all(isinstance(key, str | int | float | None) for key in items[::2]):
        raise Surplus("its pickle has a dictionary key that is neither text nor a number")
    if not all(isinstance(key, str | None) or abs(key) < 1 << _KEY_BITS for key in items[::2]):
        raise Surplus(f"its pickle has a dictionary key that is not a number of {_KEY_BITS} bits")
    if len(target) + len(items) // 2 > MAX_KEYS:
        raise Surplus(f"its pickle has a dictionary of more than {MAX_KEYS} keys")
    target.update(zip(items[::2], items[1::2], strict=True))


def _push_name(stack: _Stack, module: Any, name: Any) -> None:
    if not isinstance(name, str) or not isinstance(module, str):
        raise Refused("its pickle has a name that is not text")
    if (module, name) in names.UNDERSTOOD:
        stack.push(_Name((module, name)))
    elif (module, name) in names.PASSED_OVER:
        stack.push(Inert(f"{module}.{name}"))
    else:
        shown = f"{module}.{name}"[:80]
        raise Surplus(f"its pickle names {shown!a}, which is not in the list of names that a checkpoint may contain")


def _call(stack: _Stack, argument: Any) -> None:
    function, arguments = stack.take(2)
    if not isinstance(function, _Name | Inert) or not isinstance(arguments, tuple):
        raise Refused("its pickle calls something that is not a known name")
    if isinstance(function, Inert):
        stack.push(function)
    elif function.name == names.REBUILD_TENSOR:
        stack.push(_tensor(arguments))
    elif function.name == names.REBUILD_PARAMETER and arguments and isinstance(arguments[0], np.ndarray):
        stack.push(arguments[0])
    elif function.name in (names.ORDERED_DICT, names.NAMESPACE) and not arguments:
        stack.push({} if function.name == names.ORDERED_DICT else _Namespace())
    else:
        raise Refused(f"its pickle uses {'.'.join(function.name)} in an unknown way")


def _build(stack: _Stack, argument: Any) -> None:
    state, target = stack.items.pop(), stack.items[-1]
    if isinstance(target, Inert):
        return
    if type(state) is not dict or not all(isinstance(key, str) for key in state):
        raise Refused("its pickle sets the state of an object in an unknown way")
    if isinstance(target, _Namespace):
        target.update(state)
    elif not isinstance(target, dict) or set(state) != {"_metadata"}:  # version notes of a state dict: not needed
        raise Refused("its pickle sets the state of an object that has none")


def _persistent(stack: _Stack, argument: Any) -> None:
    match stack.items.pop():
        case ("storage", _Name(("torch", kind)), str(key), str(), int(elements)) if _STORAGE.fullmatch(key):
            dtype, data = names.STORAGE_TYPES[kind], stack.members.get(f"data/{key}")
        case _:
            raise Refused("its pickle refers to a storage in an unknown way")
    if data is None:
        raise Refused(f"its storage data/{key} is missing")
    if isinstance(elements, bool) or len(data) != elements * dtype.itemsize:
        raise Refused(f"its storage data/{key} has {len(data)} bytes instead of {elements * dtype.itemsize}")
    stack.push(_Storage(data, dtype))


def _tensor(arguments: tuple[Any, ...]) -> np.ndarray:
    """The view of a storage that a tensor describes; it must lie inside the storage and must not enlarge it."""
    match arguments:
        case (_Storage(data, dtype), int(offset), tuple(shape), tuple(strides), *_):
            pass
        case _:
            raise Refused("its pickle rebuilds a tensor in an unknown way")
    ranks_fit = len(shape) == len(strides) <= _MAX_DIMENSIONS
    if not ranks_fit or not all(type(number) is int and 0 <= number < 1 << 60 for number in (offset, *shape, *strides)):
        raise Refused("a tensor has an invalid shape")
    if math.prod(side or 1 for side in shape) >> _MAX_ELEMENT_BITS:  # with one axis of length 0 any other would fit
        raise Refused(f"a tensor of shape {shape} is larger than any file")
    elements, size = math.prod(shape), len(data) // dtype.itemsize
    last = offset + sum((side - 1) * stride for side, stride in zip(shape, strides, strict=True))
    if elements > size or (elements and last >= size) or offset > size:
        raise Refused(f"a tensor of shape {shape} reads outside its storage of {size} elements")
    steps = tuple(stride * dtype.itemsize for stride in strides)
    return np.ndarray(shape, dtype, data, offset * dtype.itemsize, steps)


_ACTIONS: dict[str, Callable[[_Stack, Any], None]] = {
    **dict.fromkeys(("PROTO", "FRAME"), lambda stack, argument: None),
    "MARK": lambda stack, argument: stack.mark(),
    "POP": lambda stack, argument: stack.take(1).clear(),
    "POP_MARK": lambda stack, argument: stack.take_marked().clear(),
    "NEWTRUE": lambda stack, argument: stack.push(True),
    "NEWFALSE": lambda stack, argument: stack.push(False),
    **dict.fromkeys(
        ("NONE", "BININT", "BININT1", "BININT2", "BINFLOAT", "BINUNICODE", "SHORT_BINUNICODE", "BINUNICODE8"),
        _Stack.push,
    ),
    **dict.fromkeys(("LONG1", "LONG4"), _push_number),
    **dict.fromkeys(
        ("SHORT_BINBYTES", "BINBYTES", "BINBYTES8"), lambda stack, argument: stack.push(Inert("builtins.bytes"))
    ),
    **dict.fromkeys(("BINPUT", "LONG_BINPUT", "MEMOIZE"), _put),
    **dict.fromkeys(("BINGET", "LONG_BINGET"), _get),
    "EMPTY_DICT": lambda stack, argument: stack.push({}),
    "EMPTY_LIST": lambda stack, argument: stack.push([]),
    "EMPTY_SET": lambda stack, argument: stack.push(Inert("builtins.set")),
    "ADDITEMS": _add,
    "FROZENSET": _frozenset,
    "EMPTY_TUPLE": lambda stack, argument: stack.push(()),
    "TUPLE": lambda stack, argument: stack.push(tuple(stack.take_marked())),
    "TUPLE1": lambda stack, argument: stack.push(tuple(stack.take(1))),
    "TUPLE2": lambda stack, argument: stack.push(tuple(stack.take(2))),
    "TUPLE3": lambda stack, argument: stack.push(tuple(stack.take(3))),
    "APPEND": lambda stack, argument: _extend(stack, stack.take(1)),
    "APPENDS": lambda stack, argument: _extend(stack, stack.take_marked()),
    "SETITEM": lambda stack, argument: _insert(stack, stack.take(2)),
    "SETITEMS": lambda stack, argument: _insert(stack, stack.take_marked()),
    "GLOBAL": lambda stack, argument: _push_name(stack, *argument.partition(" ")[::2]),
    "STACK_GLOBAL": lambda stack, argument: _push_name(stack, *stack.take(2)),
    **dict.fromkeys(("REDUCE", "NEWOBJ"), _call),
    "BUILD": _build,
    "BINPERSID": _persistent,
}
