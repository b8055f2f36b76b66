"""From a `.pth` file to a checkpoint of this package."""

import dataclasses
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from sarwmix_jax.conversion.hints import Hints
from sarwmix_jax.conversion.identity import identify
from sarwmix_jax.conversion.moments import Moments, convert_moments
from sarwmix_jax.conversion.recognition import Recognised, account, recognise
from sarwmix_jax.conversion.resize import resize_tables
from sarwmix_jax.conversion.table import FIXED, LAYOUTS, entries, without_prefix
from sarwmix_jax.conversion.torch_file import read_checkpoint, sha256_of
from sarwmix_jax.errors import UserError
from sarwmix_jax.facts.labels import CLASSES, FLOOD_CLASSES
from sarwmix_jax.facts.released import Released
from sarwmix_jax.progress import progress, track
from sarwmix_jax.settings.model import ModelSettings, windows_for

_SHOWN_ARGS = 100
_LARGEST_SIDE = 4096
"""In pixels; the position table of base then has half a gigabyte."""


@dataclass(frozen=True)
class ConversionRequest:
    """What to convert, and with which options."""

    source: Path
    hints: Hints = dataclasses.field(default_factory=Hints)
    image_size: int | None = None
    windows: tuple[int, ...] | None = None
    allow_missing: tuple[str, ...] = ()
    allow_nonfinite: bool = False
    with_optimizer: bool = False
    sha256: str | None = None


@dataclass(frozen=True)
class Converted:
    """A converted file before it is written.

    Attributes:
        source: Origin, as in the checkpoint's description; `resized` and `drawn` are the names of the tables that
            were resized and of the tensors that were missing, `args_not_trusted` the file's command-line arguments as
            text.
        released: Its entry in the registry.
        found: What was recognised in the file.
        settings: Model settings after a change of the image size.
        tensors: Arrays by flat name; float32, views of the file where nothing had to change.
        published: The tensors of the file by published name, without prefix.
        rounded: Published names of the tensors that float32 cannot represent exactly.
        moments: Optimiser state, if requested.
    """

    source: dict[str, Any]
    released: Released | None
    found: Recognised
    settings: ModelSettings
    tensors: dict[str, np.ndarray]
    published: dict[str, np.ndarray]
    rounded: tuple[str, ...]
    moments: Moments | None


def convert(request: ConversionRequest) -> Converted:
    """Read a file, recognise it and account for every tensor; nothing is written.

    Raises:
        UserError: See `read_checkpoint`, `identify`, `recognise`, `account`, `convert_moments`; or options for the
            optimiser state are given, but it is not converted.
    """
    if request.hints.mix_group is not None and not request.with_optimizer:
        raise UserError("--mix-group has an effect only with --with-optimizer; leave it out")
    file = read_checkpoint(request.source)
    optimizer = file.optimizer if request.with_optimizer else None
    if request.with_optimizer and optimizer is None:
        raise UserError("--with-optimizer: the file holds no optimiser state; leave the option out")
    sha256 = sha256_of(request.source)
    released = identify(request.source, sha256, request.sha256)
    published = without_prefix(file.model)
    arguments = shown_arguments(file.args or {})
    own_batch_size = None if optimizer is None else arguments.get("batch_size", "not there")
    found = recognise(published, request.hints, released, own_batch_size)
    absent = account(published, found, request.allow_missing, request.allow_nonfinite)
    settings = _resized(found.settings, request)
    tensors, rounded = _parameters(published, found)
    resized = resize_tables(tensors, settings.image_size, settings.window_sides)
    if request.with_optimizer and (resized or absent):
        raise UserError("--with-optimizer: resized or missing tensors have no optimiser state; leave one option out")
    moments = None if optimizer is None else convert_moments(optimizer, found)
    drawn = [entry.name for entry in entries(found.extent) if entry.published in absent]
    if drawn:
        from sarwmix_jax.checkpoints.loading import drawn_tensors  # JAX is not needed otherwise

        fresh = drawn_tensors(found.kind, settings, found.classes)
        tensors |= {name: fresh[name] for name in drawn}
    source = {
        "file": request.source.name,
        "sha256": sha256,
        "verified": released is not None,
        "released": released.file if released else None,
        "epochs": None if file.epoch is None else file.epoch + 1,
        "args_not_trusted": arguments,
        "resized": resized,
        "drawn": drawn,
    }
    return Converted(source, released, found, settings, tensors, published, rounded, moments)


