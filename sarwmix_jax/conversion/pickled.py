"""The pickle inside a `.pth` file, interpreted as data.

An interpreter of its own: opcodes are decoded by `pickletools` (which only parses) and acted upon here. Nothing is
ever imported or called. The few names a checkpoint needs (tensor rebuild, storage types, OrderedDict,
argparse.Namespace) are matched by text and turned into plain data; any other name, and any opcode that
`torch.save` has no use for, is refused. Work and memory are bounded by the number of opcodes.
"""

import pickletools
import struct
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

MAX_BYTES = 16 << 20
MAX_OPCODES = 250_000
"""Four times what a base-size file with optimiser state has; the number grows with the blocks, not their width."""
_MAX_DIMENSIONS = 8

STORAGE_TYPES = {
    "FloatStorage": "float32",
    "DoubleStorage": "float64",
    "HalfStorage": "float16",
    "BFloat16Storage": "bfloat16",
    "CharStorage": "int8",
    "ByteStorage": "uint8",
    "ShortStorage": "int16",
    "IntStorage": "int32",
    "LongStorage": "int64",
    "BoolStorage": "bool",
}
"""Element type of each storage class of the module `torch`."""

_REBUILD_TENSOR = ("torch._utils", "_rebuild_tensor_v2")
_REBUILD_PARAMETER = ("torch._utils", "_rebuild_parameter")
_ORDERED_DICT = ("collections", "OrderedDict")
_NAMESPACE = ("argparse", "Namespace")
_ALLOWED = {_REBUILD_TENSOR, _REBUILD_PARAMETER, _ORDERED_DICT, _NAMESPACE} | {
    ("torch", name) for name in STORAGE_TYPES
}


class Refused(ValueError):
    """The pickle says something that a checkpoint has no need to say."""


@dataclass(frozen=True)
class Storage:
    """A storage named in the pickle: the archive member `data/<key>` and its elements."""

    key: str
    element_type: str
    elements: int


@dataclass(frozen=True)
class Tensor:
    """A strided view of a storage; offset and strides count elements."""

    storage: Storage
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]


@dataclass
class Namespace:
    """An argparse.Namespace as plain data."""

    values: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class _Name:
    """A global of the allow-list, never looked up."""

    name: tuple[str, str]


class _Stack:
    """The pickle machine's stack, marks and memo."""

    def __init__(self) -> None:
        self.items: list[Any] = []
        self.marks: list[int] = []
        self.memo: dict[int, Any] = {}

    def push(self, item: Any) -> None:
        self.items.append(item)

    def pop(self) -> Any:
        if len(self.items) <= (self.marks[-1] if self.marks else 0):
            raise Refused("its pickle takes from an empty stack")
        return self.items.pop()

    def top(self) -> Any:
        item = self.pop()
        self.items.append(item)
        return item

    def pop_mark(self) -> list[Any]:
        if not self.marks:
            raise Refused("its pickle ends a group that it never began")
        start = self.marks.pop()
        taken = self.items[start:]
        del self.items[start:]
        return taken


def interpret(pickled: bytes) -> Any:
    """Interpret a pickle as plain data, `Tensor`s and `Namespace`s.

    Raises:
        Refused: it is broken, too long, or names anything outside the allow-list.
    """
    stack = _Stack()
    try:
        for count, (opcode, argument, _) in enumerate(pickletools.genops(pickled), 1):
            if count > MAX_OPCODES:
                raise Refused(f"its pickle has more than {MAX_OPCODES} opcodes")
            if opcode.name == "STOP":
                result = stack.pop()
                if stack.items or stack.marks:
                    raise Refused("its pickle ends with unused items")
                return result
            action = _ACTIONS.get(opcode.name)
            if action is None:
                raise Refused(f"its pickle uses the opcode {opcode.name}, which no checkpoint needs")
            action(stack, argument)
    except Refused:
        raise
    except (ValueError, struct.error, IndexError, OverflowError, EOFError) as error:
        raise Refused("its pickle is broken or cut off") from error
    raise Refused("its pickle has no end")


def _nothing(stack: _Stack, argument: Any) -> None:
    del stack, argument


def _value(stack: _Stack, argument: Any) -> None:
    stack.push(argument)


def _constant(value: Any) -> Callable[[_Stack, Any], None]:
    return lambda stack, argument: stack.push(value)


def _mark(stack: _Stack, argument: Any) -> None:
    stack.marks.append(len(stack.items))


def _put(stack: _Stack, argument: Any) -> None:
    stack.memo[len(stack.memo) if argument is None else argument] = stack.top()


def _get(stack: _Stack, argument: Any) -> None:
    if argument not in stack.memo:
        raise Refused("its pickle recalls an item that it never stored")
    stack.push(stack.memo[argument])


def _tuple_of(count: int) -> Callable[[_Stack, Any], None]:
    def make(stack: _Stack, argument: Any) -> None:
        items = [stack.pop() for _ in range(count)]
        stack.push(tuple(reversed(items)))

    return make


def _extend(stack: _Stack, items: list[Any]) -> None:
    target = stack.top()
    if not isinstance(target, list):
        raise Refused("its pickle appends to something that is not a list")
    target.extend(items)


def _insert(stack: _Stack, items: list[Any]) -> None:
    target = stack.top()
    if not isinstance(target, dict) or len(items) % 2:
        raise Refused("its pickle sets items of something that is not a dictionary")
    for key, value in zip(items[::2], items[1::2], strict=True):
        # Only flat keys: the hash of a nested tuple can take for ever.
        if not isinstance(key, str | int | float | None):
            raise Refused("its pickle has a dictionary key that is neither text nor a number")
        target[key] = value


