"""The kernels of a compiled program and what each one moves and computes, read from the compiler's text alone.

Bytes are what a kernel reads and writes if no cache helps. Operations are two per multiplication, of matrix products;
those inside kernels of the package's own and of libraries other than cuBLAS cannot be read and count as none.
"""

import math
import re
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import NamedTuple

from benchmarks.gpu_program.families import COLLECTIVES, COPIES, OTHER, PRODUCTS, direction_of, family_of
from benchmarks.hlo import Instruction, Module, arrays_of, bytes_of, read_module

CALLING = frozenset({"while", "call", "conditional"})
FREE = CALLING | {"parameter", "constant", "bitcast", "tuple", "get-tuple-element", "partition-id", "after-all"}
"""Operations that start nothing on a device; computations called by the calling ones are counted separately."""

COLLECTIVE = re.compile(r"(all-reduce|all-gather|reduce-scatter|all-to-all|collective-permute|collective-broadcast)")
SLICES = frozenset({"slice", "dynamic-slice", "gather"})
MOVES = SLICES | {"parameter", "constant", "bitcast", "tuple", "copy", "transpose", "reshape", "concatenate", "pad"}
"""Operations that only move values; of fusions, all operations inside."""

TRITON = ("__gpu$xla.gpu.triton", "triton_kernel_call")
"""Targets of kernels that the package brings."""


class Product(NamedTuple):
    """Types and form of a matrix product.

    Attributes:
        operands: Types of the operands, such as `bf16 x bf16`.
        result: Type of the result.
        arithmetic: `bfloat16`, `tf32`, `float32`, or the operands' type.
        epilogue: What cuBLAS does to the result before it writes it, such as `BIAS`; `fused` of other kernels.
    """

    operands: str
    result: str
    arithmetic: str
    epilogue: str


@dataclass(frozen=True)
class Kernel:
    """Something that the device starts.

    Attributes:
        name: Name of the instruction.
        kind: `product`, `own kernel`, `library`, `collective`, `move`, `reduction` or `elementwise`.
        family: Part of the computation, see `families`.
        direction: `forward`, `backward`, `recomputed`, or empty for what belongs to no pass.
        operations: Operations of matrix products.
        bytes: Bytes read and written; of a collective those that each device gives.
        turns: How often it is started.
        transposes: Whether it changes the order of values in memory.
        product: Of a product, its form.
        done: Of a collective, how many kernels are started before its result is waited for.
        devices: Of a collective, the devices that take part.
    """

    name: str
    kind: str
    family: str
    direction: str
    operations: float
    bytes: int
    turns: int = 1
    transposes: bool = False
    product: Product | None = None
    done: int = 0
    devices: int = 1


@dataclass(frozen=True)
class Program:
    """The kernels of one run of a compiled program, in the order in which they are started.

    Attributes:
        name: Its name.
        kernels: Each kernel once for each place in the program, with its number of turns.
        open_loops: Loops whose number of turns is not known; they count as one turn.
    """

    name: str
    kernels: tuple[Kernel, ...]
    open_loops: int = 0

    @property
    def count(self) -> int:
        """Number of kernels started."""
        return sum(kernel.turns for kernel in self.kernels)

    @property
    def bytes(self) -> int:
        """Bytes that all kernels read and write."""
        return sum(kernel.turns * kernel.bytes for kernel in self.kernels)

    @property
    def operations(self) -> float:
        """Operations of all matrix products."""
        return sum(kernel.turns * kernel.operations for kernel in self.kernels)

    def of_kind(self, *kinds: str) -> list[Kernel]:
        """The kernels of these kinds."""
        return [kernel for kernel in self.kernels if kernel.kind in kinds]


def read_program(text: str) -> Program:
    """The kernels of a compiled program.

    Raises:
        UserError: The text is not that of a compiled program, or is damaged; see `hlo.read_module`.
    """
    return _Reader(read_module(text)).program()


