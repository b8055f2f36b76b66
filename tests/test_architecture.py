"""The shape of the source: which way imports point, and how long things are."""

import ast
import graphlib
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "sarwmix_jax"
SOURCES = sorted(
    path for top in ("sarwmix_jax", "data_prep", "configs", "benchmarks") for path in (ROOT / top).rglob("*.py")
)
FILE_LINES, FUNCTION_LINES = 300, 45

MAY_IMPORT = {
    "version": set(),
    "errors": set(),
    "processes": {"errors"},
    "huge_pages": set(),
    "progress": {"errors", "processes"},
    "cluster": {"errors", "processes", "progress"},
    "facts": set(),
    "settings": {"errors", "facts"},
    "preprocessing": {"facts", "settings"},
    "plausibility": {"errors", "facts"},
    "models": {"errors", "facts", "settings"},
    "metrics": {"errors", "progress"},
    "data": {"errors", "facts", "plausibility", "processes"},
    "geotiff": {"errors", "facts", "plausibility", "data", "progress"},
    "preparation": {"errors", "facts", "plausibility", "processes", "data", "geotiff", "progress"},
    "checkpoints": {"version", "errors", "processes", "facts", "settings", "models"},
}
"""Parts at the bottom and all that each may import of the package; the parts above them are listed in ORDER."""

ORDER = ("tasks", "inference", "evaluation", "training", "reports", "studies", "conversion", "cli", "__main__")
"""From bottom to top: a part may import those before it, and all of MAY_IMPORT."""


def part(path: Path) -> str:
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def imported_modules(path: Path) -> set[str]:
    """Modules of the package (or names in them) that a file imports, at the top or inside functions."""
    modules = []
    for node in _run_nodes(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            modules += [node.module, *(f"{node.module}.{alias.name}" for alias in node.names)]
        elif isinstance(node, ast.Import):
            modules += [alias.name for alias in node.names]
    return {module for module in modules if module and module.startswith("sarwmix_jax.")}


def _run_nodes(tree: ast.AST) -> Iterator[ast.AST]:
    """All nodes but those that only a type checker sees."""
    for node in ast.iter_child_nodes(tree):
        if not (isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING"):
            yield node
            yield from _run_nodes(node)


def imported_files(path: Path) -> set[Path]:
    """Files of the package that a file imports."""
    found = set()
    for module in imported_modules(path):
        place = ROOT.joinpath(*module.split("."))
        found |= {file for file in (place.with_suffix(".py"), place / "__init__.py") if file.is_file()}
    return found


@pytest.mark.parametrize("path", sorted(PACKAGE.rglob("*.py")), ids=lambda p: str(p.relative_to(ROOT)))
def test_imports_point_one_way(path):
    own = part(path)
    if own == "__init__":
        return  # the package's front: loads lazily
    if own in MAY_IMPORT:
        allowed = MAY_IMPORT[own]
    else:
        assert own in ORDER, f"{own} has no place in the order of parts"
        allowed = set(MAY_IMPORT) | set(ORDER[: ORDER.index(own)])
    assert {module.split(".")[1] for module in imported_modules(path)} - {own} <= allowed


def test_no_file_imports_itself_through_others():
    """Not even inside a folder."""
    graphlib.TopologicalSorter({path: imported_files(path) for path in PACKAGE.rglob("*.py")}).prepare()


@pytest.mark.parametrize("path", SOURCES, ids=lambda p: str(p.relative_to(ROOT)))
def test_files_and_functions_fit(path):
    text = path.read_text()
    assert text.count("\n") <= FILE_LINES
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            assert node.end_lineno - node.lineno < FUNCTION_LINES, node.name


def test_models_do_no_input_or_output():
    for path in (PACKAGE / "models").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
                assert node.func.id not in {"open", "print"}, path
            if isinstance(node, ast.Import | ast.ImportFrom):
                assert "pathlib" not in ast.dump(node), path


def test_importing_starts_no_device():
    """Processes join a job after they import; JAX refuses that once it has looked for devices."""
    modules = [
        ".".join(path.relative_to(ROOT).with_suffix("").parts) for path in SOURCES if path.is_relative_to(PACKAGE)
    ]
    imports = "\n".join(f"import {name.removesuffix('.__init__')}" for name in [*modules, "tests.support"])
    asks = "from jax._src import xla_bridge; print(xla_bridge.backends_are_initialized())"
    done = subprocess.run([sys.executable, "-c", f"{imports}\n{asks}"], capture_output=True, text=True, cwd=ROOT)
    assert (done.stdout, done.stderr[-400:]) == ("False\n", "")
