"""What is reported of a compiled program: figures to store and compare, and tables to read."""

from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from benchmarks.gpu_program.compiling import Compiled, Resources
from benchmarks.gpu_program.reader import Kernel, Program
from benchmarks.gpu_program.results import Case, Result
from benchmarks.gpu_program.targets import LAUNCH_SECONDS, Target
from sarwmix_jax.facts.gpu_memory import largest_batch, usable

COLUMNS = f"{'kernels':>9} {'TFLOP':>9} {'GB':>9} {'ms':>8}"


def seconds_of(kernel: Kernel, target: Target) -> float:
    """The least time of one start of a kernel: of its operations or its bytes, whichever is longer, but a launch."""
    if kernel.kind == "collective":
        # in a ring every device passes on all parts but one; of a sum twice, and gathered parts are whole arrays
        shares = {"all-reduce": 2 / kernel.devices, "all-gather": 1.0}.get(kernel.name.split()[0], 1 / kernel.devices)
        return max(LAUNCH_SECONDS, (kernel.devices - 1) * shares * kernel.bytes / target.link)
    arithmetic = kernel.product.arithmetic if kernel.product else "bfloat16"
    work = max(kernel.operations / target.peak(arithmetic), kernel.bytes / target.bandwidth)
    return max(LAUNCH_SECONDS, work)


@dataclass
class Sum:
    """Kernels together: number, operations, bytes, and least time in seconds."""

    kernels: int = 0
    operations: float = 0.0
    bytes: int = 0
    seconds: float = 0.0

    def add(self, kernel: Kernel, target: Target) -> None:
        """Counts all turns of a kernel."""
        self.kernels += kernel.turns
        self.operations += kernel.turns * kernel.operations
        self.bytes += kernel.turns * kernel.bytes
        self.seconds += kernel.turns * seconds_of(kernel, target)

    def line(self, name: str) -> str:
        """The sums as a line of a table."""
        cells = f"{self.kernels:9,} {self.operations / 1e12:9.3f} {self.bytes / 1e9:9.3f} {self.seconds * 1e3:8.2f}"
        return f"{cells}  {name}"


def sums(kernels: Iterable[Kernel], target: Target, key: Callable[[Kernel], str]) -> dict[str, Sum]:
    """Kernels by a property, that with the most time first."""
    found: defaultdict[str, Sum] = defaultdict(Sum)
    for kernel in kernels:
        found[key(kernel)].add(kernel, target)
    return dict(sorted(found.items(), key=lambda item: -item[1].seconds))


def total(program: Program, target: Target) -> Sum:
    """All kernels together."""
    return sums(program.kernels, target, lambda _: "all").get("all", Sum())


def by_family(program: Program, target: Target) -> dict[str, Sum]:
    """Kernels by the part of the computation and the pass."""
    return sums(program.kernels, target, lambda kernel: ", ".join(filter(None, (kernel.family, kernel.direction))))


def by_product(program: Program, target: Target) -> dict[str, Sum]:
    """Matrix products by types, arithmetic and epilogue."""

    def form(kernel: Kernel) -> str:
        product = kernel.product
        assert product is not None
        return f"{product.operands} -> {product.result}, {product.arithmetic}, {product.epilogue}"

    return sums(program.of_kind("product"), target, form)


def collectives(program: Program, target: Target) -> Iterator[str]:
    """For each collective a line with its place among the kernels that compute, by their least time.

    It states what share of the computation has ended when it begins, and how much runs beside it before its result is
    waited for.
    """
    times = [kernel.turns * seconds_of(kernel, target) for kernel in program.kernels]
    computing = [
        0.0 if kernel.kind == "collective" else seconds for kernel, seconds in zip(program.kernels, times, strict=True)
    ]
    for place, kernel in enumerate(program.kernels):
        if kernel.kind == "collective":
            before, beside = sum(computing[:place]), sum(computing[place + 1 : kernel.done])
            yield (
                f"{kernel.bytes / 1e6:9.1f} MB {times[place] * 1e3:8.3f} ms, begins after "
                f"{before / max(sum(computing), 1e-12):5.1%} of the computation, beside {beside * 1e3:.3f} ms of it  "
                f"{kernel.name} of {kernel.devices}"
            )


