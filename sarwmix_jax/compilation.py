"""Compiled programs are kept on disk, so that a restart does not compile again."""

import os
from pathlib import Path

import jax

from sarwmix_jax.errors import UserError

OFF = "off"
"""Says that nothing is to be kept."""


def default_place() -> Path:
    """`$XDG_CACHE_HOME/sarwmix_jax/compiled`, by default below `~/.cache`."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "sarwmix_jax" / "compiled"


def keep_compiled(place: str | None = None) -> Path | None:
    """Keeps every program that takes more than half a second to compile.

    Args:
        place: A folder, or "off". Unless given: what the environment tells JAX (`JAX_COMPILATION_CACHE_DIR`), else
            `default_place()`, or nothing where that cannot be written.

    Returns:
        The folder, or None where nothing is kept.

    Raises:
        UserError: The folder that was asked for cannot be written.
    """
    if place == OFF:
        return None
    asked = place or jax.config.values["jax_compilation_cache_dir"]
    folder = Path(asked) if asked else default_place()
    try:
        folder.mkdir(parents=True, exist_ok=True)
        writable = os.access(folder, os.W_OK)
    except OSError:
        writable = False
    if not writable:
        if not asked:
            return None
        raise UserError(f"compiled programs cannot be kept in {folder}; choose another folder or {OFF!r}")
    jax.config.update("jax_compilation_cache_dir", str(folder))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.5)
    return folder
