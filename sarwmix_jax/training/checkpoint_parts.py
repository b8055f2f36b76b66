"""Small parts of checkpoints: names of arrays, what is on disk, what fits."""

import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax


def named(tree: Any) -> dict[str, Any]:
    """Leaves of a tree by path, names joined by `/`."""
    leaves = jax.tree_util.tree_flatten_with_path(tree)[0]
    return {jax.tree_util.keystr(path, simple=True, separator="/"): leaf for path, leaf in leaves}


def complete_steps(directory: Path) -> list[int]:
    """Steps with a complete checkpoint, ascending, from folder names alone."""
    if not directory.is_dir():
        return []
    return sorted(int(entry.name) for entry in directory.iterdir() if entry.is_dir() and entry.name.isdigit())


def compare(item: str, stored: Mapping[str, Any] | None, wanted: Mapping[str, Any]) -> None:
    """Refuse stored arrays whose names, shapes or dtypes are not the wanted ones.

    Raises:
        ValueError: the first difference, in words.
    """
    if stored is None:
        raise ValueError(f"it holds no {item}")
    if missing := sorted(set(wanted) - set(stored)):
        raise ValueError(f"{item} lacks {missing[0]} ({len(missing)} missing)")
    if extra := sorted(set(stored) - set(wanted)):
        raise ValueError(f"{item} has the unknown {extra[0]} ({len(extra)} unknown)")
    for name, leaf in wanted.items():
        found = stored[name]
        if tuple(found.shape) != tuple(leaf.shape) or found.dtype != leaf.dtype:
            raise ValueError(
                f"{item} {name} is {found.dtype}{list(found.shape)}, the run needs {leaf.dtype}{list(leaf.shape)}"
            )


def first_line(error: BaseException) -> str:
    """First line of an error's text, or its kind where it has none; the system's own words where those are in it."""
    if system := re.search(r"os_error_code='(\d+)'", str(error)):
        return os.strerror(int(system[1]))
    lines = str(error).strip().splitlines()
    return lines[0] if lines else type(error).__name__
