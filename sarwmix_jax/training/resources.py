"""Resources of a run: parameters and operations of its model, memory, disk, and cached compiled programs."""

import glob
import math
import os
import re
import shutil
import time
import warnings
import zlib
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import jax
import jax.monitoring

from sarwmix_jax.errors import UserError, one_line
from sarwmix_jax.models.state import abstract_model, flatten_names
from sarwmix_jax.progress import Advance, show, shown
from sarwmix_jax.settings.model import PATCH, STAGES, ModelSettings
from sarwmix_jax.tasks.task import Task
from sarwmix_jax.training.logs import RunLog

GIB = 2**30

PEAK_FLOPS = {
    "NVIDIA H200": 989e12,
    "NVIDIA H100": 989e12,
    "NVIDIA GH200": 989e12,
    "NVIDIA A100": 312e12,
    "NVIDIA L40S": 362e12,
    "NVIDIA B200": 2250e12,
    "TPU v4": 275e12,
    "TPU v5 lite": 197e12,
    "TPU v5": 459e12,
    "TPU v6 lite": 918e12,
}
"""Dense bfloat16 operations per second as stated by the manufacturers, by the beginning of the device's name."""

MEASURED = {"cpu": "base on two CPU cores: 16 s"}
"""Time of the compiler for a training step, by platform, where measured (benchmarks/NOTES.md)."""

_LOADED = "/jax/compilation_cache/cache_hits"
T = TypeVar("T")


@dataclass(frozen=True)
class Part:
    """One part of a model: its trained parameters, and operations per image in the forward pass."""

    name: str
    parameters: int
    flops: float


def peak_flops(device: jax.Device) -> float | None:
    """Peak operations per second of the device; `None` where it is not known."""
    known = [kind for kind in PEAK_FLOPS if device.device_kind.startswith(kind)]
    return PEAK_FLOPS[max(known, key=len)] if known else None


def parts_of(task: Task) -> list[Part]:
    """Parts of a task's model with their cost.

    Operations are two per multiplication, of matrix products and attention. Both decoded sequences are counted
    completely, so that exact shortcuts show as speed and not as fewer operations.
    """
    counts: Counter[str] = Counter()
    for name, leaf in flatten_names(abstract_model(*task.model)[1]).items():
        counts[part_of(name)] += leaf.size
    flops = forward_flops(task.settings.model)
    return [Part(name, count, flops.get(name, 2.0 * count)) for name, count in counts.items()]


def part_of(name: str) -> str:
    """Part to which a parameter belongs; the final norm of the encoder belongs to the last stage."""
    if name.startswith(("decoder/", "head/")):
        return name.split("/")[0]
    if name.startswith("encoder/patch_embed/"):
        return "patches"
    return f"stage {int(name.split('/')[2]) + 1}" if name.startswith("encoder/stages/") else f"stage {STAGES}"


def forward_flops(settings: ModelSettings) -> dict[str, float]:
    """Operations per image in the forward pass, by part."""
    grid = settings.grids[0]
    result = {"patches": 2.0 * PATCH**2 * len(settings.bands) * settings.embed_dim * grid**2}
    for stage, (depth, window) in enumerate(zip(settings.depths, settings.window_sides, strict=True)):
        tokens, width = settings.grids[stage] ** 2, settings.widths[stage]
        flops = depth * block_flops(tokens, width, window**2, settings.mlp_ratio)
        merge = 0.0 if stage == STAGES - 1 else 2.0 * (tokens / 4) * (4 * width) * (2 * width)
        result[f"stage {stage + 1}"] = flops + merge
    cells, width = settings.cells, settings.decoder_dim
    blocks = settings.decoder_depth * block_flops(2 * cells, width, cells, settings.mlp_ratio)
    ends = 2.0 * cells * settings.features * width + 2.0 * 2 * cells * width * settings.cell_values
    return result | {"decoder": blocks + ends}


def block_flops(tokens: int, width: int, attended: int, mlp_ratio: int) -> float:
    """Operations of one transformer block: qkv, projection, MLP, and attention over `attended` tokens each."""
    return 2.0 * tokens * width**2 * (4 + 2 * mlp_ratio) + 4.0 * tokens * attended * width


def training_flops(parts: list[Part]) -> float:
    """Operations per image in forward and backward pass."""
    return 3 * sum(part.flops for part in parts)


def table(parts: list[Part]) -> str:
    """Parts, parameters and operations as text."""
    total = Part("all", sum(part.parameters for part in parts), sum(part.flops for part in parts))
    lines = [f"{'part':10} {'parameters':>13} {'GFLOP forward':>14}"]
    lines += [f"{part.name:10} {part.parameters:13,} {part.flops / 1e9:14.3f}" for part in [*parts, total]]
    return "\n".join(lines)


def tree_bytes(tree: Any) -> int:
    """Bytes of all arrays (or shapes) of a tree."""
    return sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(tree))


def device_bytes(tree: Any) -> int:
    """Bytes that each device holds of the arrays (or placed shapes) of a tree."""
    parts = ((leaf.sharding.shard_shape(leaf.shape), leaf.dtype.itemsize) for leaf in jax.tree.leaves(tree))
    return sum(math.prod(shape) * size for shape, size in parts)


def device_memory() -> int | None:
    """Bytes of memory that one device may use; None where this is not known."""
    device = jax.local_devices()[0]
    if device.platform == "cpu":
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return (device.memory_stats() or {}).get("bytes_limit")


