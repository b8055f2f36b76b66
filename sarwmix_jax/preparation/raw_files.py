"""Files of a raw data set by their names, from a folder or straight from its zip (nothing is unpacked)."""

import functools
import stat
import zipfile
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from sarwmix_jax.data.records import RecordError
from sarwmix_jax.errors import UserError

# The largest file of SEN12-FLOOD is a few MiB; a zip that claims more would only fill the memory.
LARGEST_BYTES = 512 * 2**20
_ENCRYPTED = 1


@dataclass(frozen=True)
class RawFiles:
    """Files below `base`, a folder of the file system or (with `archive`) of a zip.

    Attributes:
        base: Folder that the names start from.
        archive: The zip, if any.
    """

    base: Path
    archive: Path | None = None

    def read(self, name: str) -> bytes:
        """Content of a file.

        Raises:
            FileNotFoundError: There is none.
            RecordError: It is damaged or too large.
        """
        if self.archive is None:
            return (self.base / name).read_bytes()
        member = str(PurePosixPath(self.base) / name)
        if member not in _members(self.archive):
            raise FileNotFoundError(name)
        try:
            return _opened(self.archive).read(member)
        except (zipfile.BadZipFile, OSError, ValueError, EOFError, NotImplementedError) as error:
            raise RecordError(f"{name} in {self.archive} is damaged ({error})") from None

    def names(self, folder: str) -> list[str]:
        """Names of the files of a folder, ascending."""
        if self.archive is None:
            path = self.base / folder
            return sorted(each.name for each in path.iterdir()) if path.is_dir() else []
        return _by_folder(self.archive).get(str(PurePosixPath(self.base) / folder), [])


@functools.lru_cache(maxsize=2)
def _opened(archive: Path) -> zipfile.ZipFile:
    return zipfile.ZipFile(archive)


@functools.lru_cache(maxsize=2)
def _members(archive: Path) -> frozenset[str]:
    return frozenset(_opened(archive).namelist())


@functools.lru_cache(maxsize=2)
def _by_folder(archive: Path) -> dict[str, list[str]]:
    folders: dict[str, list[str]] = {}
    for name in sorted(_members(archive)):
        path = PurePosixPath(name)
        folders.setdefault(str(path.parent), []).append(path.name)
    return folders


def open_folder(root: Path, marker: str) -> RawFiles:
    """The files of a raw folder: `root`, or the one folder in it, that holds `marker`.

    Raises:
        UserError: There is no or more than one such folder.
    """
    if not root.is_dir():
        raise UserError(f"no folder {root}")
    return RawFiles(_only(root, [path.parent for path in (*root.glob(marker), *root.glob(f"*/{marker}"))], marker))


def open_zip(archive: Path, marker: str) -> RawFiles:
    """The files of a zip below the folder that holds `marker`, after a check of every entry.

    Raises:
        UserError: The zip is missing, incomplete or encrypted, or holds a link, a path that leads out of its folder,
            a name twice, or a file too large; or there is no or more than one `marker`.
    """
    if not archive.is_file():
        raise UserError(f"no file {archive}")
    try:
        with zipfile.ZipFile(archive) as file:
            entries = file.infolist()
    except (zipfile.BadZipFile, OSError, ValueError) as error:
        raise UserError(f"{archive} is no complete zip ({error}); download it again") from None
    names = set()
    for entry in entries:
        _check_entry(archive, entry)
        if entry.filename in names:
            raise UserError(f"{archive} holds {entry.filename} twice; download it again")
        names.add(entry.filename)
    found = [Path(name).parent for name in names if PurePosixPath(name).name == marker]
    return RawFiles(_only(archive, found, marker), archive)


def _check_entry(archive: Path, entry: zipfile.ZipInfo) -> None:
    path = PurePosixPath(entry.filename)
    if path.is_absolute() or ".." in path.parts or "\\" in entry.filename or ":" in entry.filename:
        raise UserError(f"{archive} holds {entry.filename!r}, a path that leads out of its folder; do not use this zip")
    mode = entry.external_attr >> 16
    if mode and stat.S_IFMT(mode) not in (0, stat.S_IFREG, stat.S_IFDIR):
        raise UserError(f"{archive} holds {entry.filename}, a link or device; do not use this zip")
    if entry.file_size > LARGEST_BYTES:
        size = entry.file_size / 2**20
        raise UserError(f"{archive} holds {entry.filename} of {size:.0f} MiB, more than any file of the data set has")
    if entry.flag_bits & _ENCRYPTED:
        raise UserError(f"{archive} holds {entry.filename} encrypted; unpack it and give the folder")


def _only(place: Path, found: Iterable[Path], marker: str) -> Path:
    folders = sorted(set(found))
    if len(folders) != 1:
        many = ", ".join(map(str, folders)) or "none"
        raise UserError(f"{place} must hold {marker} once, at the top or one folder below; found {many}")
    return folders[0]
