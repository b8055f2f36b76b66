"""Number of kernels and bytes moved of a compiled program, from the compiler's text."""

import math
import re
from collections import namedtuple
from collections.abc import Iterator

CALLING = frozenset({"while", "call", "conditional"})
FREE = CALLING | {"parameter", "constant", "bitcast", "tuple", "get-tuple-element"}
"""Operations that start nothing on a device; computations called by the calling ones are counted separately."""

BITS = {"pred": 8}
"""Bits of the type whose name does not contain them."""

Instruction = namedtuple("Instruction", ("name", "shape", "operation", "operands", "rest"))
"""An instruction in the compiler's text: `shape` is that of the result, `rest` follows the operands."""

_COMPUTATION = re.compile(r"^(ENTRY )?%?([\w.-]+) \(.*\{\s*$")
_INSTRUCTION = re.compile(r"^\s*(?:ROOT )?%?([\w.-]+) = (\([^=]*?\)|\S+) ([a-z][\w-]*)\(([^)]*)\)(.*)$")
_CALLED = re.compile(r"(?:calls|body|to_apply|branch_computations)=\{?%?([\w.-]+)")
_TRIPS = re.compile(r'"known_trip_count":\{"n":"(\d+)"')
_ARRAY = re.compile(r"\b([a-z]+)(\d*)\w*\[([\d,]*)\]")


def read_computations(text: str) -> dict[str, list[Instruction]]:
    """The instructions of every computation by its name; `ENTRY` is where a program begins."""
    found, current = dict[str, list[Instruction]](), list[Instruction]()
    for line in text.splitlines():
        if start := _COMPUTATION.match(line):
            current = found["ENTRY" if start[1] else start[2]] = []
        elif match := _INSTRUCTION.match(line):
            current.append(Instruction(*match.groups()))
    return found


def bytes_of(shape: str) -> int:
    """Bytes of an array or of a tuple of arrays."""
    arrays = [(BITS.get(kind) or int(width), sides.split(",")) for kind, width, sides in _ARRAY.findall(shape)]
    return sum(bits * math.prod(int(side) for side in sides if side) for bits, sides in arrays) // 8


def account(text: str) -> dict[str, int]:
    """Counts of one run of a compiled program; the body of a loop counts once per iteration.

    Returns:
        `kernels`: number of kernels; `bytes`: bytes that they read and write without any cache.
    """
    computations = read_computations(text)

    def kernels(name: str, times: int) -> Iterator[tuple[int, int]]:
        """(number of starts, bytes) of every kernel of a computation."""
        shapes = {each.name: each.shape for each in computations[name]}
        for each in computations[name]:
            called, trips = _CALLED.search(each.rest), _TRIPS.search(each.rest)
            if each.operation in CALLING and called:
                yield from kernels(called[1], times * (int(trips[1]) if trips else 1))
            if each.operation not in FREE and not each.operation.endswith("-done"):
                operands = [shapes.get(operand, "") for operand in re.findall(r"%([\w.-]+)", each.operands)]
                yield times, sum(map(bytes_of, (each.shape, *operands)))

    found = list(kernels("ENTRY", 1))
    return {"kernels": sum(times for times, _ in found), "bytes": sum(times * moved for times, moved in found)}
