"""Results of compiled programs, as they are stored and compared: a regression is a figure above the stored one."""

import json
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from sarwmix_jax.errors import UserError, one_line

STORED = Path(__file__).parents[1] / "gpu_programs"
"""Folder of the stored results."""

ALLOWED = {
    "kernels": 0.01,
    "bytes": 0.005,
    "peak_bytes": 0.01,
    "float32_products": 0.0,
    "collectives": 0.0,
    "collective_bytes": 0.001,
    "spilling_kernels": 0.0,
}
"""How much above the stored figure, as a share of it, a figure may be."""


@dataclass(frozen=True)
class Case:
    """What was compiled, and by what.

    Attributes:
        jax: Version of JAX.
        gpu: Name of the GPU, see `targets`.
        devices: Number of devices.
        task: See `steps.TASKS`.
        size: Published size of the model; `changes` may change it.
        batch: Samples on each device.
        dtype: Type of activations and matrix products.
        kernel: What computes attention.
        changes: Other settings than the recipe's, `--config.GROUP.NAME=VALUE`.
    """

    jax: str
    gpu: str
    devices: int
    task: str
    size: str
    batch: int
    dtype: str
    kernel: str
    changes: tuple[str, ...] = ()

    @property
    def title(self) -> str:
        """The case in one line."""
        what = f"{self.task} {self.size}, batch {self.batch} on each of {self.devices} {self.gpu}"
        return ", ".join((what, self.dtype, f"kernel {self.kernel}", f"jax {self.jax}", *self.changes))


@dataclass(frozen=True)
class Result:
    """A case and what was found.

    Attributes:
        case: What was compiled.
        figures: See `report.figures`.
        families: Kernels, operations, bytes and seconds by part of the computation.
        products: The same by form of matrix product.
    """

    case: Case
    figures: dict[str, Any]
    families: dict[str, Any] = field(default_factory=dict)
    products: dict[str, Any] = field(default_factory=dict)


def write_whole(path: Path, data: bytes) -> None:
    """Write a file, whole or not at all.

    Raises:
        UserError: The file cannot be written.
    """
    temporary = path.with_name(f".{path.name}.tmp")
    try:
        temporary.write_bytes(data)
        temporary.replace(path)
    except OSError as error:
        raise UserError(f"{path} cannot be written: {error.strerror}; choose another file") from error


def as_json(result: Result) -> bytes:
    """A result as it is stored."""
    return (json.dumps(asdict(result), indent=1) + "\n").encode()


NO_CASE = (ValueError, TypeError, KeyError, AttributeError)
"""What is raised where a file holds something else."""


def case_from(stored: dict[str, Any]) -> Case:
    """A case as it was stored; raises one of `NO_CASE` where it is none."""
    return Case(**stored | {"changes": tuple(stored["changes"])})


def read_result(path: Path) -> Result:
    """Read a stored result.

    Raises:
        UserError: The file is missing or is not a result.
    """
    try:
        found = json.loads(path.read_text())
        return Result(case_from(found.pop("case")), **found)
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror}; name a file that --out wrote") from error
    except NO_CASE as error:
        raise UserError(f"{path} is not a stored result ({one_line(error)}); store it again with --out") from error


def regressions(stored: Result, found: Result) -> list[str]:
    """A line for every figure that is above the stored one.

    Raises:
        UserError: The results are of different cases.
    """
    if stored.case != found.case:
        raise UserError(f"the results cannot be compared: {stored.case.title}; and {found.case.title}")
    lines = []
    for name, share in ALLOWED.items():
        if name in stored.figures:
            old, new = stored.figures[name], found.figures.get(name)
            if new is None:
                lines.append(f"{name}: {old:,} -> not found")
            elif new > old * (1 + share):
                lines.append(f"{name}: {old:,} -> {new:,} ({new / max(old, 1) - 1:+.1%}, {share:.1%} allowed)")
    return lines
