"""Reading `.pth` files written by `torch.save`, without PyTorch and without unpickling."""

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np

from sarwmix_jax.conversion.archive import Archive, damaged, open_archive
from sarwmix_jax.conversion.pickled import MAX_BYTES, Namespace, Refused, Tensor, interpret
from sarwmix_jax.errors import UserError

_MAX_DEPTH = 20
_SHARED_BYTES = 100 << 20
"""How many bytes more than the file's size a model's tensors may have, where they share storages."""


@dataclass(frozen=True)
class TorchCheckpoint:
    """What a `.pth` file holds; the arrays are read-only views of the mapped file."""

    model: dict[str, np.ndarray]
    optimizer: dict[Any, Any] | None
    epoch: int | None
    args: dict[str, Any] | None


def read_checkpoint(path: str | Path) -> TorchCheckpoint:
    """Read a released checkpoint, or a bare state dict.

    Args:
        path: a zip-form `.pth` file.

    Returns:
        Names and arrays as they are in the file (layouts and any `module.` prefix unchanged), with optimiser state,
        0-based epoch and command-line arguments as plain data where the file has them.

    Raises:
        UserError: the file is damaged, of another form, or says anything that a checkpoint has no need to say.
    """
    archive = open_archive(Path(path))
    archive.check_sums()
    if "byteorder" in archive.members and archive.read("byteorder", 16) != b"little":
        raise damaged(archive.path, "its numbers are not little-endian")
    try:
        content = _Content(archive).plain(interpret(archive.read("data.pkl", MAX_BYTES)))
    except Refused as error:
        raise damaged(archive.path, str(error)) from error
    checkpoint = _checkpoint(archive.path, content)
    if sum(array.nbytes for array in checkpoint.model.values()) > len(archive.data) + _SHARED_BYTES:
        raise damaged(archive.path, "its tensors share storages so often that they are far larger than the file")
    return checkpoint


def sha256_of(path: str | Path) -> str:
    """Hexadecimal SHA-256 of a file.

    Raises:
        UserError: the file cannot be read.
    """
    try:
        with Path(path).open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror})") from error


def _checkpoint(path: Path, content: Any) -> TorchCheckpoint:
    if not isinstance(content, dict):
        raise damaged(path, "it holds no dictionary")
    model = content.get("model", content)
    if not isinstance(model, dict) or not model:
        raise damaged(path, "it holds no model")
    for name, array in model.items():
        if not isinstance(name, str) or not isinstance(array, np.ndarray):
            raise damaged(path, f"its model holds {str(name)[:80]!a}, which is not a tensor (no state dict)")
    if model is content:
        return TorchCheckpoint(model, None, None, None)
    optimizer, epoch, args = content.get("optimizer"), content.get("epoch"), content.get("args")
    return TorchCheckpoint(
        model,
        optimizer if isinstance(optimizer, dict) else None,
        epoch if type(epoch) is int else None,
        args if isinstance(args, dict) else None,
    )


class _Content:
    """Turns interpreted pickle content into plain data with arrays, each shared item once."""

    def __init__(self, archive: Archive) -> None:
        self.archive = archive
        self.done: dict[int, Any] = {}

    def plain(self, item: Any, depth: int = 0) -> Any:
        if isinstance(item, Tensor):
            return self._array(item)
        if not isinstance(item, dict | list | tuple | Namespace):
            return item
        if id(item) not in self.done:
            if depth > _MAX_DEPTH:
                raise Refused("its pickle is nested too deeply")
            self.done[id(item)] = self._container(item, depth + 1)
        return self.done[id(item)]

    def _container(self, item: Any, depth: int) -> Any:
        if isinstance(item, Namespace):
            return self._container(item.values, depth)
        if isinstance(item, dict):
            return {key: self.plain(value, depth) for key, value in item.items()}
        return type(item)(self.plain(value, depth) for value in item)

    def _array(self, tensor: Tensor) -> np.ndarray:
        storage = tensor.storage
        dtype = np.dtype(ml_dtypes.bfloat16 if storage.element_type == "bfloat16" else storage.element_type)
        member = self.archive.members.get(f"data/{storage.key}")
        if member is None:
            raise Refused(f"its storage data/{storage.key} is missing")
        if member.size != storage.elements * dtype.itemsize:
            raise Refused(
                f"its storage data/{storage.key} has {member.size} bytes instead of {storage.elements * dtype.itemsize}"
            )
        if storage.elements == 0:
            return np.zeros(tensor.shape, dtype)
        flat = np.frombuffer(self.archive.data, dtype, storage.elements, member.start)
        strides = tuple(stride * dtype.itemsize for stride in tensor.strides)
        return np.lib.stride_tricks.as_strided(flat[tensor.offset :], tensor.shape, strides, writeable=False)
