"""`model.kernel=auto`: for each part of a model the fastest kernel that computes what the plain one does.

Before a run's first step every kernel that supports a part of its model computes values and gradients there, on the
device, from random numbers; they are compared with plain attention (or LayerNorm) in float32, and timed in turns. What
was measured is kept beside the compiled programs, so that later starts need not repeat it.
"""

import json
import statistics
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.experimental import multihost_utils

from sarwmix_jax.errors import one_line
from sarwmix_jax.models.layers import LayerNorm, self_attend
from sarwmix_jax.models.mixmae import fixed_masked_count
from sarwmix_jax.models.places import Masks, Place, check_kernel, places, refusal
from sarwmix_jax.models.state import FORBIDDEN, Product, merge_model, split_model
from sarwmix_jax.progress import progress
from sarwmix_jax.settings.model import PLACES, ModelSettings
from sarwmix_jax.settings.sections import PretrainingSettings, RunSettings
from sarwmix_jax.version import __version__

ALLOWED = {"bfloat16": 0.02, "float32": 0.005}
"""Largest error of a value or gradient, relative to the largest one, by type. Products of float32 are in TF32."""

GAIN = 0.02
"""Share of the plain time by which another kernel must be faster to be chosen."""

ROUNDS, CALLS, IMAGES = 5, 8, 64
"""Rounds of timing, calls in each, and at most as many images of a batch."""

PLAIN, NORM = "xla", PLACES[-1]
KEPT = "kernels.json"
"""File beside the compiled programs."""

COMPARISON = 2
"""Number of what is compared; a change of it makes earlier measurements void."""


@dataclass(frozen=True)
class Measured:
    """A kernel at one place.

    Attributes:
        kernel: Its name.
        seconds: Time of values and gradients; None where it failed.
        error: Largest error relative to plain float32; None where it failed.
        reason: Why it failed.
    """

    kernel: str
    seconds: float | None = None
    error: float | None = None
    reason: str = ""


def choose(measured: Sequence[Measured], allowed: float) -> str:
    """The kernel to use: the fastest one whose error is allowed, and the plain one unless another is clearly faster."""
    usable = {each.kernel: each.seconds for each in measured if each.seconds is not None and _right(each, allowed)}
    plain = next((each.seconds for each in measured if each.kernel == PLAIN), None)
    limit = np.inf if plain is None else (1 - GAIN) * plain
    faster = {kernel: seconds for kernel, seconds in usable.items() if kernel != PLAIN and seconds < limit}
    return min(faster, key=lambda kernel: faster[kernel], default=PLAIN)


def _right(each: Measured, allowed: float) -> bool:
    return each.error is not None and each.error <= allowed  # not a number is not


def with_kernels(settings: RunSettings, platform: str) -> tuple[RunSettings, tuple[str, ...]]:
    """A run's settings with its kernels checked and, for `auto`, chosen; and a line on what was chosen and why.

    Args:
        settings: With the micro-batch set.
        platform: That of the devices.

    Raises:
        UserError: A kernel that the settings name cannot be used here.
    """
    model = settings.model
    if model.kernel != "auto" or model.kernels is not None:
        check_kernel(model, platform)
        return settings, ()
    images = min(settings.batch.micro_batch or 1, IMAGES)
    with progress("comparing kernels"):
        measured, source = kept_or_measured(model, masks_of(settings), images)
    chosen = {place: choose(found, ALLOWED[model.dtype]) for place, found in measured.items()}
    kernels = _same_everywhere(tuple(chosen.get(place, PLAIN) for place in PLACES))
    return replace(settings, model=replace(model, kernels=kernels)), (line(measured, chosen, kernels, source),)


def masks_of(settings: RunSettings) -> Masks:
    """The masks of a run's batches."""
    if not isinstance(settings, PretrainingSettings):
        return "none"
    cells, mask = settings.model.cells, settings.mask
    count = fixed_masked_count(cells, mask.ratio, mask.range_mask_ratio)
    return "half" if count is not None and 2 * count == cells else "any"


