"""The outer form of a `.pth` file: a zip archive whose members are stored uncompressed, read through a memory map.

Only what `torch.save` writes is accepted. Nothing is unpacked: a member is a range of the mapped file, so reading
costs no memory however large the sizes written in the archive are.
"""

import mmap
import struct
import zlib
from dataclasses import dataclass
from pathlib import Path

from sarwmix_jax.errors import UserError

MAX_MEMBERS = 50_000
_MAX_COMMENT = 65_535

_END = struct.Struct("<4s4H2LH")
_END64 = struct.Struct("<4sQ2H2L4Q")
_LOCATOR64 = struct.Struct("<4sLQL")
_ENTRY = struct.Struct("<4s6H3L5H2L")
_LOCAL = struct.Struct("<4s5H3L2H")
_UINT32 = 0xFFFFFFFF


@dataclass(frozen=True)
class Member:
    """One file of the archive: where its bytes lie in the mapped file, and their checksum."""

    start: int
    size: int
    crc32: int


@dataclass(frozen=True)
class Archive:
    """A mapped `.pth` file; `members` are named without the archive's root folder."""

    path: Path
    data: mmap.mmap
    members: dict[str, Member]

    def read(self, name: str, limit: int) -> bytes:
        """Copy a member of at most `limit` bytes.

        Raises:
            UserError: there is no such member, or it is larger.
        """
        member = self.members.get(name)
        if member is None:
            raise damaged(self.path, f"it has no member {name!r}")
        if member.size > limit:
            raise damaged(self.path, f"its member {name!r} has {member.size} bytes, more than {limit}")
        return self.data[member.start : member.start + member.size]

    def check_sums(self) -> None:
        """Compare every member with its CRC-32.

        Raises:
            UserError: a member differs.
        """
        with memoryview(self.data) as view:
            for name, member in self.members.items():
                with view[member.start : member.start + member.size] as piece:
                    if zlib.crc32(piece) != member.crc32:
                        raise damaged(self.path, f"the checksum of its member {name!r} does not match")


def damaged(path: Path, why: str) -> UserError:
    """The error for a file that is not a whole, plain `torch.save` archive."""
    return UserError(f"{path}: refused, {why}; download the file again or save it anew with torch.save")


def open_archive(path: Path) -> Archive:
    """Map a file and read the directory of its zip archive.

    Raises:
        UserError: no such file, not a zip archive as `torch.save` writes it, or a damaged or hostile one.
    """
    if not path.is_file():
        raise UserError(f"{path}: no such file")
    with path.open("rb") as file:
        _refuse_other_formats(path, file.read(512))
        data = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    try:
        members = _members(path, data)
    except BaseException:
        data.close()
        raise
    return Archive(path, data, _without_root(path, members))


def _refuse_other_formats(path: Path, head: bytes) -> None:
    """Name the forms that people mistake for a current `.pth` file."""
    if head.startswith(b"PK\x03\x04"):
        return
    if head.startswith(b"\x80"):
        form = "a bare pickle or the form of torch.save before PyTorch 1.6"
    elif head[257:262] == b"ustar":
        form = "the tar form of early PyTorch"
    elif head.lstrip()[:1] == b"<":
        form = "a web page; the download did not give the file"
    elif not head:
        form = "empty"
    else:
        form = "not a zip archive"
    raise UserError(f"{path}: refused, it is {form}; a .pth file saved by torch.save of PyTorch 1.6 or later is needed")


def _members(path: Path, data: mmap.mmap) -> dict[str, Member]:
    try:
        start, end, count = _directory(path, data)
        entries = list(_entries(path, data, start, end, count))
    except (struct.error, UnicodeDecodeError) as error:
        raise damaged(path, "its zip directory is broken or cut off") from error
    if len({name for _, name, _ in entries}) != len(entries):
        raise damaged(path, "two members have the same name")
    reached = 0
    for header, name, member in sorted(entries, key=lambda entry: entry[0]):
        if header < reached:
            raise damaged(path, f"member {name!r} overlaps another")
        reached = member.start + member.size
    if reached > start:
        raise damaged(path, "a member reaches past the start of the zip directory")
    return {name: member for _, name, member in entries}


