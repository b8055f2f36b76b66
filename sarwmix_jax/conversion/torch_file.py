"""Reading `.pth` files written by `torch.save`, without PyTorch and without unpickling."""

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from sarwmix_jax.conversion.archive import damaged, open_archive
from sarwmix_jax.conversion.pickled import MAX_BYTES, Inert, Refused, Surplus, interpret
from sarwmix_jax.errors import UserError
from sarwmix_jax.progress import progress

_BLOCK = 1 << 20
_SHARED_BYTES = 100 << 20
"""Bytes by which tensors that share storages may exceed the size of the file."""

_MODEL_KEYS = ("model", "state_dict")
"""Keys under which training programs store the state dict, possibly one inside the other."""
_ALONE = (
    "if you trust the file, save its state dict alone, in PyTorch: torch.save({'model': STATE_DICT}, NEW), where "
    "STATE_DICT is torch.load(FILE, weights_only=False)['model'] or the like"
)
_MAX_EPOCH = 1 << 31


@dataclass(frozen=True)
class TorchCheckpoint:
    """Content of a `.pth` file; the arrays are read-only views of the mapped file."""

    model: dict[str, np.ndarray]
    optimizer: dict[Any, Any] | None
    epoch: int | None
    args: dict[str, Any] | None


def read_checkpoint(path: str | Path) -> TorchCheckpoint:
    """Read a released checkpoint, or a bare state dict.

    Args:
        path: A `.pth` file in zip format.

    Returns:
        Names and arrays as in the file (layouts and any `module.` prefix unchanged), with optimiser state, 0-based
        epoch and command-line arguments as plain data where the file has them.

    Raises:
        UserError: The file is damaged, of another format, or contains anything that a checkpoint does not need.
    """
    path = Path(path)
    members = open_archive(path)
    if members.get("byteorder", b"little") != b"little":
        raise damaged(path, "its numbers are not little-endian")
    if (size := len(members["data.pkl"])) > MAX_BYTES:
        raise damaged(path, f"its pickle has {size} bytes, more than {MAX_BYTES}", _ALONE)
    try:
        content = interpret(bytes(members["data.pkl"]), members)
    except Surplus as error:
        raise damaged(path, str(error), _ALONE) from error
    except Refused as error:
        raise damaged(path, str(error)) from error
    checkpoint = _checkpoint(path, content)
    if sum(array.nbytes for array in checkpoint.model.values()) > path.stat().st_size + _SHARED_BYTES:
        raise damaged(path, "its tensors share storages so often that they are far larger than the file")
    return checkpoint


def sha256_of(path: str | Path) -> str:
    """Hexadecimal SHA-256 of a file.

    Raises:
        UserError: The file cannot be read.
    """
    try:
        size = Path(path).stat().st_size
        with Path(path).open("rb") as file, progress("hashing the file", size >> 20, "MiB") as advance:
            digest = hashlib.sha256()
            while block := file.read(_BLOCK):
                digest.update(block)
                advance(len(block) >> 20)
        return digest.hexdigest()
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror})") from error


def _checkpoint(path: Path, content: Any) -> TorchCheckpoint:
    if not isinstance(content, dict):
        raise damaged(path, "it holds no dictionary")
    model: dict[Any, Any] = content
    rest: dict[Any, Any] = {}
    while keys := [key for key in _MODEL_KEYS if isinstance(model.get(key), dict)]:
        if len(keys) > 1:
            raise damaged(path, f"it holds a model under each of {', '.join(keys)}", _ALONE)
        model, rest = model[keys[0]], rest | model
    if not model:
        raise damaged(path, "it holds no model")
    for name, array in model.items():
        if not isinstance(name, str) or not isinstance(array, np.ndarray):
            what = array.name if isinstance(array, Inert) else type(array).__name__
            raise damaged(path, f"its model holds {str(name)[:80]!a}, which is not a tensor but {what}", _ALONE)
    optimizer, epoch, args = rest.get("optimizer"), rest.get("epoch"), rest.get("args")
    return TorchCheckpoint(
        model,
        optimizer if isinstance(optimizer, dict) else None,
        epoch if type(epoch) is int and 0 <= epoch < _MAX_EPOCH else None,
        args if isinstance(args, dict) else None,
    )