def figures(program: Program, target: Target, memory: dict[str, int], spilling: int | None) -> dict[str, Any]:
    """The figures by which programs are compared.

    Args:
        program: The kernels.
        target: The GPU.
        memory: `peak_bytes` and `state_bytes`, where they are known.
        spilling: Number of kernels that spill registers; None where it is not known.
    """
    single = [kernel for kernel in program.of_kind("product") if kernel.product and "f32" in kernel.product.operands]
    moved = [kernel for kernel in program.kernels if kernel.transposes]
    reduced = program.of_kind("collective")
    return {
        "kernels": program.count,
        "bytes": program.bytes,
        "operations": program.operations,
        **memory,
        "float32_products": sum(kernel.turns for kernel in single),
        "transposes_and_copies": sum(kernel.turns for kernel in moved),
        "collectives": sum(kernel.turns for kernel in reduced),
        "collective_bytes": sum(kernel.turns * kernel.bytes for kernel in reduced),
        **({} if spilling is None else {"spilling_kernels": spilling}),
        "seconds_at_best": total(program, target).seconds,
    }


def report(result: Result, program: Program, target: Target, resources: Sequence[Resources] | None) -> str:
    """The whole report as text."""
    figures = result.figures
    parts = [f"{result.case.title}: {target.device}, estimated from the compiled program; nothing was run"]
    if "peak_bytes" in figures:
        parts.append(memory_text(result, target))
    tables = {
        "kind of kernel": sums(program.kernels, target, lambda kernel: kernel.kind),
        "part of the computation": by_family(program, target),
        "matrix products": by_product(program, target),
        "own kernels and libraries": sums(program.of_kind("own kernel", "library"), target, lambda each: each.name),
        "transposes and copies": sums([k for k in program.kernels if k.transposes], target, lambda each: each.kind),
    }
    for title, rows in tables.items():
        lines = [row.line(name) for name, row in rows.items()]
        parts.append("\n".join([f"{COLUMNS}  {title}", *(lines or ["        none"])]))
    reduced = list(collectives(program, target))
    parts.append("\n".join(["collectives", *(reduced or ["        none"])]))
    if resources is not None:
        parts.append(spills_text(resources))
    return "\n\n".join([*parts, best_text(result.case.batch, program, target)])


def memory_text(result: Result, target: Target) -> str:
    """Memory of a step, and the largest batch for it."""
    figures, batch = result.figures, result.case.batch
    peak, state = figures["peak_bytes"], figures["state_bytes"]
    available = usable(target.memory)
    fits = largest_batch(batch, peak, state, available)
    return (
        f"memory: {peak / 1e9:.2f} GB at the peak, {state / 1e9:.2f} of them the state; of the device's "
        f"{target.memory / 1e9:.1f} GB JAX takes {available / 1e9:.1f}: about {fits:,} samples fit"
    )


def spills_text(resources: Sequence[Resources]) -> str:
    """Kernels whose registers do not suffice, and those of the package that leave room for few threads."""
    spilling = [each for each in resources if each.spilled]
    lines = [f"registers: {len(spilling)} of {len(resources)} kernels spill, each of them compiled once"]
    lines += [f"{each.registers:9} registers, {each.spilled:6,} bytes spilled  {each.name}" for each in spilling]
    most = sorted(resources, key=lambda each: -each.registers)[:5]
    return "\n".join([*lines, f"most: {', '.join(f'{each.registers} ({each.name})' for each in most)}"])


def best_text(batch: int, program: Program, target: Target) -> str:
    """The least time of a step, and the speed that it allows."""
    whole = total(program, target)
    loops = f"; {program.open_loops} loops of unknown length count as one turn" if program.open_loops else ""
    return (
        f"at best {whole.seconds * 1e3:.2f} ms a step, {batch / whole.seconds:,.0f} samples/s a device, "
        f"{whole.operations / whole.seconds / target.peak('bfloat16'):.0%} of the peak: {whole.kernels:,} kernels, "
        f"{whole.bytes / 1e9:.2f} GB, {whole.operations / 1e12:.2f} TFLOP in matrix products{loops}"
    )


def make_result(case: Case, program: Program, target: Target, compiled: Compiled | None = None) -> Result:
    """What is stored of a program; memory and spills are known where it was compiled here."""
    memory = {} if compiled is None else {"peak_bytes": compiled.peak_bytes, "state_bytes": compiled.state_bytes}
    spilling = None if compiled is None else sum(each.spilled > 0 for each in compiled.resources)
    tables = (
        {name: asdict(row) for name, row in rows.items()}
        for rows in (by_family(program, target), by_product(program, target))
    )
    return Result(case, figures(program, target, memory, spilling), *tables)