def check_records_fit(held: int, state: int, devices: int) -> None:
    """Refuse to start where records and state do not fit in device memory, before the time of the compiler.

    Args:
        held: Bytes of training records on each device.
        state: Bytes of the run's state.
        devices: Number of devices.

    Raises:
        UserError: The devices have less memory.
    """
    available = device_memory()
    if held and available is not None and held + state > available:
        raise UserError(
            f"the training records need {held / GIB:.1f} GiB on each of {devices} devices and the state "
            f"{state / GIB:.1f}, a device has {available / GIB:.1f}; give --config.data.resident=false, use "
            "more devices or fewer records (--config.data.split=)"
        )


def check_disk(state: int, workdir: Path) -> None:
    """Refuse to start where the checkpoints do not fit on the disk.

    Args:
        state: Bytes of the run's state.
        workdir: Work directory; it need not exist.

    Raises:
        UserError: There is less free space than two checkpoints need.
    """
    place = next(folder for folder in (workdir, *workdir.absolute().parents) if folder.exists())
    free = shutil.disk_usage(place).free
    if free < 2 * state:
        raise UserError(
            f"{workdir}: {free / GIB:.2f} GiB are free, two checkpoints of this run need {2 * state / GIB:.2f}; "
            "free space or choose another --workdir"
        )


OFF = "off"
"""In place of a folder: nothing is kept."""


def default_place() -> Path | None:
    """`$XDG_CACHE_HOME/sarwmix_jax/compiled`, by default below `~/.cache`; None for a user without a home."""
    try:
        cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    except RuntimeError:  # there is neither HOME nor an entry for the user
        return None
    return cache / "sarwmix_jax" / "compiled"


class _CacheWarnings:
    """In place of `warnings.showwarning`: answers JAX' warnings about kept programs in one line each.

    JAX compiles a program again that it cannot read, after the warning, but never replaces an entry: it would warn and
    compile at every start. So what cannot be read is removed here.
    """

    _FORM = re.compile(r"Error (reading|writing) persistent compilation cache entry for '(.+?)': (.*)", re.DOTALL)

    def __init__(self, others: Any) -> None:
        """Give all other warnings to `others`."""
        self._others = others

    def __call__(self, message: Warning | str, *more: Any, **named: Any) -> None:
        """See `warnings.showwarning`."""
        found = self._FORM.match(str(message))
        if found is None:
            self._others(message, *more, **named)
            return
        what, program, reason = found.groups()
        folder, reason = Path(jax.config.values["jax_compilation_cache_dir"]), one_line(reason)
        if what == "writing":
            show(f"the compiled program {program} cannot be kept in {folder}: {reason}")
            return
        with suppress(OSError):
            kept = list(folder.glob(f"{glob.escape(program)}-*-cache"))
            for path in [path for path in kept if not _whole(path)] or kept:
                path.unlink()
        show(f"the compiled program {program} in {folder} is damaged, as by a kill ({reason}): it is compiled again")


def _whole(path: Path) -> bool:
    """Whether a kept program agrees with its checksum."""
    try:
        zlib.decompress(path.read_bytes())
    except (OSError, zlib.error):
        return False
    return True


def keep_compiled(place: str | None = None) -> Path | None:
    """Keeps every program that takes more than half a second to compile; a damaged one is compiled and kept again.

    Args:
        place: A folder, or "off". By default the folder that the environment sets for JAX
            (`JAX_COMPILATION_CACHE_DIR`), else `default_place()`, or none where this cannot be written.

    Returns:
        The folder, or None where nothing is kept.

    Raises:
        UserError: The given folder cannot be written.
    """
    if place == OFF:
        return None
    asked = place or jax.config.values["jax_compilation_cache_dir"]
    folder = Path(asked) if asked else default_place()
    if folder is None:
        return None
    writable = False
    with suppress(OSError):
        folder.mkdir(parents=True, exist_ok=True)
        writable = os.access(folder, os.W_OK)
    if not writable:
        if not asked:
            return None
        raise UserError(f"compiled programs cannot be kept in {folder}; choose another folder or {OFF!r}")
    jax.config.update("jax_compilation_cache_dir", str(folder))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.5)
    if not isinstance(warnings.showwarning, _CacheWarnings):
        warnings.showwarning = _CacheWarnings(warnings.showwarning)
    return folder


def announced(train_step: Callable[..., T], log: RunLog) -> Callable[..., T]:
    """A training step with lines before and after its first call, which compiles it or loads it."""
    called = False

    def step(*arguments: Any) -> T:
        nonlocal called
        with nullcontext() if called else _compiling(log):
            called = True
            return train_step(*arguments)

    return step


@contextmanager
def _compiling(log: RunLog) -> Iterator[None]:
    loaded: list[str] = []

    def note(event: str, **_: object) -> None:
        if event == _LOADED:
            loaded.append(event)

    kept = jax.config.values["jax_compilation_cache_dir"] is not None
    figure = MEASURED.get(jax.devices()[0].platform)
    what = "compiling the training step"
    log.show(f"{what}{', unless an earlier start has kept it' * kept}{f' ({figure})' if figure else ''}")
    began = time.perf_counter()
    jax.monitoring.register_event_listener(note)
    try:
        with shown(Advance(what, announced=True)):
            yield
    finally:
        jax.monitoring.unregister_event_listener(note)
    log.show(f"training step {'loaded' if loaded else 'compiled'} in {time.perf_counter() - began:.1f} s")