def _resized(settings: ModelSettings, request: ConversionRequest) -> ModelSettings:
    """Settings with the requested image side and windows, if any."""
    if request.image_size is None and request.windows is None:
        return settings
    side = settings.image_size if request.image_size is None else request.image_size
    if side > max(_LARGEST_SIDE, settings.image_size):
        raise UserError(f"--image-size {side} is larger than {_LARGEST_SIDE}; cut larger images into tiles")
    return dataclasses.replace(settings, image_size=side, windows=request.windows or windows_for(side))


def _parameters(published: dict[str, np.ndarray], found: Recognised) -> tuple[dict[str, np.ndarray], tuple[str, ...]]:
    """Arrays as float32 by flat name, and the published names of those that were rounded."""
    tensors, rounded = {}, []
    for entry in track(list(entries(found.extent)), "converting tensors", unit="tensors"):
        if entry.published not in published:
            continue
        array = published[entry.published]
        exact = np.asarray(array, np.float32)
        if array.dtype == np.float64 and not np.array_equal(exact.astype(np.float64), array, equal_nan=True):
            rounded.append(entry.published)
        tensors[entry.name] = LAYOUTS[entry.layout].from_published(exact)
    return tensors, tuple(rounded)


def shown_arguments(args: dict[Any, Any]) -> dict[str, str]:
    """Command-line arguments in a file as short texts, for display; nested ones are left out."""
    plain = {key: value for key, value in args.items() if isinstance(value, str | int | float | None)}
    return {ascii(key)[1:-1][:60]: ascii(value)[:80] for key, value in list(plain.items())[:_SHOWN_ARGS]}


def check_free(directory: Path) -> None:
    """Refuse to write to a folder that is not empty.

    Raises:
        UserError: The folder exists and is not empty.
    """
    if directory.exists() and (not directory.is_dir() or any(directory.iterdir())):
        raise UserError(f"{directory} exists and is not an empty folder; name another one")


def write(converted: Converted, directory: Path) -> int:
    """Write a converted checkpoint.

    Returns:
        Its step: the optimiser steps done, or 0 without optimiser state.

    Raises:
        UserError: See `check_free` and `converted.write_checkpoint`.
    """
    from sarwmix_jax.checkpoints.converted import write_checkpoint
    from sarwmix_jax.checkpoints.store import describe
    from sarwmix_jax.conversion.resumable import run_description, run_state  # Orbax and optax take a second to import

    check_free(directory)
    found = converted.found
    items = {
        "params": {name: array for name, array in converted.tensors.items() if name not in FIXED},
        "fixed": {name: array for name, array in converted.tensors.items() if name in FIXED},
    }
    more: dict[str, Any] = {"classes": found.classes, "tiling": found.tiling, "norm_pix": found.norm_pix}
    known_names = {("classifier", len(CLASSES)): CLASSES, ("flood", len(FLOOD_CLASSES)): FLOOD_CLASSES}
    more["class_names"] = known_names.get((found.kind, found.classes or 0))
    if converted.moments is not None:
        items["optimizer"] = run_state(items["params"], converted.moments)
        more |= run_description(converted, converted.moments.count)
    description = describe(
        found.kind,
        converted.settings,
        found.statistics,
        found.statistics_name,
        source=converted.source,
        **more,
    )
    step = converted.moments.count if converted.moments else 0
    with progress("writing the checkpoint"):
        write_checkpoint(directory, step, items, description)
    return step
