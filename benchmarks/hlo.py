"""What the instructions of a compiled step do, read from the compiler's text."""

import re
from dataclasses import dataclass

PRODUCTS, ATTENTION, SOFTMAX = "matrix products", "attention products", "softmax and bias"
NORM, GELU, DENSE = "LayerNorm", "GELU and dropout", "bias and casts of dense layers"
INPUT, LOSS, OPTIMISER = "input, weights, mixing", "targets and loss", "optimiser"
COPIES, COLLECTIVES, OTHER, UNKNOWN = "copies and transposes", "collectives", "other elementwise", "not attributed"
KINDS = (
    PRODUCTS,
    ATTENTION,
    SOFTMAX,
    NORM,
    GELU,
    DENSE,
    INPUT,
    LOSS,
    OPTIMISER,
    COPIES,
    COLLECTIVES,
    OTHER,
    UNKNOWN,
)

CONTAINERS = frozenset({"while", "call", "conditional"})
"""Their time is that of the instructions inside."""

OF_FUNCTION = {
    "attend": SOFTMAX,
    "self_attend": SOFTMAX,
    "fused_attention": ATTENTION,
    "WindowAttention.bias": SOFTMAX,
    "Stage._pairs": SOFTMAX,
    "split_heads": COPIES,
    "LayerNorm.__call__": NORM,
    "Mlp.__call__": GELU,
    "dense": DENSE,
    "dense_columns": DENSE,
    "prepare": INPUT,
    "classifier_images": INPUT,
    "mix": INPUT,
    "draw_mask": INPUT,
    "PatchEmbed.__call__": INPUT,
    "target_vectors": LOSS,
    "weighted_errors": LOSS,
    "loss_per_band": LOSS,
    "multilabel_loss": LOSS,
    "make_update.<locals>.train_step": OPTIMISER,
}
"""Kind by the innermost function that is listed; the step function itself is the last, hence the optimiser."""

_INSTRUCTION = re.compile(r"^\s*(?:ROOT )?%?([\w.-]+) = (?:\([^=]*?\)|\S+) ([a-z][\w-]*)\((.*)$")
_COMPUTATION = re.compile(r"^(?:ENTRY )?%?([\w.-]+) \(.*\{$")
_FRAME = re.compile(r"stack_frame_id=(\d+)")
_CALLS = re.compile(r"calls=%?([\w.-]+)")
_TARGET = re.compile(r'custom_call_target="([^"]+)"')
_NUMBERED = re.compile(r'^(\d+) (?:"(.*)"|\{(.*)\})$')
_SECTIONS = ("FileNames", "FunctionNames", "FileLocations", "StackFrames")


@dataclass(frozen=True)
class Instruction:
    """One instruction: its operation, what a fusion or custom call holds, and the functions it stems from.

    Attributes:
        functions: Innermost first.
    """

    opcode: str
    inside: frozenset[str]
    functions: tuple[str, ...]

    @property
    def kind(self) -> str:
        """One of KINDS."""
        names = " ".join((self.opcode, *self.inside)).lower()
        if any(word in self.opcode for word in ("all-reduce", "all-gather", "reduce-scatter", "all-to-all", "permute")):
            return COLLECTIVES
        place = next((OF_FUNCTION[name] for name in self.functions if name in OF_FUNCTION), OTHER)
        if any(
            word in names for word in ("dot", "gemm", "convolution", "cublas", "matmul", "fmha", "cudnn", "triton_k")
        ):
            return ATTENTION if place in (SOFTMAX, ATTENTION) else PRODUCTS
        work = self.inside - {"parameter", "bitcast", "constant", "tuple", "get-tuple-element"}
        if (work or {self.opcode}) <= {"copy", "transpose", "copy-start", "copy-done"}:
            return COPIES
        return place


def read_instructions(text: str) -> dict[str, Instruction]:
    """Instructions of a compiled module by name, `.` and `-` written as `_`, as profilers do."""
    chains = _frames(text)
    computation, contents = "", dict[str, set[str]]()
    found: list[tuple[str, str, str]] = []
    for line in text.splitlines():
        start = _COMPUTATION.match(line)
        if start:
            computation = start.group(1)
        instruction = _INSTRUCTION.match(line)
        if instruction:
            name, opcode, rest = instruction.groups()
            contents.setdefault(computation, set()).add(opcode)
            found.append((name, opcode, rest))
    result = {}
    for name, opcode, rest in found:
        calls, target, frame = _CALLS.search(rest), _TARGET.search(rest), _FRAME.search(rest)
        inside = contents.get(calls.group(1), set()) if calls else set()
        inside = inside | ({target.group(1)} if target else set())
        functions = chains.get(int(frame.group(1)), ()) if frame else ()
        result[plain_name(name)] = Instruction(opcode, frozenset(inside), functions)
    return result


def plain_name(name: str) -> str:
    """A name as compared between compiler and profiler."""
    return name.replace(".", "_").replace("-", "_")


def _frames(text: str) -> dict[int, tuple[str, ...]]:
    """Functions of every stack frame, innermost first; empty where the compiler does not write them."""
    tables: dict[str, dict[int, str]] = {name: {} for name in _SECTIONS}
    section = ""
    for line in text.splitlines():
        section = line if line in _SECTIONS else section if line else ""
        entry = _NUMBERED.match(line)
        if section and entry:
            tables[section][int(entry.group(1))] = entry.group(2) or entry.group(3)
    names, stack = tables["FunctionNames"], {n: _fields(value) for n, value in tables["StackFrames"].items()}
    places = {n: _fields(value)["function_name_id"] for n, value in tables["FileLocations"].items()}
    # The text counts parents from 1 for "none": the first frame names itself.
    shift = 1 if stack.get(1, {}).get("parent_frame_id") == 1 else 0
    chains: dict[int, tuple[str, ...]] = {}
    for number in sorted(stack):
        parent = chains.get(stack[number].get("parent_frame_id", 0) - shift, ())
        chains[number] = (names.get(places.get(stack[number]["file_location_id"], 0), ""), *parent)
    return chains


def _fields(text: str) -> dict[str, int]:
    return {name: int(value) for name, value in (part.split("=") for part in text.split())}
