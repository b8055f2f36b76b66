"""Compiles a step for GPUs that are not there, by the plugin of JAX for them, on CPUs alone."""

import importlib.metadata
import re
import subprocess
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import jax
from jax.experimental.topologies import get_topology_desc

from benchmarks.gpu_program.silence import silence
from benchmarks.gpu_program.steps import lowered_step
from benchmarks.gpu_program.targets import Target
from sarwmix_jax.errors import UserError
from sarwmix_jax.progress import progress
from sarwmix_jax.settings.sections import RunSettings
from sarwmix_jax.tasks.gradients import make_mesh

EXTRA = "pip install '.[gpu-program]' (make gpu-program does)"
PLUGIN, TOOLKIT, CUDNN = "jax-cuda12-plugin", "nvidia-cuda-nvcc-cu12", "nvidia-cudnn-cu12"
WHEELS = (PLUGIN, "jax-cuda12-pjrt", TOOLKIT)

OPTIONS = {
    # nothing can be tuned without the device, and products of the compiler's own kernels are slow untuned
    "xla_gpu_enable_triton_gemm": False,
}

_KERNEL = re.compile(
    r"Compiling entry function '(\S+)'.*?(\d+) bytes spill stores, (\d+) bytes spill loads.*?Used (\d+) registers",
    re.DOTALL,
)


class Resources(NamedTuple):
    """What a kernel needs of a multiprocessor, as its assembler states.

    Attributes:
        name: Name of the kernel.
        registers: Registers of each thread.
        spilled: Bytes of each thread that do not fit in registers and are stored to memory and loaded.
    """

    name: str
    registers: int
    spilled: int


@dataclass(frozen=True)
class Compiled:
    """A compiled program.

    Attributes:
        text: The compiler's text.
        peak_bytes: Most memory in use on each device at any moment of a step.
        state_bytes: Bytes of it that parameters and, in training, the optimiser need, whatever the batch.
        resources: Of every kernel that is not a library's.
        seconds: Time to trace and to compile.
    """

    text: str
    peak_bytes: int
    state_bytes: int
    resources: tuple[Resources, ...]
    seconds: float


def missing_wheels(kernel: str = "xla") -> str | None:
    """Why nothing can be compiled for GPUs here, with the remedy; None where it can."""
    wheels = (*WHEELS, CUDNN) if kernel == "cudnn" else WHEELS
    found = {name: _version(name) for name in wheels}
    if absent := [name for name, version in found.items() if version is None]:
        remedy = f"pip install {CUDNN}" if absent == [CUDNN] else EXTRA
        return f"the compiler for GPUs is not complete: {', '.join(absent)} not installed; {remedy}"
    if found[PLUGIN] != jax.__version__:
        return (
            f"{PLUGIN} {found[PLUGIN]} does not belong to jax {jax.__version__}; pip install "
            f"{PLUGIN}=={jax.__version__} jax-cuda12-pjrt=={jax.__version__}"
        )
    return None


def _version(name: str) -> str | None:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None


def compile_step(task: str, settings: RunSettings, target: Target, devices: int) -> Compiled:
    """Compiles a task's step.

    Args:
        task: One of `steps.TASKS`.
        settings: From `steps.settings_of`.
        target: The GPU.
        devices: Their number, in one node.

    Raises:
        UserError: The compiler does not accept the program.
    """
    started = time.perf_counter()
    try:
        with silence():
            topology = get_topology_desc("", "cuda", target_config=target.description, topology=f"1x1x{devices}")
        with progress("tracing the step"):
            lowered, held = lowered_step(task, settings, make_mesh(topology.devices))
        with tempfile.TemporaryDirectory(prefix="sarwmix_gpu_program_") as folder, progress("compiling the step"):
            compiled = lowered.compile(compiler_options=OPTIONS | {"xla_dump_to": folder})
            resources = assembled(Path(folder))
    except jax.errors.JaxRuntimeError as error:
        raise UserError(f"the step cannot be compiled for {target.device}: {str(error)[:300]}") from error
    memory: Any = compiled.memory_analysis()
    seconds = time.perf_counter() - started
    return Compiled(compiled.as_text() or "", memory.peak_memory_in_bytes, held, resources, seconds)


def assembled(folder: Path) -> tuple[Resources, ...]:
    """Resources of the kernels whose PTX lies in a folder, by the assembler of the toolkit.

    Raises:
        UserError: There are none, as for a program that was kept from earlier, or the assembler fails.
    """
    files = [file for file in sorted(folder.glob("*.ptx")) if file.stat().st_size]  # of a library's call alone: empty
    target = re.search(r"^\.target (\w+)", files[0].read_text(), re.MULTILINE) if files else None
    if target is None:
        raise UserError(f"the compiler wrote no code of kernels to {folder}; unset JAX_COMPILATION_CACHE_DIR")
    (assembler,) = (path.locate() for path in importlib.metadata.files(TOOLKIT) or () if path.match("bin/ptxas"))
    command = [str(assembler), "-v", f"-arch={target[1]}", "-o", "/dev/null", *map(str, files)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise UserError(f"{assembler} fails: {done.stderr[-300:]}; install {TOOLKIT} again")
    return read_resources(done.stdout + done.stderr)


def read_resources(log: str) -> tuple[Resources, ...]:
    """Resources of the kernels in what the assembler prints."""
    found = _KERNEL.findall(log)
    return tuple(Resources(name, int(registers), int(store) + int(load)) for name, store, load, registers in found)
