"""Which released file a `.pth` file is."""

import re
from pathlib import Path

from sarwmix_jax.errors import UserError
from sarwmix_jax.facts.released import RELEASED, Released


def identify(path: Path, sha256: str, demanded: str | None = None) -> Released | None:
    """The released file with this hash, or None for an unknown file.

    Args:
        path: The file; its name is checked too if it is in the registry.
        sha256: Hash of its content, hexadecimal.
        demanded: The hash that the user requires, if any.

    Raises:
        UserError: The hash is not the required one, or not that of the released file of this name.
    """
    if demanded is not None:
        if not re.fullmatch(r"[0-9a-fA-F]{64}", demanded):
            raise UserError(f"--sha256 {demanded[:80]!r} is not a SHA-256; give 64 hexadecimal digits")
        if sha256 != demanded.lower():
            raise UserError(f"{path}: its SHA-256 is {sha256}, not the one given; download the file again")
    known = next((released for released in RELEASED if released.sha256 == sha256), None)
    named = next((released for released in RELEASED if released.file == path.name), None)
    if named and not known:
        raise UserError(
            f"{path}: its SHA-256 is {sha256}, but the released file of this name has {named.sha256}; "
            "download it again, or rename it if it is another file"
        )
    return known


def listing() -> str:
    """The registry as text, one line per file."""
    return "\n".join(f"{r.file}  {r.kind:<11}  {r.statistics}  {r.sha256}  {r.about}" for r in RELEASED)
