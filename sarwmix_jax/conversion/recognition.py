"""Recognition of a state dict: model settings from tensor shapes, the rest from the registry or from the user."""

import math
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from sarwmix_jax.conversion.hints import ANSWERS, OWNERS, Hints, ask, option, parse_statistics, settle
from sarwmix_jax.conversion.table import (
    Entry,
    Extent,
    entries,
    extent_of,
    relative_position_index,
    window_side,
)
from sarwmix_jax.errors import UserError
from sarwmix_jax.facts.bands import BANDS, BandStatistics
from sarwmix_jax.facts.released import KINDS, Released
from sarwmix_jax.facts.sizes import SIZES
from sarwmix_jax.settings.model import PATCH, STAGES, ModelSettings, windows_for

_LISTED = 8
_FIRST = "patch_embed.proj.weight"
FLOATING = ("float16", "bfloat16", "float32", "float64")


@dataclass(frozen=True)
class Recognised:
    """Kind and settings of a model, and properties of its input and output."""

    kind: str
    settings: ModelSettings
    extent: Extent
    statistics_name: str
    statistics: BandStatistics
    classes: int | None
    tiling: str | None
    norm_pix: bool | None
    mix_group: int | None

    def shape(self, entry: Entry) -> tuple[int, ...]:
        """Published shape of a tensor of this model."""
        return published_shape(entry, self.settings, self.classes)


def recognise(
    tensors: Mapping[str, np.ndarray], hints: Hints, released: Released | None, own_batch_size: str | None = None
) -> Recognised:
    """Recognise the model of a state dict.

    Args:
        tensors: Arrays by published name, without prefix.
        hints: What the user states.
        released: The registry's entry of the file, if it has one.
        own_batch_size: If the file is to be continued as a run, its own `batch_size`, which is shown but not used.

    Raises:
        UserError: A tensor that determines a width is missing or of impossible shape, needed properties are neither
            known nor given (all are named), or a given property contradicts a known one.
    """
    extent = extent_of(tensors)
    classes = None if extent.decoder_depth is not None else _sides(tensors, "head.weight", 2)[0]
    shape = _shape(tensors, extent)
    known: dict[str, Any] = {} if released is None else {name: vars(released).get(name) for name in ANSWERS}
    known["decoder_heads"] = _decoder_heads(shape)
    settled: dict[str, Any] = {name: settle(name, given, known.get(name)) for name, given in vars(hints).items()}
    kind = settled["kind"] = _kind(classes, settled["kind"])
    for name, owner in OWNERS.items():
        if vars(hints)[name] is not None and kind not in (None, owner):
            raise UserError(f"{option(name)} is given, but the file is of kind {kind}; leave it out")
    ask(settled, own_batch_size)
    if kind == "pretraining":
        shape["decoder_heads"] = settled.pop("decoder_heads")
    statistics = settled["statistics"]
    return Recognised(
        kind=settled["kind"],
        settings=ModelSettings(**shape),
        extent=extent,
        statistics_name=statistics,
        statistics=parse_statistics(statistics),
        classes=classes,
        **{name: settled[name] for name in ("tiling", "norm_pix", "mix_group")},
    )


def _kind(classes: int | None, given: str | None) -> str | None:
    """The kind, or None if a head of two classes leaves it open."""
    fitting = {None: KINDS[:1], 2: KINDS[1:]}.get(classes, ("classifier",))
    if given is not None and given not in fitting:
        what = "a decoder, so it is a pretraining file" if classes is None else f"a head of {classes} classes"
        raise UserError(f"--kind {given} does not fit the file: it has {what}")
    return fitting[0] if len(fitting) == 1 else given


def _sides(tensors: Mapping[str, np.ndarray], name: str, dimensions: int) -> tuple[int, ...]:
    """Shape of a tensor that determines widths."""
    if name not in tensors:
        for other in tensors:
            if (prefix := other.removesuffix(_FIRST)) != other and prefix:
                raise UserError(f"the names of the file's tensors begin with {prefix[:80]!a}; save them without")
        raise UserError(f"the file has no tensor {name}, so it is not recognised as a SAR-W-MixMAE checkpoint")
    if tensors[name].ndim != dimensions:
        raise UserError(f"tensor {name} has shape {list(tensors[name].shape)}; {dimensions} axes are needed")
    if 0 in tensors[name].shape:
        raise UserError(f"tensor {name} has shape {list(tensors[name].shape)}, so no values; use a complete file")
    return tensors[name].shape


def _shape(tensors: Mapping[str, np.ndarray], extent: Extent) -> dict[str, Any]:
    """Model settings that follow from the tensors."""
    width, bands, patch, _ = _sides(tensors, _FIRST, 4)
    if bands != len(BANDS):
        raise UserError(f"the model takes {bands} bands; only {len(BANDS)} ({', '.join(BANDS)}) are supported")
    if patch != PATCH:
        raise UserError(f"the model's patches are {patch} pixels wide; only {PATCH} is supported")
    windows, heads = zip(*(_window_and_heads(tensors, stage) for stage in range(STAGES)), strict=True)
    tokens = _sides(tensors, "absolute_pos_embed", 3)[1]
    image_size = math.isqrt(tokens) * patch
    if math.isqrt(tokens) ** 2 != tokens:
        raise UserError(f"tensor absolute_pos_embed has {tokens} positions, which is not a square grid")
    shape: dict[str, Any] = {"embed_dim": width, "depths": extent.depths, "num_heads": heads, "image_size": image_size}
    if extent.decoder_depth is not None:
        shape |= {"decoder_dim": _sides(tensors, "mask_token", 3)[2], "decoder_depth": extent.decoder_depth}
    return shape | {"windows": None if windows == windows_for(image_size) else windows}