def _set_item(stack: _Stack, argument: Any) -> None:
    value, key = stack.pop(), stack.pop()
    _insert(stack, [key, value])


def _global(stack: _Stack, argument: Any) -> None:
    _push_name(stack, *argument.partition(" ")[::2])


def _stack_global(stack: _Stack, argument: Any) -> None:
    name, module = stack.pop(), stack.pop()
    if not isinstance(name, str) or not isinstance(module, str):
        raise Refused("its pickle names something without text")
    _push_name(stack, module, name)


def _push_name(stack: _Stack, module: str, name: str) -> None:
    if (module, name) not in _ALLOWED:
        shown = f"{module}.{name}"[:80]
        raise Refused(f"its pickle names {shown!a}, which is not on the list of what a checkpoint may hold")
    stack.push(_Name((module, name)))


def _call(stack: _Stack, argument: Any) -> None:
    arguments, function = stack.pop(), stack.pop()
    if not isinstance(function, _Name) or not isinstance(arguments, tuple):
        raise Refused("its pickle calls something that is not a known name")
    if function.name == _REBUILD_TENSOR:
        stack.push(_tensor(arguments))
    elif function.name == _REBUILD_PARAMETER and arguments and isinstance(arguments[0], Tensor):
        stack.push(arguments[0])
    elif function.name == _ORDERED_DICT and not arguments:
        stack.push({})
    elif function.name == _NAMESPACE and not arguments:
        stack.push(Namespace())
    else:
        raise Refused(f"its pickle uses {'.'.join(function.name)} in an unknown way")


def _build(stack: _Stack, argument: Any) -> None:
    state, target = stack.pop(), stack.top()
    if not isinstance(state, dict) or not all(isinstance(key, str) for key in state):
        raise Refused("its pickle sets the state of an object in an unknown way")
    if isinstance(target, Namespace):
        target.values.update(state)
    elif not isinstance(target, dict) or set(state) != {"_metadata"}:  # version notes of a state dict: not needed
        raise Refused("its pickle sets the state of an object that has none")


def _persistent(stack: _Stack, argument: Any) -> None:
    reference = stack.pop()
    match reference:
        case ("storage", _Name(("torch", kind)), str(key), str(), int(elements)) if kind in STORAGE_TYPES:
            if isinstance(elements, bool) or not 0 <= elements < 1 << 60 or not key.isascii() or not key.isdecimal():
                raise Refused("its pickle refers to a storage in an unknown way")
            stack.push(Storage(key, STORAGE_TYPES[kind], elements))
        case _:
            raise Refused("its pickle refers to a storage in an unknown way")


def _tensor(arguments: tuple[Any, ...]) -> Tensor:
    """Check the arguments of a tensor rebuild: the view must lie inside its storage and not multiply it."""
    match arguments:
        case (Storage() as storage, int(offset), tuple(shape), tuple(strides), *_):
            pass
        case _:
            raise Refused("its pickle rebuilds a tensor in an unknown way")
    numbers = (offset, *shape, *strides)
    if len(shape) != len(strides) or len(shape) > _MAX_DIMENSIONS:
        raise Refused("a tensor has a broken shape")
    if not all(type(number) is int and 0 <= number < 1 << 60 for number in numbers):
        raise Refused("a tensor has a broken shape")
    elements = 1
    for side in shape:
        elements *= side
    last = offset + sum((side - 1) * stride for side, stride in zip(shape, strides, strict=True))
    if elements > storage.elements or (elements and last >= storage.elements) or offset > storage.elements:
        raise Refused(f"a tensor of shape {shape} reads outside its storage of {storage.elements} elements")
    return Tensor(storage, offset, shape, strides)


_ACTIONS: dict[str, Callable[[_Stack, Any], None]] = {
    "PROTO": _nothing,
    "FRAME": _nothing,
    "MARK": _mark,
    "POP": lambda stack, argument: _nothing(stack, stack.pop()),
    "POP_MARK": lambda stack, argument: _nothing(stack, stack.pop_mark()),
    "NONE": _constant(None),
    "NEWTRUE": _constant(True),
    "NEWFALSE": _constant(False),
    **dict.fromkeys(("BININT", "BININT1", "BININT2", "LONG1", "LONG4", "BINFLOAT"), _value),
    **dict.fromkeys(("BINUNICODE", "SHORT_BINUNICODE", "BINUNICODE8"), _value),
    **dict.fromkeys(("BINPUT", "LONG_BINPUT", "MEMOIZE"), _put),
    **dict.fromkeys(("BINGET", "LONG_BINGET"), _get),
    "EMPTY_DICT": lambda stack, argument: stack.push({}),
    "EMPTY_LIST": lambda stack, argument: stack.push([]),
    "EMPTY_TUPLE": _constant(()),
    "TUPLE": lambda stack, argument: stack.push(tuple(stack.pop_mark())),
    "TUPLE1": _tuple_of(1),
    "TUPLE2": _tuple_of(2),
    "TUPLE3": _tuple_of(3),
    "APPEND": lambda stack, argument: _extend(stack, [stack.pop()]),
    "APPENDS": lambda stack, argument: _extend(stack, stack.pop_mark()),
    "SETITEM": _set_item,
    "SETITEMS": lambda stack, argument: _insert(stack, stack.pop_mark()),
    "GLOBAL": _global,
    "STACK_GLOBAL": _stack_global,
    "REDUCE": _call,
    "NEWOBJ": _call,
    "BUILD": _build,
    "BINPERSID": _persistent,
}
