"""Export of checkpoints for PyTorch users: published names and layouts, as safetensors or `.pth`."""

import argparse
import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import numpy as np

from sarwmix_jax.checkpoints.integrity import first_line
from sarwmix_jax.checkpoints.loading import load_parameters
from sarwmix_jax.checkpoints.reading import quiet
from sarwmix_jax.conversion.recognition import published_shape
from sarwmix_jax.conversion.table import Extent, entries, relative_position_index, to_published
from sarwmix_jax.errors import UserError
from sarwmix_jax.models.state import flatten_names
from sarwmix_jax.progress import progress

_SAFETENSORS_TYPES = {"float32": "F32", "int64": "I64"}


@dataclass(frozen=True)
class Exported:
    """A checkpoint in the published form; `tensors` are in definition order, buffers included."""

    tensors: dict[str, np.ndarray]
    description: dict[str, Any]
    step: int


def export(checkpoint: Path, step: int | None = None) -> Exported:
    """Read a checkpoint of this package in the published form.

    Raises:
        UserError: It cannot be read, or does not fit its own description.
    """
    with quiet(), progress("reading the checkpoint"):
        loaded = load_parameters(checkpoint, step)
        _ = loaded.structure  # checks every array
    named = {name: np.asarray(a) for name, a in (flatten_names(loaded.params) | flatten_names(loaded.fixed)).items()}
    settings, kind, classes = loaded.settings, loaded.kind, loaded.description.get("classes")
    tensors = {}
    for entry in entries(Extent(settings.depths, settings.decoder_depth if kind == "pretraining" else None)):
        tensors[entry.published] = to_published(named, entry, published_shape(entry, settings, classes))
        if entry.stage is not None and entry.published.endswith("bias_table"):
            index = relative_position_index(settings.window_sides[entry.stage])
            tensors[entry.published.replace("bias_table", "index")] = index
    return Exported(tensors, loaded.description, loaded.step)


def notes(description: Mapping[str, Any]) -> dict[str, Any]:
    """What a PyTorch user needs besides the tensors, as plain values."""
    kept = ("kind", "unit", "statistics", "classes", "tiling", "norm_pix", "model")
    known = {name: description[name] for name in kept if description.get(name) is not None}
    return {"bands": description["model"]["bands"], **known}


def write_safetensors(exported: Exported, file: Path) -> None:
    """Write a safetensors file, tensor by tensor; the description is its metadata.

    Format: https://huggingface.co/docs/safetensors. A length, a JSON header and the bytes: no library is needed.

    Raises:
        UserError: The file exists or cannot be written.
    """
    # With wider elements first, every tensor is aligned.
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
    with _new(file) as out:
        out.write(len(text).to_bytes(8, "little") + text)
        for _, array in ordered:
            out.write(np.ascontiguousarray(array).data)


@contextmanager
def _new(file: Path) -> Iterator[IO[bytes]]:
    """Create a file; it is removed when writing fails."""
    try:
        with progress(f"writing {file.name}"), file.open("xb") as out:
            yield out
    except FileExistsError as error:
        raise UserError(f"{file} exists; name another file") from error
    except (OSError, RuntimeError) as error:
        file.unlink(missing_ok=True)
        raise UserError(f"cannot write {file}: {getattr(error, 'strerror', None) or first_line(error)}") from error


def write_pth(exported: Exported, file: Path) -> None:
    """Write a `.pth` file in the released form: model, epoch (0-based), args.

    Raises:
        UserError: PyTorch is not installed, or the file exists or cannot be written.
    """
    try:
        import torch
    except ImportError as error:
        raise UserError("a .pth file needs PyTorch; install it, or name the file .safetensors") from error
    model = {name: torch.from_numpy(np.array(array)) for name, array in exported.tensors.items()}
    description = exported.description
    reached = description.get("progress") or {"epoch": description["source"].get("epochs")}
    content: dict[str, Any] = {"model": model, "args": argparse.Namespace(**notes(description))}
    if reached.get("epoch") is not None:
        content["epoch"] = int(reached["epoch"]) - 1
    with _new(file) as out:
        torch.save(content, out)