def _same_everywhere(kernels: tuple[str, ...]) -> tuple[str, ...]:
    """The first process' choice: with another one a process would run another program."""
    if jax.process_count() == 1:
        return kernels
    names = ("xla", "cudnn", "fused")
    numbers = multihost_utils.broadcast_one_to_all(np.array([names.index(kernel) for kernel in kernels]))
    return tuple(names[int(number)] for number in numbers)


def line(measured: dict[str, list[Measured]], chosen: dict[str, str], kernels: tuple[str, ...], source: str) -> str:
    """What was chosen and why."""

    def of(each: Measured) -> str:
        if each.seconds is None or each.error is None:
            return f"{each.kernel} fails: {each.reason[:80]}"
        return f"{each.kernel} {each.seconds * 1e3:.3g} ms, error {each.error:.1g}"

    parts = [f"{place} {chosen[place]} ({'; '.join(map(of, found))})" for place, found in measured.items()]
    return f"kernels chosen ({source}; --config.model.kernels={','.join(kernels)}): {', '.join(parts)}"


def kept_or_measured(model: ModelSettings, masks: Masks, images: int) -> tuple[dict[str, list[Measured]], str]:
    """Measurements of an earlier start, or new ones, which are kept; and which of both they are."""
    folder = jax.config.values["jax_compilation_cache_dir"]
    path, device = Path(folder) / KEPT if folder else None, jax.local_devices()[0].device_kind
    parts = (
        COMPARISON,
        __version__,
        jax.__version__,
        device,
        model.dtype,
        images,
        *places(model, masks),
        *model.widths,
    )
    name, kept = json.dumps(parts), _read(path)
    with suppress(KeyError, TypeError, AttributeError):
        return {place: [Measured(**each) for each in found] for place, found in kept[name].items()}, f"kept in {path}"
    measured = measure_model(model, masks, images)
    if path is not None and jax.process_index() == 0:
        kept[name] = {place: [asdict(each) for each in found] for place, found in measured.items()}
        temporary = path.with_suffix(".tmp")
        with suppress(OSError):  # then the next start measures again
            temporary.write_text(json.dumps(kept, indent=1))
            temporary.replace(path)
    return measured, "measured at this start"


def _read(path: Path | None) -> dict[str, Any]:
    """What is kept; nothing where there is no such file, or a damaged one."""
    found = None
    if path is not None:
        with suppress(OSError, ValueError):
            found = json.loads(path.read_text())
    return found if isinstance(found, dict) else {}


def measure_model(model: ModelSettings, masks: Masks, images: int) -> dict[str, list[Measured]]:
    """Errors and times of all kernels at all places of a model."""
    found = {}
    for place in places(model, masks):
        names = [kernel for kernel in ("fused", "cudnn", PLAIN) if _supported(kernel, place, model.dtype)]
        attention = {kernel: _attention(kernel, place) for kernel in names}
        found[place.name] = measure(attention, _given(place, model, images))
    norms = {kernel: _norm(kernel, model) for kernel in ("fused", PLAIN)}
    widths = zip(model.widths, model.grids, strict=True)
    found[NORM] = together([measure(norms, _rows(width, images * grid**2, model.dtype)) for width, grid in widths])
    return found


def together(parts: Sequence[Sequence[Measured]]) -> list[Measured]:
    """Measurements of several shapes as one: times are summed, and the largest error counts."""
    by_kernel: dict[str, list[Measured]] = {}
    for each in (each for part in parts for each in part):
        by_kernel.setdefault(each.kernel, []).append(each)
    return [_summed(kernel, found) for kernel, found in by_kernel.items()]


def _summed(kernel: str, found: Sequence[Measured]) -> Measured:
    if reasons := [each.reason for each in found if each.seconds is None or each.error is None]:
        return Measured(kernel, reason=reasons[0])
    return Measured(kernel, sum(each.seconds or 0.0 for each in found), max(each.error or 0.0 for each in found))


def _supported(kernel: str, place: Place, dtype: str) -> bool:
    return not (kernel == "cudnn" and dtype == "float32") and refusal(kernel, place, dtype) is None


def _attention(kernel: str, place: Place) -> Callable[..., Any]:
    """From a dense layer without its bias, for the kernels differ in what computes this bias' gradient."""
    return lambda values, layer, bias=None: self_attend(Product(values, layer), place.heads, bias, kernel)


