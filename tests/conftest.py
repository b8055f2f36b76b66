"""How tests, and the commands that they start, compile: with few optimisations, and never twice the same."""

import atexit
import importlib.metadata
import os
import shutil
import tempfile
from pathlib import Path

# Before JAX is imported, in the process that starts the others; all of them share one folder of programs.
if "SARWMIX_TESTS" not in os.environ:
    if (folder := os.environ.get("SARWMIX_TESTS_COMPILED")) is None:  # a folder that several runs of tests share
        folder = tempfile.mkdtemp(prefix="sarwmix_tests_")
        atexit.register(shutil.rmtree, folder, ignore_errors=True)
    # Kernels of CPUs compile in a third of the time. JAX 0.12 does not know the flag, and ends at an unknown one.
    known = importlib.metadata.version("jaxlib").startswith("0.10.")
    quick = "--xla_cpu_use_fusion_emitters=false" if known else ""
    os.environ |= {
        "SARWMIX_TESTS": quick,
        "XLA_FLAGS": f"{os.environ.get('XLA_FLAGS', '')} {quick}".strip(),
        "JAX_DISABLE_MOST_OPTIMIZATIONS": "1",
        "JAX_COMPILATION_CACHE_DIR": folder,
        "JAX_COMPILATION_CACHE_MAX_SIZE": str(2**34),  # with a limit, processes take turns with a file
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0.2",
        "JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES": "-1",
    }

import jax
import jaxtyping
import pytest

import tests.annotations

QUICK = os.environ["SARWMIX_TESTS"]
"""The flag of XLA that makes tests compile quickly; empty where it is unknown."""

CHECKED = (
    *("preprocessing", "plausibility", "models", "tasks", "metrics", "data", "geotiff", "inference", "evaluation"),
    *(
        "preparation.landscapes",
        "preparation.synthetic",
        "preparation.to_db",
        "preparation.flood_files",
        "preparation.statistics",
    ),
    *("training.device_cache", "training.trackers", "conversion.resize"),
)
"""Parts of the package that annotate arrays: every call is checked."""

# Before anything of the package is imported, in this process and in those of pytest-xdist.
jaxtyping.install_import_hook([f"sarwmix_jax.{part}" for part in CHECKED], f"{tests.annotations.__name__}.check")


@pytest.fixture
def optimised(monkeypatch):
    """Compiles as users do in commands, and with all optimisations here: for tests that compute for long."""
    monkeypatch.setenv("JAX_DISABLE_MOST_OPTIMIZATIONS", "0")
    monkeypatch.setenv("XLA_FLAGS", os.environ.get("XLA_FLAGS", "").replace(QUICK, "").strip())
    jax.config.update("jax_disable_most_optimizations", False)
    yield
    jax.config.update("jax_disable_most_optimizations", True)


@pytest.fixture(scope="session")
def needs_gpu():
    if jax.default_backend() != "gpu":
        pytest.skip("needs a GPU")


@pytest.fixture
def unchecked(monkeypatch):
    """Annotations are not checked, as for users: for tests of the line that answers a wrong shape or type."""
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)


STRICT = ("models", "tasks", "test_sar.py", "test_weighting.py")
"""Tests, beside this file, of what computes on arrays of one type."""


@pytest.fixture(autouse=True)
def explicit_types(request):
    """There arrays of different types never meet unnoticed: an operation that would promote one of them raises.

    Tests marked `promotes` are exempt, with the reason.
    """
    place = request.path.relative_to(Path(__file__).parent).parts[0]
    if place in STRICT and request.node.get_closest_marker("promotes") is None:
        with jax.numpy_dtype_promotion("strict"):
            yield
    else:
        yield
