"""The text of a compiled program, taken apart: computations, instructions, shapes, and places in the source."""

import math
import re
from dataclasses import dataclass

from sarwmix_jax.errors import UserError

BITS = {"pred": 8}
"""Bits of the type whose name does not contain them."""

_COMPUTATION = re.compile(r"^(ENTRY )?%?([\w.-]+) \(.*\{\s*$")
_INSTRUCTION = re.compile(r"^\s+(ROOT )?%?([\w.-]+) = (\([^=]*?\)|\S+) ([a-z][\w-]*)\(([^)]*)\)(.*)$")
_CALLED = re.compile(r"(?:calls|body|to_apply|branch_computations)=\{?%?([\w.-]+)")
_TURNS = re.compile(r'"known_trip_count":\{"n":"(\d+)"')
_ARRAY = re.compile(r"\b([a-z]+)(\d*)\w*\[([\d,]*)\]")
_REMARK = re.compile(r"/\*index=\d+\*/")
_TABLE_LINE = re.compile(r'^(\d+) (?:"(.*)"|\{(.*)\})$')


@dataclass(frozen=True)
class Instruction:
    """One instruction.

    Attributes:
        name: Its name.
        shape: Shape of the result, of an array or a tuple of arrays.
        operation: What it does, such as `fusion`.
        operands: What stands in the brackets: names of operands or, of parameters, the number.
        rest: What follows: attributes, metadata, settings of the compiler's parts.
        root: Whether its result is that of the computation.
    """

    name: str
    shape: str
    operation: str
    operands: tuple[str, ...]
    rest: str
    root: bool = False

    @property
    def called(self) -> str | None:
        """The computation that it calls; of a loop its body, of a choice the first one."""
        found = _CALLED.search(self.rest)
        return found[1] if found else None

    @property
    def turns(self) -> int | None:
        """How often a loop's body runs, where the compiler knows it."""
        found = _TURNS.search(self.rest)
        return int(found[1]) if found else None

    def attribute(self, pattern: str) -> str:
        """The first group of a pattern in what follows the operands; empty where there is none."""
        found = re.search(pattern, self.rest)
        return found[1] if found else ""


@dataclass(frozen=True)
class Module:
    """A compiled program.

    Attributes:
        name: Its name, such as `jit_train_step`.
        computations: The instructions of every computation by its name, in the order in which they are started.
        entry: Name of the computation where it begins.
        places: By number of a stack frame, the functions of the source from the innermost one outwards.
    """

    name: str
    computations: dict[str, tuple[Instruction, ...]]
    entry: str
    places: dict[int, tuple[str, ...]]


def read_module(text: str) -> Module:
    """Takes a compiled program's text apart.

    Raises:
        UserError: It is not such a text, is cut off, or has a line of a form that is not known.
    """
    head = re.match(r"HloModule (\S+?),", text)
    if not head:
        raise UserError("this is not the text of a compiled program: it does not begin with HloModule; write a new one")
    found, name, entry = dict[str, list[Instruction]](), "", ""
    for number, line in enumerate(_REMARK.sub("", text).splitlines(), 1):
        if line == "}":
            name = ""
        elif name:
            found[name].append(_instruction(line, number))
        elif start := _COMPUTATION.match(line):
            name = start[2]
            entry = name if start[1] else entry
            found[name] = []
    called = [each.called for instructions in found.values() for each in instructions]
    missing = [each for each in called if each is not None and each not in found]
    if name or not entry or missing:
        what = f"the computation {missing[0]} is missing" if missing else "its end is missing"
        raise UserError(f"the text of the compiled program {head[1]} is damaged: {what}; write a new one")
    return Module(head[1], {each: tuple(inside) for each, inside in found.items()}, entry, _places(text))


def _instruction(line: str, number: int) -> Instruction:
    match = _INSTRUCTION.match(line)
    if match is None:
        raise UserError(
            f"line {number} of the text of a compiled program is no instruction: {line.strip()[:60]!r}; it is damaged, "
            "or of a version of JAX that is not known here"
        )
    root, name, shape, operation, operands, rest = match.groups()
    return Instruction(name, shape, operation, tuple(re.findall(r"[\w.-]+", operands)), rest, root is not None)


def _places(text: str) -> dict[int, tuple[str, ...]]:
    """Functions by stack frame; empty where the text has no tables of them."""
    tables = {name: _table(text, name) for name in ("FunctionNames", "FileLocations", "StackFrames")}
    functions = {
        number: tables["FunctionNames"].get(_field(line, "function_name_id"), "?")
        for number, line in tables["FileLocations"].items()
    }
    places = dict[int, tuple[str, ...]]()
    for number, line in tables["StackFrames"].items():
        # frames are numbered from 1 and state their parent's number plus 1, so that 1 means none
        outer = places.get(_field(line, "parent_frame_id") - 1, ())
        places[number] = (functions.get(_field(line, "file_location_id"), "?"), *outer)
    return places


def _table(text: str, name: str) -> dict[int, str]:
    """Lines of one of the tables at the head by number."""
    _, found, rest = text.partition(f"\n{name}\n")
    lines = (match for line in rest.split("\n\n", 1)[0].splitlines() if (match := _TABLE_LINE.match(line)))
    return {int(match[1]): match[2] if match[3] is None else match[3] for match in lines} if found else {}


def _field(line: str, name: str) -> int:
    found = re.search(rf"{name}=(\d+)", line)
    return int(found[1]) if found else 0


def arrays_of(shape: str) -> list[tuple[str, tuple[int, ...]]]:
    """Type and sides of each array of a shape."""
    return [
        (kind + width, tuple(int(side) for side in sides.split(",") if side))
        for kind, width, sides in _ARRAY.findall(shape)
    ]


def bytes_of(shape: str) -> int:
    """Bytes of an array or of a tuple of arrays."""
    arrays = [(BITS.get(kind) or int(width or 0), sides.split(",")) for kind, width, sides in _ARRAY.findall(shape)]
    return sum(bits * math.prod(int(side) for side in sides if side) for bits, sides in arrays) // 8


_CONDENSED = {
    r"^(HloModule [^,]*),.*$": r"\1, is_scheduled=true",
    r'^(\d+ )"/.*/([^/]+)"$': r'\1"\2"',
    r"^(\d+ \{).*?(function_name_id=\d+) .*\}$": r"\1\2}",
    r"^((?:ENTRY )?%?[\w.-]+) \(.*\{$": r"\1 () {",
    r"(parameter\(\d+\)),.*$": r"\1",
    r", backend_config=(?!.*(?:gemm_backend_config|known_trip_count)).*$": "",
    r' scheduling_name="[^"]*"': "",
    r"(?<=\])\{[\d,]*\}": "",
}
"""Patterns of what `condensed` shortens, by what is left of it."""


def condensed(text: str) -> str:
    """The same program without what is not read here: layouts, folders, settings of the compiler, code of kernels."""
    for pattern, left in _CONDENSED.items():
        text = re.sub(pattern, left, text, flags=re.MULTILINE)
    return text