class _Reader:
    def __init__(self, module: Module) -> None:
        self.module, self.kernels, self.open_loops = module, list[Kernel](), 0
        self.begun = dict[str, int]()

    def program(self) -> Program:
        self._visit(self.module.entry, 1)
        return Program(self.module.name, tuple(self.kernels), self.open_loops)

    def _visit(self, name: str, turns: int) -> None:
        computation = self.module.computations[name]
        shapes = {each.name: each.shape for each in computation}
        for each in computation:
            if each.operation in CALLING and each.called:
                known = each.turns if each.operation == "while" else 1
                self.open_loops += known is None
                self._visit(each.called, turns * (1 if known is None else known))
            elif each.operation.endswith("-done"):
                if each.operands[0] in self.begun:
                    begun = self.begun[each.operands[0]]
                    self.kernels[begun] = replace(self.kernels[begun], done=len(self.kernels))
            elif each.operation not in FREE:
                self.kernels.append(replace(self._kernel(each, shapes), turns=turns))

    def _part(self, *origins: Instruction) -> tuple[str, str]:
        """Family and direction of the first of some instructions that states where it comes from."""
        for each in origins:
            functions = self.module.places.get(int(each.attribute(r"stack_frame_id=(\d+)") or 0))
            if functions:
                return family_of(functions), direction_of(each.attribute(r'op_name="([^"]*)"'))
        return OTHER, ""

    def _kernel(self, each: Instruction, shapes: dict[str, str]) -> Kernel:
        inside = self.module.computations[each.called] if each.called and each.operation == "fusion" else ()
        operands = [shapes.get(operand, "") for operand in each.operands]
        found = Kernel(each.name, "elementwise", *self._part(_largest(inside) or each, each, *reversed(inside)), 0.0, 0)
        outer = (each, *self.module.computations.get(each.called or "", ())) if "async" in each.operation else (each,)
        if kind := next((match[0] for one in outer if (match := COLLECTIVE.match(one.operation))), None):
            self.begun[each.name] = len(self.kernels)
            return replace(
                found,
                name=f"{kind} {_types(operands)}",
                kind="collective",
                family=COLLECTIVES,
                bytes=sum(map(bytes_of, operands)),
                done=len(self.kernels) + 1,
                devices=_group_size(each.rest),
            )
        if each.operation == "fusion":
            return _fusion(found, inside)
        written = each.shape
        if each.operation == "custom-call":
            found, written = _custom_call(found, each, operands)
        elif each.operation in ("dot", "convolution"):
            found = _with_products(found, [(each, operands)])
        elif each.operation in MOVES:
            family = COPIES if each.operation == "copy" else found.family
            found = replace(found, kind="move", family=family, transposes=each.operation in ("copy", "transpose"))
        elif each.operation.startswith("reduce"):
            found = replace(found, kind="reduction")
        return replace(found, bytes=bytes_of(written) + sum(map(bytes_of, operands)))


def _fusion(found: Kernel, inside: tuple[Instruction, ...]) -> Kernel:
    """A kernel that the compiler has made of several operations."""
    operations, shapes = {each.operation for each in inside}, {each.name: each.shape for each in inside}
    found = replace(found, bytes=sum(_moved(inside)), transposes="transpose" in operations)
    products = [(each, [shapes[name] for name in each.operands]) for each in inside if each.operation == "dot"]
    if products:
        return _with_products(found, products)
    kind = "move" if operations <= MOVES else "reduction" if "reduce" in operations else "elementwise"
    family = COPIES if kind == "move" and found.family == OTHER else found.family
    transposes = found.transposes or (kind == "move" and "copy" in operations)
    return replace(found, kind=kind, family=family, transposes=transposes)


def _moved(inside: tuple[Instruction, ...]) -> Iterator[int]:
    """Bytes that a fusion reads of each of its parameters, and writes to each of its results.

    Of a parameter of which only slices are used these count; where a result is a parameter with a slice replaced in
    place, the slice counts.
    """
    users = dict[str, list[Instruction]]()
    named = {each.name: each for each in inside}
    for each in inside:
        for operand in each.operands:
            users.setdefault(operand, []).append(each)

    def used(name: str) -> Iterator[tuple[Instruction, str]]:
        """Users of a value, also of the same one under another shape, with the name by which they know it."""
        for user in users.get(name, []):
            if user.operation == "bitcast":
                yield from used(user.name)
            else:
                yield user, name

    for each in inside:
        if each.operation == "parameter":
            uses, whole = list(used(each.name)), bytes_of(each.shape)
            parts = [_read_part(user, name) for user, name in uses]
            yield min(whole, sum(part for part in parts if part is not None)) if uses and None not in parts else whole
    for each in _results(inside):
        part = named[each.operands[1]].shape if each.operation == "dynamic-update-slice" else each.shape
        yield bytes_of(part)


