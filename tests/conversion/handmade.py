"""`.pth` files made by hand, byte by byte, so that hostile ones can be made too and PyTorch is not needed."""

import io
import pickle
import struct
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

STORAGES = {
    "float32": "FloatStorage",
    "float64": "DoubleStorage",
    "float16": "HalfStorage",
    "bfloat16": "BFloat16Storage",
    "int8": "CharStorage",
    "uint8": "ByteStorage",
    "int16": "ShortStorage",
    "int32": "IntStorage",
    "int64": "LongStorage",
    "bool": "BoolStorage",
}


@dataclass(frozen=True)
class View:
    """A tensor: element type, storage key, elements of the storage, offset, shape, strides."""

    kind: str
    key: str
    elements: int
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]


@dataclass(frozen=True)
class Args:
    """An argparse.Namespace."""

    values: dict[str, Any]


@dataclass(frozen=True)
class Call:
    """A named object, from arguments and a state, as `__reduce__` writes them."""

    module: str
    attribute: str
    arguments: tuple[Any, ...]
    state: Any = None


@dataclass(frozen=True)
class Raw:
    """Opcodes put in as they are."""

    opcodes: bytes


def name(module: str, attribute: str) -> bytes:
    return f"c{module}\n{attribute}\n".encode()


def text(value: str) -> bytes:
    raw = value.encode("utf-8", "surrogatepass")
    return b"X" + struct.pack("<I", len(raw)) + raw


def opcodes(value: Any) -> bytes:
    """Pickle opcodes that leave a value on the stack."""
    match value:
        case Raw(raw):
            return raw
        case View(kind, key, elements, offset, shape, strides):
            storage = (Raw(text("storage")), Raw(name("torch", STORAGES[kind])), key, "cpu", elements)
            rest = (offset, shape, strides, False, Raw(name("collections", "OrderedDict") + b")R"))
            return name("torch._utils", "_rebuild_tensor_v2") + opcodes((Raw(opcodes(storage) + b"Q"), *rest)) + b"R"
        case Args(values):
            return name("argparse", "Namespace") + b")\x81" + opcodes(values) + b"b"
        case Call(module, attribute, arguments, state):
            built = b"" if state is None else opcodes(state) + b"b"
            return name(module, attribute) + opcodes(arguments) + b"R" + built
        case None:
            return b"N"
        case bool():
            return b"\x88" if value else b"\x89"
        case int():
            raw = value.to_bytes(value.bit_length() // 8 + 1, "little", signed=True)
            return b"\x8a" + bytes([len(raw)]) + raw
        case float():
            return b"G" + struct.pack(">d", value)
        case str():
            return text(value)
        case tuple():
            return b"(" + b"".join(map(opcodes, value)) + b"t"
        case list():
            return b"](" + b"".join(map(opcodes, value)) + b"e"
        case dict():
            return b"}(" + b"".join(opcodes(k) + opcodes(v) for k, v in value.items()) + b"u"
    raise TypeError(value)


def genuine(value: Any, protocol: int = 2) -> Raw:
    """What Python itself pickles for a value, as opcodes; `torch.save` uses protocol 2."""
    return Raw(pickle.dumps(value, protocol)[2:-1])


def pickled(value: Any) -> bytes:
    return b"\x80\x02" + opcodes(value) + b"."


def archive(members: dict[str, bytes], root: str = "archive/", compression: int = zipfile.ZIP_STORED) -> bytes:
    """A zip archive as torch.save makes it, from members named without the root."""
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", compression) as z:
        for member, content in members.items():
            z.writestr(zipfile.ZipInfo(root + member), content, compression)
    return out.getvalue()


def write(path: Path, content: Any, storages: dict[str, bytes], **more: bytes) -> Path:
    """A whole file: the pickled content, its storages, and other members."""
    members = {"data.pkl": pickled(content), "byteorder": b"little", "version": b"3\n", **more}
    members |= {f"data/{key}": raw for key, raw in storages.items()}
    path.write_bytes(archive(members))
    return path