def _directory(path: Path, data: mmap.mmap) -> tuple[int, int, int]:
    """Start, end and number of entries of the central directory."""
    at = data.rfind(b"PK\x05\x06", max(0, len(data) - _MAX_COMMENT - _END.size))
    if at < 0:
        raise damaged(path, "its zip directory is missing (the file is cut off)")
    _, disk, first, here, count, size, start, comment = _END.unpack_from(data, at)
    if disk or first or here != count or at + _END.size + comment != len(data):
        raise damaged(path, "the end record of its zip directory is inconsistent")
    end = at
    # torch.save writes the zip64 records always, needed or not.
    if at >= _LOCATOR64.size and data[at - _LOCATOR64.size : at - _LOCATOR64.size + 4] == b"PK\x06\x07":
        count, size, start, end = _directory64(path, data, at)
    if count > MAX_MEMBERS:
        raise damaged(path, f"it claims {count} members, more than {MAX_MEMBERS}")
    if start + size != end:
        raise damaged(path, "its zip directory is not where the end record says")
    return start, end, count


def _directory64(path: Path, data: mmap.mmap, end: int) -> tuple[int, int, int, int]:
    """Number of entries, size, start and end of the directory of an archive past 4 GB."""
    _, disk, at, _ = _LOCATOR64.unpack_from(data, end - _LOCATOR64.size)
    if disk or at > len(data):
        raise damaged(path, "its zip64 record is missing")
    mark, _, _, _, _, _, here, count, size, start = _END64.unpack_from(data, at)
    if mark != b"PK\x06\x06" or here != count:
        raise damaged(path, "its zip64 record is inconsistent")
    return count, size, start, at


def _entries(path: Path, data: mmap.mmap, at: int, end: int, count: int):  # type: ignore[no-untyped-def]
    """Yield (place of the local header, name, member) for each entry of the central directory."""
    for _ in range(count):
        mark, _, _, flags, method, _, _, crc, packed, size, n_name, n_extra, n_comment, disk, _, _, header = (
            _ENTRY.unpack_from(data, at)
        )
        after = at + _ENTRY.size + n_name + n_extra + n_comment
        if mark != b"PK\x01\x02" or after > end or disk:
            raise damaged(path, "an entry of its zip directory is broken")
        raw_name = data[at + _ENTRY.size : at + _ENTRY.size + n_name]
        name = raw_name.decode("utf-8")
        if flags & 1:
            raise damaged(path, f"member {name!r} is encrypted")
        extra = data[at + _ENTRY.size + n_name : after - n_comment]
        size, packed, header = _wide(extra, size, packed, header)
        if method != 0 or size != packed:
            raise damaged(path, f"member {name!r} is compressed, which torch.save never does")
        yield header, name, Member(_content(path, data, header, raw_name, size), size, crc)
        at = after
    if at != end:
        raise damaged(path, "its zip directory holds more than it says")


def _wide(extra: bytes, *values: int) -> tuple[int, ...]:
    """Replace the values that are marked as too wide for 32 bits by those of the zip64 extra field."""
    if _UINT32 not in values:
        return values
    at = 0
    while at + 4 <= len(extra):
        kind, size = struct.unpack_from("<2H", extra, at)
        if kind == 1:
            wide = iter(struct.unpack_from(f"<{size // 8}Q", extra, at + 4))
            return tuple(next(wide, value) if value == _UINT32 else value for value in values)
        at += 4 + size
    return values


def _content(path: Path, data: mmap.mmap, header: int, name: bytes, size: int) -> int:
    """Where the bytes of a member start, after checking its local header."""
    if header + _LOCAL.size > len(data):
        raise damaged(path, "a member lies outside the file")
    mark, _, _, method, _, _, _, _, _, n_name, n_extra = _LOCAL.unpack_from(data, header)
    start = header + _LOCAL.size + n_name + n_extra
    local_name = data[header + _LOCAL.size : header + _LOCAL.size + n_name]
    if mark != b"PK\x03\x04" or method != 0 or local_name != name:
        raise damaged(path, f"the header of member {name!r} differs from the zip directory")
    if start + size > len(data):
        raise damaged(path, f"member {name!r} reaches past the end of the file")
    return start


def _without_root(path: Path, members: dict[str, Member]) -> dict[str, Member]:
    """Name the members relative to the one folder that holds them all."""
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
