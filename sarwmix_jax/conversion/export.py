"""One of our checkpoints for PyTorch users: published names and layouts, as safetensors or `.pth`."""

import argparse
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from sarwmix_jax.checkpoints.loading import load_parameters, quiet
from sarwmix_jax.conversion.recognition import published_shape
from sarwmix_jax.conversion.table import Extent, entries, relative_position_index, to_published
from sarwmix_jax.errors import UserError
from sarwmix_jax.models.state import flatten_names
from sarwmix_jax.settings.model import ModelSettings, described_model

_SAFETENSORS_TYPES = {"float32": "F32", "int64": "I64"}


@dataclass(frozen=True)
class Exported:
    """A checkpoint of ours in the published form; `tensors` are in definition order, buffers included."""

    tensors: dict[str, np.ndarray]
    description: dict[str, Any]
    step: int


def export(checkpoint: Path, step: int | None = None) -> Exported:
    """Read one of our checkpoints in the published form.

    Raises:
        UserError: it cannot be read, or does not fit its own description.
    """
    with quiet():
        loaded = load_parameters(checkpoint, step)
    ours = {name: np.asarray(a) for name, a in (flatten_names(loaded.params) | flatten_names(loaded.fixed)).items()}
    settings, kind = described_model(loaded.description["model"]), loaded.description["kind"]
    extent = Extent(settings.depths, settings.decoder_depth if kind == "pretraining" else None)
    tensors = dict(published_tensors(ours, settings, extent, loaded.description.get("classes")))
    return Exported(tensors, loaded.description, loaded.step)


def published_tensors(
    ours: Mapping[str, np.ndarray], settings: ModelSettings, extent: Extent, classes: int | None
) -> Iterator[tuple[str, np.ndarray]]:
    """Published names and arrays of our tensors, as views, with the index buffers where they belong.

    Raises:
        UserError: a tensor is missing, unknown or misshapen.
    """
    model = list(entries(extent))
    if wrong := sorted(set(ours) ^ {entry.ours for entry in model}):
        raise UserError(f"the checkpoint does not fit its own description: {wrong[0]} ({len(wrong)} such tensors)")
    for entry in model:
        shape = published_shape(entry, settings, classes)
        array = to_published(ours, entry, shape)
        if array.shape != shape:
            raise UserError(
                f"the checkpoint does not fit its own description: {entry.ours} is {ours[entry.ours].shape}"
            )
        yield entry.published, array
        if entry.stage is not None and entry.published.endswith("bias_table"):
            index = relative_position_index(settings.window_sides[entry.stage])
            yield entry.published.replace("bias_table", "index"), index


def notes(description: Mapping[str, Any]) -> dict[str, Any]:
    """What a PyTorch user needs to know beside the tensors: plain values."""
    kept = ("kind", "unit", "statistics", "classes", "tiling", "norm_pix", "model")
    known = {name: description[name] for name in kept if description.get(name) is not None}
    return {"bands": description["model"]["bands"], **known}


def write_safetensors(exported: Exported, file: Path) -> None:
    """Write a safetensors file, tensor by tensor; the description is its metadata.

    Format: https://huggingface.co/docs/safetensors. A length, a JSON header and the bytes: no library is needed.

    Raises:
        UserError: the file exists or cannot be written.
    """
    # Wider elements first keep every tensor aligned.
    ordered = sorted(exported.tensors.items(), key=lambda item: -item[1].dtype.itemsize)
    metadata = {name: json.dumps(value) for name, value in notes(exported.description).items()}
    header: dict[str, Any] = {"__metadata__": {"format": "pt", **metadata}}
    end = 0
    for name, array in ordered:
        start, end = end, end + array.nbytes
        kind = _SAFETENSORS_TYPES[array.dtype.name]
        header[name] = {"dtype": kind, "shape": list(array.shape), "data_offsets": [start, end]}
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    try:
        with file.open("xb") as out:
            out.write(len(text).to_bytes(8, "little") + text)
            for _, array in ordered:
                out.write(np.ascontiguousarray(array).data)
    except FileExistsError as error:
        raise UserError(f"{file} exists; name another file") from error
    except OSError as error:
        file.unlink(missing_ok=True)
        raise UserError(f"cannot write {file}: {error.strerror}") from error


def write_pth(exported: Exported, file: Path) -> None:
    """Write a `.pth` file in the released form: model, epoch (0-based), args.

    Raises:
        UserError: PyTorch is not installed, or the file exists or cannot be written.
    """
    try:
        import torch
    except ImportError as error:
        raise UserError("a .pth file needs PyTorch; install it, or name the file .safetensors") from error
    if file.exists():
        raise UserError(f"{file} exists; name another file")
    model = {name: torch.from_numpy(np.array(array)) for name, array in exported.tensors.items()}
    epochs = (exported.description.get("progress") or exported.description["source"]).get("epoch")
    epochs = exported.description["source"].get("epochs") if epochs is None else epochs
    content: dict[str, Any] = {"model": model, "args": argparse.Namespace(**notes(exported.description))}
    if epochs is not None:
        content["epoch"] = int(epochs) - 1
    try:
        torch.save(content, file)
    except (OSError, RuntimeError) as error:
        file.unlink(missing_ok=True)
        raise UserError(f"cannot write {file}: {str(error).splitlines()[0]}") from error
