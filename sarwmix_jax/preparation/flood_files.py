"""Scenes of SEN12-FLOOD: their files in a folder or zip, warped to the grid of their sequence, and their pairs.

Nothing is unpacked; scenes are warped in memory, nodata is counted, and unusable scenes are left out with a reason.
"""

import functools
import itertools
import stat
import zipfile
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import NamedTuple

import numpy as np
from jaxtyping import Float

from sarwmix_jax import plausibility
from sarwmix_jax.data.records import ExcludedError, RecordError
from sarwmix_jax.errors import UserError
from sarwmix_jax.geotiff.warp import Grid, grid_of, warp

# The largest file of SEN12-FLOOD is a few MiB; a zip that states more would only fill the memory.
LARGEST_BYTES = 512 * 2**20
_ENCRYPTED = 1
_LOOK_STEP = 4  # every fourth row and column is enough to judge a scene
SIDE = 512
MAX_ZEROS = 0.25
MISSING, NO_GRID, NOT_SQUARE, ZEROS, UNREADABLE = (
    "a file is missing",
    "its sequence has no S2 image (B04)",
    f"not {SIDE}x{SIDE} after alignment",
    f"{MAX_ZEROS:.0%} or more zeros in a band",
    "cannot be read",
)
SKIPPED = frozenset({MISSING, NO_GRID, NOT_SQUARE, UNREADABLE})
"""Reasons that are faults of the files, not rules of the data set."""


@dataclass(frozen=True)
class RawFiles:
    """Files below `base`, a folder of the file system or (with `archive`) of a zip.

    Attributes:
        base: Folder to which names are relative.
        archive: The zip, if any.
    """

    base: Path
    archive: Path | None = None

    def read(self, name: str, largest: int = LARGEST_BYTES) -> bytes:
        """Content of a file.

        Raises:
            FileNotFoundError: There is none.
            RecordError: It is damaged, not a regular file, or larger than `largest` bytes.
        """
        if self.archive is None:
            return _read_file(self.base / name, name, largest)
        try:
            entry = _opened(self.archive).getinfo(str(PurePosixPath(self.base) / name))
            if entry.file_size > largest:
                raise RecordError(f"{name} in {self.archive} is too large")
            return _opened(self.archive).read(entry)
        except KeyError:
            raise FileNotFoundError(name) from None
        except RecordError:
            raise
        except (zipfile.BadZipFile, OSError, ValueError, EOFError, NotImplementedError) as error:
            raise RecordError(f"{name} in {self.archive} is damaged ({error})") from None

    def names(self, folder: str) -> list[str]:
        """Names of the files of a folder, ascending.

        Raises:
            RecordError: The folder cannot be read.
        """
        if self.archive is None:
            path = self.base / folder
            try:
                return sorted(each.name for each in path.iterdir()) if path.is_dir() else []
            except OSError as error:
                raise RecordError(f"{folder} cannot be read ({error.strerror})") from None
        return _by_folder(self.archive).get(str(PurePosixPath(self.base) / folder), [])


def _read_file(path: Path, name: str, largest: int) -> bytes:
    try:
        status = path.stat()
        if not stat.S_ISREG(status.st_mode):
            raise RecordError(f"{name} is not a regular file")
        if status.st_size > largest:
            raise RecordError(f"{name} is too large ({status.st_size / 2**20:,.0f} MiB)")
        return path.read_bytes()
    except FileNotFoundError:
        raise
    except OSError as error:
        raise RecordError(f"{name} cannot be read ({error.strerror})") from None


@functools.lru_cache(maxsize=2)
def _opened(archive: Path) -> zipfile.ZipFile:
    return zipfile.ZipFile(archive)


@functools.lru_cache(maxsize=2)
def _by_folder(archive: Path) -> dict[str, list[str]]:
    folders: dict[str, list[str]] = {}
    for name in sorted(_opened(archive).namelist()):
        path = PurePosixPath(name)
        folders.setdefault(str(path.parent), []).append(path.name)
    return folders


def open_folder(root: Path, marker: str) -> RawFiles:
    """The files of a raw folder: `root` or the one folder in it that holds `marker`.

    Raises:
        UserError: There is not exactly one such folder.
    """
    if not root.is_dir():
        raise UserError(f"no folder {root}")
    return RawFiles(_only(root, [path.parent for path in (*root.glob(marker), *root.glob(f"*/{marker}"))], marker))


def open_zip(archive: Path, marker: str) -> RawFiles:
    """The files of a zip below the folder that holds `marker`, after a check of every entry.

    Raises:
        UserError: The zip is missing, incomplete or encrypted, or holds a link, a path that leads out of its folder,
            a name twice, or a file that is too large; or there is not exactly one `marker`.
    """
    if not archive.is_file():
        raise UserError(f"no file {archive}")
    try:
        with zipfile.ZipFile(archive) as file:
            entries = file.infolist()
    except (zipfile.BadZipFile, OSError, ValueError) as error:
        raise UserError(f"{archive} is not a complete zip ({error}); download it again") from None
    for entry in entries:
        _check_entry(archive, entry)
    names = Counter(entry.filename for entry in entries)
    for name in (name for name, count in names.items() if count > 1):
        raise UserError(f"{archive} holds {name} twice; download it again")
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
        fault = f"holds {entry.filename} of {size:.0f} MiB, more than any file of the data set"
        raise UserError(f"{archive} {fault}; do not use this zip")
    if entry.flag_bits & _ENCRYPTED:
        raise UserError(f"{archive} holds {entry.filename} encrypted; unpack it and give the folder")


