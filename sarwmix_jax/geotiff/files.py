"""Finding GeoTIFFs in the inputs: files, and folders with all folders below them, links included."""

from collections import deque
from collections.abc import Iterable
from pathlib import Path

from sarwmix_jax.errors import UNPRINTABLE, UserError, one_line

SUFFIXES = (".tif", ".tiff")
Found = list[tuple[Path, str]]
"""Paths, and their names relative to the folder that was given."""
LeftOut = list[tuple[str, str]]
"""Paths, and why they are left out."""


def find_files(inputs: Iterable[Path]) -> tuple[Found, LeftOut]:
    """GeoTIFFs among files and folders, each once, and what has to be left out.

    Links to folders are followed, after all real folders.

    Raises:
        UserError: An input does not exist, or there is no GeoTIFF.
    """
    found: Found = []
    left_out: LeftOut = []
    seen: dict[tuple[int, int], Path] = {}
    for given in inputs:
        if given.is_dir():
            paths = _files_below(given, seen, left_out)
            named = [(path, str(path.relative_to(given).with_suffix(""))) for path in sorted(paths)]
        elif given.exists():
            named = [(given, given.stem)]
        else:
            raise UserError(f"no file or folder {given}")
        for path, name in named:
            fault = name_fault(name) or _seen_before(path, seen)
            if fault:
                left_out.append((one_line(path), one_line(f"{path} {fault}")))
            else:
                found.append((path, name))
    if not found:
        hint = "no GeoTIFF (.tif, .tiff) in the inputs; give files or the folder that holds them"
        raise UserError(left_out[0][1] if left_out else hint)
    return found, left_out


def name_fault(name: str) -> str | None:
    """Why a name cannot be a record's name, which is printable UTF-8 text; None where it can."""
    if UNPRINTABLE.search(name) is None:
        return None
    return "has bytes that are not UTF-8, or control characters, in its name; rename it"


def _files_below(given: Path, seen: dict[tuple[int, int], Path], left_out: LeftOut) -> Iterable[Path]:
    """Files with the name of a GeoTIFF in a folder and all folders below it; notes what is left out."""
    waiting = deque([given])
    paths = []
    while waiting:
        folder = waiting.popleft()
        fault = _seen_before(folder, seen)
        if fault:
            left_out.append((str(folder), f"{folder} {fault}"))
            continue
        try:
            for path in folder.iterdir():
                if path.is_dir():
                    (waiting.append if path.is_symlink() else waiting.appendleft)(path)
                elif path.suffix.lower() in SUFFIXES:
                    paths.append(path)
                elif _may_be_folder(path) and path.is_symlink() and not path.exists():
                    left_out.append((str(path), f"{path} is a link that leads nowhere; remove or repair it"))
        except OSError as error:
            left_out.append((str(folder), f"{folder} cannot be read ({error.strerror})"))
    return paths


def _may_be_folder(path: Path) -> bool:
    """Whether a name does not end with the suffix of another kind of file (`.prj`)."""
    return not path.suffix[1:].isalpha() or path.suffix.upper() == ".SAFE"


def _seen_before(path: Path, seen: dict[tuple[int, int], Path]) -> str | None:
    """Note a file or folder by its inode; returns the fault where it has been found under another name."""
    try:
        status = path.stat()
    except OSError:
        return None  # reported when it is opened
    first = seen.setdefault((status.st_dev, status.st_ino), path)
    return None if first is path else f"is {first} again, which is read already; remove the link or the second input"
