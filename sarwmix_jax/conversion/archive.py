"""The container of a `.pth` file: a zip archive whose members are stored uncompressed, read through a memory map.

Only what `torch.save` writes is accepted. Nothing is unpacked: a member is a range of the mapped file, so reading
needs no memory, whatever sizes the archive states.
"""

import mmap
import struct
import zipfile
import zlib
from pathlib import Path

from sarwmix_jax.errors import UserError
from sarwmix_jax.progress import track

MAX_MEMBERS = 50_000
_MAX_DIRECTORY = 16 << 20
"""Largest size in bytes of the zip directory, which `zipfile` reads into memory."""
_MAX_COMMENT = 65_535

_END = struct.Struct("<4s4H2LH")
_END64 = struct.Struct("<4sQ2H2L4Q")
_LOCATOR64 = struct.Struct("<4sLQL")
_LOCAL = struct.Struct("<4s5H3L2H")


def damaged(path: Path, why: str, remedy: str = "download the file or save it with torch.save again") -> UserError:
    """The error for a file that is not a complete, plain archive of `torch.save`."""
    return UserError(f"{path}: refused, {why}; {remedy}")


def open_archive(path: Path) -> dict[str, memoryview]:
    """Map a file, read the directory of its zip archive and compare every member with its CRC-32.

    Returns:
        The members as views of the mapped file, named without the archive's root folder; `data.pkl` is one of them.

    Raises:
        UserError: The file is missing, not a zip archive as `torch.save` writes it, damaged or hostile.
    """
    if not path.is_file():
        raise UserError(f"{path}: no such file")
    with path.open("rb") as file:
        _refuse_other_formats(path, file.read(512))
        data = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        start = _check_directory(path, data)
        try:
            with zipfile.ZipFile(file, metadata_encoding="utf-8") as archive:
                entries = archive.infolist()
        except (zipfile.BadZipFile, NotImplementedError, struct.error, ValueError, OSError) as error:
            raise damaged(path, "its zip directory is damaged or truncated") from error
    return _without_root(path, _members(path, data, entries, start))


def _refuse_other_formats(path: Path, head: bytes) -> None:
    """Refuse other formats by name: those that are often mistaken for a current `.pth` file."""
    if head.startswith(b"PK\x03\x04"):
        return
    if head.startswith(b"\x80"):
        form = "a bare pickle or in the format of torch.save before PyTorch 1.6"
    elif head[257:262] == b"ustar":
        form = "in the tar format of early PyTorch"
    elif head.lstrip()[:1] == b"<":
        form = "a web page; the download did not return the file"
    elif not head:
        form = "empty"
    else:
        form = "not a zip archive"
    raise UserError(f"{path}: refused, it is {form}; a .pth file saved by torch.save of PyTorch 1.6 or later is needed")


def _check_directory(path: Path, data: mmap.mmap) -> int:
    """Start of the central directory, after a check of the end record: `zipfile` checks too little."""
    at = data.rfind(b"PK\x05\x06", max(0, len(data) - _MAX_COMMENT - _END.size), max(0, len(data) - _END.size + 4))
    if at < 0:
        raise damaged(path, "its zip directory is missing (the file is truncated)")
    _, disk, first, here, count, size, start, comment = _END.unpack_from(data, at)
    if disk or first or here != count or at + _END.size + comment != len(data):
        raise damaged(path, "the end record of its zip directory is inconsistent")
    end, locator = at, at - _LOCATOR64.size
    # torch.save always writes the zip64 records, even where they are not needed.
    if locator >= _END64.size and data[locator : locator + 4] == b"PK\x06\x07":
        end = locator - _END64.size
        mark, _, _, _, _, _, here, count, size, start = _END64.unpack_from(data, end)
        if mark != b"PK\x06\x06" or here != count:
            raise damaged(path, "its zip64 record is missing or inconsistent")
    if count > MAX_MEMBERS or size > _MAX_DIRECTORY:
        raise damaged(path, f"it states {count} members, more than {MAX_MEMBERS}, or a directory of {size} bytes")
    if start + size != end:
        raise damaged(path, "its zip directory is not at the position in its end record")
    if data[start:end].count(b"PK\x01\x02") != count:
        raise damaged(path, "its zip directory does not hold as many members as it states")
    return start


def _members(path: Path, data: mmap.mmap, entries: list[zipfile.ZipInfo], end: int) -> dict[str, memoryview]:
    """Views of the members' bytes, after a check of their checksums and that they are in sequence before `end`."""
    members: dict[str, memoryview] = {}
    reached = 0
    in_order = sorted(entries, key=lambda entry: entry.header_offset)
    for entry in track(in_order, "checking the file", unit="members"):
        name, start = entry.orig_filename, _content(path, data, entry)
        if name in members:
            raise damaged(path, "two members have the same name")
        if entry.header_offset < reached:
            raise damaged(path, f"member {name!r} overlaps another")
        reached = start + entry.file_size
        if reached > end:
            raise damaged(path, f"member {name!r} extends past the end of the file or the start of its directory")
        members[name] = memoryview(data)[start:reached]
        if zlib.crc32(members[name]) != entry.CRC:
            raise damaged(path, f"the checksum of its member {name!r} does not match")
    return members


def _content(path: Path, data: mmap.mmap, entry: zipfile.ZipInfo) -> int:
    """Start of a member's bytes, after a comparison of its directory entry with its local header."""
    name, header = entry.orig_filename, entry.header_offset
    if entry.flag_bits & 1:
        raise damaged(path, f"member {name!r} is encrypted")
    if entry.compress_type != zipfile.ZIP_STORED or entry.file_size != entry.compress_size:
        raise damaged(path, f"member {name!r} is compressed, which torch.save never does")
    if entry.volume or not 0 <= header <= len(data) - _LOCAL.size:
        raise damaged(path, f"member {name!r} lies outside the file")
    mark, _, _, method, _, _, _, _, _, n_name, n_extra = _LOCAL.unpack_from(data, header)
    local_name = data[header + _LOCAL.size : header + _LOCAL.size + n_name]
    if mark != b"PK\x03\x04" or method != zipfile.ZIP_STORED or local_name != name.encode():
        raise damaged(path, f"the header of member {name!r} differs from the zip directory")
    return header + _LOCAL.size + n_name + n_extra


def _without_root(path: Path, members: dict[str, memoryview]) -> dict[str, memoryview]:
    """Name the members relative to the single folder that holds them all."""
    roots = [name[: -len("data.pkl")] for name in members if name.count("/") == 1 and name.endswith("/data.pkl")]
    if len(roots) != 1:
        raise damaged(path, "it has no single data.pkl, so torch.save did not write it")
    root = roots[0]
    for name in members:
        parts = name.split("/")
        if not name.startswith(root) or ".." in parts or "" in parts or "\\" in name or "\0" in name:
            raise damaged(path, f"member {name!r} lies outside the archive's folder {root!r}")
    if f"{root}constants.pkl" in members:
        raise damaged(path, "it is a TorchScript program, not a checkpoint")
    return {name[len(root) :]: member for name, member in members.items()}
