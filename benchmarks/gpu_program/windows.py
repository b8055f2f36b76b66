r"""Compiles the package's own kernels for every window and LayerNorm of the published models, forward and backward.

    python -m benchmarks.gpu_program.windows
    python -m benchmarks.gpu_program.windows --sizes huge --sides 384

Runs from the root of a clone, on CPUs alone, with the wheels of the extra gpu-program. It prints a line for each form
with the registers of its kernels and what they spill, as the assembler reports it, and ends with exit code 1 where a
kernel does not compile.
"""

import argparse
import sys
import tempfile
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
from jax.experimental.topologies import get_topology_desc

from benchmarks.gpu_program.compiling import assembled, missing_wheels
from benchmarks.gpu_program.silence import silence
from benchmarks.gpu_program.targets import target_of
from sarwmix_jax.cli.main import Parser, guarded
from sarwmix_jax.errors import FAILED, UserError, one_line
from sarwmix_jax.facts.sizes import SIZES, WINDOWS
from sarwmix_jax.models.fused_attention import fused_attention
from sarwmix_jax.models.fused_norm import fused_add_layer_norm, fused_layer_norm_beside
from sarwmix_jax.models.places import places
from sarwmix_jax.models.state import Product
from sarwmix_jax.settings.model import ModelSettings, published
from sarwmix_jax.tasks.gradients import make_mesh, placed

IMAGES = {128: 256, 384: 32}
"""Images of a batch by their side in pixels."""


def forms(settings: ModelSettings) -> Iterator[tuple[str, Any, tuple[Any, ...]]]:
    """Name, function, and shapes of the arguments of all that the kernels compute in a model."""
    side, dtype, found = settings.image_size, jnp.dtype(settings.dtype), set()
    for masks in ("none", "half", "any"):
        for place in places(settings, masks):
            if place in found:
                continue
            found.add(place)
            shape = (IMAGES[side], place.windows, place.tokens, 3 * place.heads * place.depth)
            biases = (place.groups,) if place.groups > 1 else ()
            bias = jax.ShapeDtypeStruct((*biases, place.heads, place.tokens, place.tokens), jnp.float32)
            name = f"{place.name}, {place.windows} windows of {place.tokens}, {place.groups} biases"
            yield (
                name,
                lambda values, layer, *bias, heads=place.heads: fused_attention(Product(values, layer), heads, *bias),
                (
                    jax.ShapeDtypeStruct(shape, dtype),
                    jax.ShapeDtypeStruct(shape[-1:], dtype),
                    *([bias] if place.groups else []),
                ),
            )
    cells = {width: IMAGES[side] * grid**2 for width, grid in zip(settings.widths, settings.grids, strict=True)}
    merged = {4 * width: rows // 4 for width, rows in list(cells.items())[:-1]}
    for width, rows in (merged | cells | {settings.decoder_dim: 2 * IMAGES[side] * settings.cells}).items():
        vector = jax.ShapeDtypeStruct((width,), jnp.float32)
        x = jax.ShapeDtypeStruct((rows, width), dtype)
        yield f"LayerNorm, width {width}", partial(fused_layer_norm_beside, epsilon=1e-5), (x, vector, vector)
        branch = (x, jax.ShapeDtypeStruct((width,), dtype))
        name = f"LayerNorm of a sum, width {width}"
        yield name, partial(fused_add_layer_norm, epsilon=1e-5), (x, *branch, vector, vector)


def compiled_form(function: Any, shapes: tuple[Any, ...], mesh: Any) -> str:
    """Compiles a function and its gradients; gives names, registers and spills of its kernels."""

    def both(*given: Any) -> Any:
        out, pull = jax.vjp(function, *given)
        return out, pull(out)

    with tempfile.TemporaryDirectory(prefix="sarwmix_windows_") as folder:
        with silence():
            jax.jit(both).lower(*placed(shapes, mesh)).compile({"xla_dump_to": folder})
        own = [kernel for kernel in assembled(Path(folder)) if "attention" in kernel.name or "norm" in kernel.name]
    if len(own) < 2:
        raise UserError("the program has no kernel for each direction")
    return ", ".join(
        f"{kernel.name} {kernel.registers}" + f" spills {kernel.spilled}" * bool(kernel.spilled) for kernel in own
    )


def parsed(arguments: list[str]) -> argparse.Namespace:
    """Options of the command line.

    Raises:
        UserError: A flag or value is wrong.
    """
    parser = Parser(prog="python -m benchmarks.gpu_program.windows", description=__doc__)
    parser.add_argument("--sizes", nargs="+", choices=tuple(SIZES), default=tuple(SIZES), help="published sizes")
    parser.add_argument("--sides", nargs="+", type=int, choices=tuple(WINDOWS), default=tuple(WINDOWS), help="pixels")
    options: argparse.Namespace = parser.parse_args(arguments)
    return options


def run(options: argparse.Namespace) -> int:
    """Compile all forms and print a line for each; returns the exit code.

    Raises:
        UserError: The wheels are missing.
    """
    if reason := missing_wheels():
        raise UserError(reason)
    with silence():
        topology = get_topology_desc("", "cuda", target_config=target_of("h200").description, topology="1x1x1")
    mesh, failed, count = make_mesh(topology.devices), 0, 0
    for size in options.sizes:
        for side in options.sides:
            settings = published(size, side, dtype="bfloat16", kernel="fused")
            for name, function, shapes in forms(settings):
                count += 1
                try:
                    line = compiled_form(function, shapes, mesh)
                except Exception as error:  # whatever the compiler raises is the finding
                    failed, line = failed + 1, f"does not compile: {one_line(error)}"
                print(f"{size} {side} px, {name}: {line}", flush=True)
    print(f"{count - failed} of {count} forms compile, forward and backward")
    return FAILED if failed else 0


if __name__ == "__main__":
    jax.config.update("jax_platforms", "cpu")
    jax.config.update("jax_enable_compilation_cache", False)
    sys.exit(guarded(lambda: run(parsed(sys.argv[1:]))))