def _results(inside: tuple[Instruction, ...]) -> list[Instruction]:
    """The instructions that compute the results of a fusion, without changes of their shapes alone."""
    named = {each.name: each for each in inside}
    (root,) = (each for each in inside if each.root)
    found = []
    for each in [named[name] for name in root.operands] if root.operation == "tuple" else [root]:
        while each.operation == "bitcast":
            each = named[each.operands[0]]
        found.append(each)
    return found


def _largest(inside: tuple[Instruction, ...]) -> Instruction | None:
    """The instruction that computes the largest result of a fusion; None where there is none inside."""
    return max(_results(inside), key=lambda each: bytes_of(each.shape)) if inside else None


def _read_part(user: Instruction, name: str) -> int | None:
    """Bytes of a value that a user reads where this is only a part; None where it is all."""
    if user.operation in SLICES and user.operands[0] == name:
        return bytes_of(user.shape)
    return 0 if user.operation == "dynamic-update-slice" and user.operands[0] == name else None


def _custom_call(found: Kernel, each: Instruction, operands: list[str]) -> tuple[Kernel, str]:
    """A kernel of a library or of the package, and the shape of what it writes, without scratch memory."""
    target = each.attribute(r'custom_call_target="([^"]+)"')
    if target in TRITON:
        return replace(found, kind="own kernel", name=_own_name(each)), each.shape
    if not target.startswith("__cublas"):
        return replace(found, kind="library", name=target), each.shape
    result = arrays_of(each.shape)
    written = ", ".join(f"{kind}[{','.join(map(str, sides))}]" for kind, sides in result if kind != "s8")
    return _with_products(found, [(each, operands)]), written


def _own_name(each: Instruction) -> str:
    """Name of a kernel of the package, which JAX puts before `pallas_call`; with the pass in which it is used."""
    return each.attribute(r'op_name="[^"]*?(\w+)\)*/pallas_call') or each.name


def _with_products(found: Kernel, products: list[tuple[Instruction, list[str]]]) -> Kernel:
    """The same kernel with the operations and the form of the products that it computes."""
    first, shapes = products[0]
    types = [arrays_of(shape)[0][0] for shape in shapes[:2]]
    highest = "HIGHEST" in first.rest or "operand_precision={highest" in first.rest
    arithmetic = {"bf16": "bfloat16", "f32": "float32" if highest else "tf32"}.get(types[0], types[0])
    form = Product(
        " x ".join(types), arrays_of(first.shape)[0][0], arithmetic, first.attribute(r'"epilogue":"(\w+)"') or "fused"
    )
    operations = sum(_operations(each, operands) for each, operands in products)
    return replace(found, kind="product", family=PRODUCTS, operations=operations, product=form)


def _operations(product: Instruction, operands: list[str]) -> float:
    axes = product.attribute(r'lhs_contracting_dim(?:s=\{|ensions":\[)([\d,"]*)')
    left, result = arrays_of(operands[0])[0][1], arrays_of(product.shape)[0][1]
    return 2.0 * math.prod((*result, *(left[int(axis)] for axis in re.findall(r"\d+", axes))))


def _types(shapes: list[str]) -> str:
    """Types of all arrays, each once."""
    return ", ".join(dict.fromkeys(kind for shape in shapes for kind, _ in arrays_of(shape)))


def _group_size(rest: str) -> int:
    """Number of devices that take part in a collective."""
    if found := re.search(r"replica_groups=\[(\d+),(\d+)\]", rest):
        return int(found[2])
    found = re.search(r"replica_groups=\{\{([\d,]+)\}", rest)
    return found[1].count(",") + 1 if found else 1
