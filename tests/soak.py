"""How much damage the tests marked `damage` do, and the changes that they make to files."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np

COUNT = int(os.environ.get("SOAK_COUNT", "15"))
SEED = int(os.environ.get("SOAK_SEED", "0"))


@contextmanager
def flipped(path: Path, byte: int, bit: int) -> Iterator[None]:
    """One bit of a file is another one inside this context."""
    whole = path.read_bytes()
    damaged = bytearray(whole)
    damaged[byte] ^= 1 << bit
    path.write_bytes(damaged)
    try:
        yield
    finally:
        path.write_bytes(whole)


def places(folder: Path, count: int, seed: int) -> Iterator[tuple[Path, int, int]]:
    """Random bits (file, byte, bit) of a folder: every file is as likely as any other, so that small ones occur."""
    rng = np.random.default_rng(seed)
    files = sorted(path for path in folder.rglob("*") if path.is_file() and path.stat().st_size)
    for _ in range(count):
        path = files[rng.integers(len(files))]
        yield path, int(rng.integers(path.stat().st_size)), int(rng.integers(8))
