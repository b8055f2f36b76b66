"""What a checkpoint must be to be used: its checksums, written with it and verified at every reading, and its form.

Checksums are those of the arrays' content in host memory, not of files, so that any damage between writing and use is
noticed, in Orbax' own files too: what is restored is what was saved, or refused. CRC-32C notices every change of up to
32 neighbouring bits, and others but for one in 4e9; SHA-256 takes about seven times as long. Arrays that are divided
over processes are gathered for it, one by one.
"""

import functools
import gc
import json
import os
import re
import sys
import warnings
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any, ParamSpec, TypeVar

import google_crc32c
import jax
import numpy as np
from jax.experimental import multihost_utils

from sarwmix_jax.processes import deferred_signals

FOLDER = "checkpoints"
"""Name of the folder of checkpoints in a work directory."""

ITEMS = {"params": "params", "fixed": "fixed", "optimizer": "opt_state"}
"""Items of a checkpoint that hold arrays, and their names in the state of a run."""

CHECKSUMS = "checksums"
"""Item of a checkpoint, beside the items that it describes."""

ALGORITHM = "crc32c"

_CHUNK_BYTES = 2**21

FORMAT = 3
"""Format of descriptions; from 3 on, a checkpoint has checksums."""

Arguments = ParamSpec("Arguments")
Result = TypeVar("Result")
Items = Mapping[str, Mapping[str, Any]]
"""Arrays by item and name."""


def checksums(items: Items, description: Mapping[str, Any]) -> dict[str, Any]:
    """Checksums of arrays and description, as plain values for JSON."""
    return {
        "algorithm": ALGORITHM,
        "description": of_description(description),
        "arrays": {item: of_arrays(arrays) for item, arrays in items.items()},
    }


def of_arrays(arrays: Mapping[str, Any]) -> dict[str, str]:
    """`of_array` of each, by name, on all cores."""
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        return dict(zip(arrays, pool.map(of_array, map(_whole, arrays.values())), strict=True))


def _whole(array: Any) -> Any:
    """The array, on the host if it is divided over processes; all of them do this in the same order."""
    if not isinstance(array, jax.Array) or array.is_fully_addressable or array.is_fully_replicated:
        return array
    return multihost_utils.process_allgather(array, tiled=True)


def of_array(array: Any) -> str:
    """Type, shape and checksum of an array's content, in memory order of C."""
    host, checksum = np.asarray(array), 0
    content = np.ascontiguousarray(host).reshape(-1).view(np.uint8)
    for first in range(0, content.size, _CHUNK_BYTES):
        # Of `bytes` alone, and of 1 MiB or more, the checksum is computed while other threads run.
        checksum = google_crc32c.extend(checksum, content[first : first + _CHUNK_BYTES].tobytes())
    return f"{host.dtype.name}{list(host.shape)} {checksum:08x}"


def of_description(description: Mapping[str, Any]) -> str:
    """Checksum of the values of a description, however their JSON is written."""
    values = json.loads(json.dumps(description))  # as they are read: keys are text, no tuples
    return f"{google_crc32c.value(json.dumps(values, sort_keys=True).encode()):08x}"


def verify(stored: Mapping[str, Any], items: Items, description: Mapping[str, Any]) -> None:
    """Compare what was read with the checksums that were written with it.

    Args:
        stored: As from `checksums`; it may describe more items.
        items: Arrays by item and name.
        description: The description as it was read.

    Raises:
        ValueError: The first difference.
    """
    if stored["algorithm"] != ALGORITHM:
        raise ValueError(f"its checksums are of the unknown kind {stored['algorithm']!r}")
    if stored["description"] != of_description(description):
        raise ValueError("its description differs from its checksum")
    for item, arrays in items.items():
        expected = stored["arrays"][item]
        if differing := sorted(set(expected) ^ set(arrays)):
            raise ValueError(f"{item} and its checksums differ in {differing[0]}")
        for name, found in of_arrays(arrays).items():
            if expected[name] != found:
                raise ValueError(f"{item} {name} differs from its checksum")


def upgraded(description: dict[str, Any]) -> dict[str, Any]:
    """Converts a description of any format to the current one."""
    if description["format"] > 1:
        return description
    new = {name: value for name, value in description.items() if name != "bands"}
    new["model"] = {name: value for name, value in description["model"].items() if name != "patch_size"}
    new["model"]["bands"] = description["bands"]
    if description["kind"] == "pretraining" and "settings" in description:
        new.setdefault("norm_pix", description["settings"]["loss"]["norm_pix"])
    if best := description.get("progress", {}).get("best"):
        best = {"step": best["step"], "metrics": {"loss": best["validation_loss"]}}
        new["progress"] = description["progress"] | {"best": {"lowest_loss": best}}
    return new


def compare(item: str, stored: Mapping[str, Any] | None, wanted: Mapping[str, Any]) -> None:
    """Refuse stored arrays whose names, shapes or dtypes are not the wanted ones.

    Raises:
        ValueError: They differ; the message gives the first difference.
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


def named(tree: Any) -> dict[str, Any]:
    """Leaves of a tree by path, names joined by `/`."""
    leaves = jax.tree_util.tree_flatten_with_path(tree)[0]
    return {jax.tree_util.keystr(path, simple=True, separator="/"): leaf for path, leaf in leaves}


def complete_steps(directory: Path) -> list[int]:
    """Steps with a complete checkpoint, ascending, from folder names alone."""
    if not directory.is_dir():
        return []
    return sorted(int(entry.name) for entry in directory.iterdir() if entry.is_dir() and entry.name.isdigit())


@contextmanager
def _silent_remains() -> Iterator[None]:
    """Prints nothing about the coroutines and threads that a failed reading leaves; they are freed with its error."""
    before = sys.unraisablehook
    sys.unraisablehook = lambda _: None
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", RuntimeWarning)
            yield
    finally:
        sys.unraisablehook = before


def one_line_of_damage(read: Callable[Arguments, Result]) -> Callable[Arguments, Result]:
    """Makes a method that reads raise, for whatever damage leads to, a `ValueError` of one line.

    Orbax and tensorstore raise many kinds, with long texts and causes. A signal takes effect after the reading.
    """

    @functools.wraps(read)
    def reading(*args: Arguments.args, **options: Arguments.kwargs) -> Result:
        with deferred_signals(), _silent_remains():
            try:
                return read(*args, **options)
            except Exception as error:
                reason = first_line(error)
            gc.collect()  # what refers to itself would print later
        raise ValueError(reason)

    return reading


def first_line(error: BaseException) -> str:
    """First line of an error's text, or its type where it has none; the system's message where it has an error code."""
    if system := re.search(r"os_error_code='(\d+)'", str(error)):
        return os.strerror(int(system[1]))
    return next(iter(str(error).strip().splitlines()), type(error).__name__)