def _given(place: Place, model: ModelSettings, images: int) -> tuple[Any, ...]:
    """Packed queries, keys and values, the bias of their layer, and one that forbids some pairs, as masks do."""
    rng = np.random.default_rng(0)
    shape = (images, place.windows, place.tokens, 3 * place.heads * place.depth)
    values, layer = (jnp.asarray(rng.standard_normal(shape, np.float32), model.dtype) for shape in (shape, shape[-1:]))
    if place.groups == 0:
        return values, layer
    groups = (place.groups,) if place.groups > 1 else ()
    bias = rng.standard_normal((*groups, place.heads, place.tokens, place.tokens), np.float32)
    bias[..., 1:, 0] = FORBIDDEN
    return values, layer, jnp.asarray(bias)


def _norm(kernel: str, model: ModelSettings) -> Callable[..., Any]:
    kernels = (PLAIN,) * (len(PLACES) - 1) + (kernel,)

    def norm(x: Any, scale: Any, bias: Any) -> Any:
        dtype: Any = str(x.dtype)  # the reference is computed in float32
        layer = LayerNorm(x.shape[-1], replace(model, dtype=dtype, kernels=kernels), rngs=nnx.Rngs(0))
        graphdef, _, fixed = split_model(layer)
        return merge_model(graphdef, {"scale": scale, "bias": bias}, fixed)(x)

    return norm


def _rows(width: int, rows: int, dtype: str) -> tuple[Any, ...]:
    rng = np.random.default_rng(0)
    x, scale, bias = (rng.standard_normal(shape, np.float32) for shape in ((rows, width), width, width))
    return jnp.asarray(1 + 2 * x, dtype), jnp.asarray(scale), jnp.asarray(bias)


def measure(functions: dict[str, Callable[..., Any]], given: tuple[Any, ...]) -> list[Measured]:
    """Errors and times of values and gradients of functions that should compute the same.

    Args:
        functions: By name of the kernel; the plain one, named "xla", is the reference, computed in float32.
        given: Their arguments; the gradient is that of the values' product with themselves.
    """
    with jax.default_matmul_precision("highest"):
        exact = _with_gradients(functions[PLAIN])(*(x.astype(jnp.float32) for x in given))
    steps, errors, failed = {}, {}, {}
    for kernel, function in functions.items():
        step = _with_gradients(function)
        try:
            errors[kernel] = _error(jax.block_until_ready(step(*given)), exact)
            steps[kernel] = step
        except Exception as error:  # whatever a compiler raises, the plain kernel is there
            failed[kernel] = one_line(error)
    times: dict[str, list[float]] = {kernel: [] for kernel in steps}
    for _ in range(ROUNDS):  # in turns, so that a slow moment slows all of them
        for kernel, step in steps.items():
            times[kernel].append(_seconds(step, given))
    right = [Measured(kernel, statistics.median(times[kernel]), errors[kernel]) for kernel in steps]
    return right + [Measured(kernel, reason=reason) for kernel, reason in failed.items()]


def _with_gradients(function: Callable[..., Any]) -> Callable[..., Any]:
    def both(*given: Any) -> Any:
        out, pull = jax.vjp(function, *given)
        return out, *pull(out)

    return jax.jit(both)


def _error(found: Sequence[Any], exact: Sequence[Any]) -> float:
    """Largest difference of each result relative to its largest value; infinite where anything is not finite.

    A gradient that should be zero, as of the logits of a single token, counts relative to a tenth of the output.
    """
    least = 0.1 * float(jnp.abs(exact[0]).max())
    errors = [
        float(jnp.abs(a.astype(jnp.float32) - b).max()) / max(float(jnp.abs(b).max()), least)
        for a, b in zip(found, exact, strict=True)
    ]
    return max(errors) if np.isfinite(errors).all() else float("inf")


def _seconds(step: Callable[..., Any], given: tuple[Any, ...]) -> float:
    began = time.perf_counter()
    for _ in range(CALLS):
        result = step(*given)
    jax.block_until_ready(result)
    return (time.perf_counter() - began) / CALLS