def _decoder_heads(shape: Mapping[str, Any]) -> int | None:
    """Heads of the decoder of a published size; they follow from no tensor."""
    for size in SIZES.values():
        if all(shape.get(name) == value for name, value in vars(size).items() if name != "decoder_heads"):
            return size.decoder_heads
    return None


def _window_and_heads(tensors: Mapping[str, np.ndarray], stage: int) -> tuple[int, int]:
    name = f"layers.{stage}.blocks.0.attn.relative_position_bias_table"
    rows, heads = _sides(tensors, name, 2)
    window = window_side(rows)
    if window is None:
        raise UserError(f"tensor {name} has {rows} rows, which fits no window side")
    return window, heads


def published_shape(entry: Entry, settings: ModelSettings, classes: int | None) -> tuple[int, ...]:
    """Published shape of a tensor of a model with these settings."""
    sizes = {
        "C": settings.embed_dim,
        "I": len(settings.bands),
        "p": PATCH,
        "N": settings.grids[0] ** 2,
        "n": settings.cells,
        "F": settings.features,
        "D": settings.decoder_dim,
        "V": settings.cell_values,
        "K": classes or 0,
    }
    if (stage := entry.stage) is not None:
        table = (2 * settings.window_sides[stage] - 1) ** 2
        sizes |= {"C": settings.widths[stage], "H": settings.num_heads[stage], "T": table}
    # A side is a product of digits and symbols, such as 3C.
    return tuple(
        math.prod(int(factor) if factor.isdigit() else sizes[factor] for factor in side) for side in entry.shape.split()
    )


def account(
    tensors: Mapping[str, np.ndarray],
    found: Recognised,
    allow_missing: Collection[str] = (),
    allow_nonfinite: bool = False,
) -> tuple[str, ...]:
    """Check every tensor of a file.

    Returns:
        Published names of the tensors that are missing and may be missing.

    Raises:
        UserError: Tensors are unknown, missing, of another shape, not floating-point or not finite; all are listed.
    """
    parameters = {entry.published: found.shape(entry) for entry in entries(found.extent)}
    windows = _buffers(found)
    expected = parameters | {name: (window**2, window**2) for name, window in windows.items()}
    present = {name: tensors[name] for name in expected if name in tensors}
    absent = tuple(name for name in parameters if name not in tensors)
    if needless := [name for name in allow_missing if name not in absent]:
        raise UserError(
            f"--allow-missing {needless[0]}: the file has it, or the model has no such tensor; leave it out"
        )
    problems = {
        "unknown": [name for name in tensors if name not in expected],
        "missing": [name for name in absent if name not in allow_missing],
        "of another shape": [
            f"{name} {list(array.shape)} instead of {list(expected[name])}"
            for name, array in present.items()
            if array.shape != expected[name]
        ],
        "not floating-point": [
            name for name, array in present.items() if name in parameters and array.dtype.name not in FLOATING
        ],
    }
    if not any(problems.values()):
        for name, array in present.items():
            if name in windows and not np.array_equal(array, relative_position_index(windows[name])):
                problems.setdefault("wrong", []).append(name)
            elif name in parameters and not allow_nonfinite and not is_finite(array):
                problems.setdefault("not finite", []).append(name)
    if any(problems.values()):
        raise UserError(f"the file's tensors do not fit: {_listed(problems)}")
    return absent


def _listed(problems: Mapping[str, list[str]]) -> str:
    remedies = {"missing": " (--allow-missing NAME accepts one)", "not finite": " (--allow-nonfinite accepts them)"}
    parts = []
    for what, names in problems.items():
        if names:
            shown = ", ".join(name[:120] if name.isprintable() else ascii(name)[:120] for name in names[:_LISTED])
            more = f" and {len(names) - _LISTED} more" if len(names) > _LISTED else ""
            parts.append(f"{len(names)} {what}: {shown}{more}{remedies.get(what, '')}")
    return "; ".join(parts)


def _buffers(found: Recognised) -> dict[str, int]:
    """Window side of every index buffer that the published model has."""
    return {
        entry.published.replace("bias_table", "index"): found.settings.window_sides[entry.stage]
        for entry in entries(found.extent)
        if entry.stage is not None and entry.published.endswith("bias_table")
    }


def is_finite(array: np.ndarray) -> bool:
    """Whether all values are finite as float32."""
    with np.errstate(all="ignore"):
        # A sum is one pass without a copy; if it is finite, so are all values.
        if array.dtype != np.float64 and np.isfinite(array.sum(dtype=np.float64)):
            return True
        return all(bool(np.isfinite(part.astype(np.float32)).all()) for part in array)