def _only(place: Path, found: Iterable[Path], marker: str) -> Path:
    folders = sorted(set(found))
    if len(folders) != 1:
        many = ", ".join(map(str, folders)) or "none"
        raise UserError(f"{place} must hold {marker} once, at the top or one folder below; found {many}")
    return folders[0]


class AlignedScene(NamedTuple):
    """A scene on its grid.

    Attributes:
        power: Linear power, zero where there is no value.
        grid: The grid.
        repaired: Number of values that were replaced by zero, by kind, for the report.
    """

    power: Float[np.ndarray, "band height width"]
    grid: Grid
    repaired: dict[str, int]


@functools.lru_cache(maxsize=8)
def sequence_grid(raw: RawFiles, folder: str) -> Grid | None:
    """Grid of the first S2 B04 image of a sequence; None if there is no such image.

    Raises:
        RecordError: The image cannot be read.
    """
    name = next((name for name in raw.names(folder) if name.startswith("S2_") and name.endswith("_B04.tif")), None)
    if name is None:
        return None
    path = f"{folder}/{name}"
    try:
        return grid_of(raw.read(path), path)
    except FileNotFoundError:
        raise RecordError(f"{path} is a link that leads nowhere") from None


def aligned_scene(raw: RawFiles, folder: str, filename: str, bands: tuple[str, ...]) -> AlignedScene:
    """All bands of a scene on the grid of its sequence.

    Raises:
        RecordError: A file is damaged, or does not hold linear power.
        ExcludedError: The scene is left out, for one of the reasons of this module.
    """
    grid = sequence_grid(raw, folder)
    if grid is None:
        raise ExcludedError(NO_GRID)
    paths = [f"{folder}/{filename}_corrected_{band}.tif" for band in bands]
    try:
        contents = [raw.read(path) for path in paths]
    except FileNotFoundError:
        raise ExcludedError(MISSING) from None
    if (grid.height, grid.width) != (SIDE, SIDE):
        raise ExcludedError(NOT_SQUARE)
    power = np.stack([warp(content, grid, path) for content, path in zip(contents, paths, strict=True)])
    broken, negative = ~np.isfinite(power), power < 0
    power = np.where(broken, np.float32(0), power)
    looked_at = power[None, :, ::_LOOK_STEP, ::_LOOK_STEP]
    found = plausibility.judge_power(looked_at, bands, (looked_at != 0).any(axis=1))
    if found is not None:
        raise RecordError(f"{folder}/{filename}: {found.reason}")
    power = np.maximum(power, np.float32(0))
    if ((power == 0).mean(axis=(1, 2)) >= MAX_ZEROS).any():
        raise ExcludedError(ZEROS)
    counts = {"not finite": int(broken.sum()), "negative": int(negative.sum())}
    return AlignedScene(power, grid, {name: count for name, count in counts.items() if count})


class FloodScene(NamedTuple):
    """One Sentinel-1 scene of a sequence.

    Attributes:
        key: Its number in the index.
        filename: Name of the product; its files are `<filename>_corrected_{VH,VV}.tif`.
        flooding: Whether it shows a flood.
    """

    key: int
    filename: str
    flooding: bool


class ScenePair(NamedTuple):
    """Two scenes of a sequence, by their file names.

    Attributes:
        name: Name of the published file, without suffix.
        first: The scene without flood.
        second: The other scene.
        label: 1 if the second scene shows a flood, else 0.
    """

    name: str
    first: str
    second: str
    label: int


@dataclass(frozen=True)
class FloodSequence:
    """The scenes of one place: its folder (the name of a unit of work), its split, its scenes by number."""

    name: str
    split: str
    scenes: tuple[FloodScene, ...]

    @property
    def count(self) -> int:
        """Number of scenes that are part of a pair."""
        return len(self.scenes_in_pairs())

    def pairs(self) -> Iterator[ScenePair]:
        """Every scene without flood, by number, with every other scene; each pair of scenes once."""
        for (a, first, flooded), (b, second, flooding) in itertools.product(self.scenes, repeat=2):
            if not flooded and (flooding or a < b):
                label = int(flooding)
                yield ScenePair(f"{self.name}__{first}__{second}__{label}", first, second, label)

    def scenes_in_pairs(self) -> list[FloodScene]:
        """Scenes that are part of a pair, by number."""
        needed = {filename for pair in self.pairs() for filename in (pair.first, pair.second)}
        return [scene for scene in self.scenes if scene.filename in needed]
