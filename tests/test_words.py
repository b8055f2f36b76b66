"""The words of the project: the field's terms, British spelling, in code, comments, messages and documents."""

import ast
import io
import json
import re
import tokenize
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
FOLDERS = (".", ".ci", "benchmarks", "configs", "data_prep", "docs", "launch", "sarwmix_jax", "tests")
SUFFIXES = {".py", ".md", ".cfg", ".toml", ".sh", ".sbatch", ".cff", ".ipynb", ".yml", ".def", ""}

FORBIDDEN = {
    r"desks?": "device, host or machine",
    r"calendars?": "schedule",
    r"meters?": "throughput (or m, the unit)",
    r"anew|afresh": "again",
    r"mend(s|ed|ing)?": "repair, correct",
    r"say(s|ing)?|said": "state, give, report",
    r"tell(s|ing)?|told": "state, show, distinguish",
    r"ours|theirs": "the package's, JAX; or published, PyTorch",
    r"contenders?": "candidate",
    r"misshapen": "of another shape",
    r"whoever|whomever": "the caller, the user",
}
"""Words that are not the field's, as patterns of a whole word, and what to write instead."""

AMERICAN = {
    r"(?!\w*(?:siz|priz))(\w{2,})iz(e[drs]?|ing|ations?|ers?)": r"\1is\2",
    r"(\w*)(catalog|dialog)(s|ed|ing)?": r"\1\2ue\3",
    r"(\w*)analyz(e[drs]?|ing)": r"\1analys\2",
    r"(\w*)(col|neighb|behavi|fav|lab|hon)or(s|ed|ing|able|less|map|bar)?": r"\1\2our\3",
    r"(|kilo|centi|milli)(cent|met|lit|fib)er(s|ed|ing)?": r"\1\2re\3",
    r"(\w*)gray(s|scale)?": r"\1grey\2",
    r"(un)?(label|model|cancel|travel|signal|level)(ed|ing)": r"\1\2l\3",
    r"judgment(s?)": r"judgement\1",
    r"artifact(s?)": r"artefact\1",
    r"defense": "defence",
}
"""American spellings in prose and in names that the project defines, with the British ones; `optimizer`, a setting and
optax's word, stays."""

NAMES_OF_OTHERS = {
    ("CITATION.cff", "polarization"),  # title of the paper
    ("docs/quickstart.ipynb", "center"),  # Matplotlib's places of a legend
    ("sarwmix_jax/evaluation/figures.py", "center"),
    ("sarwmix_jax/studies/figures.py", "center"),
    ("sarwmix_jax/geotiff/statements.py", "normalization"),  # keys of tags, as products write them
    ("sarwmix_jax/geotiff/statements.py", "polarization"),
    ("sarwmix_jax/geotiff/statements.py", "polarizations"),
    ("tests/data/test_pipeline.py", "initialized"),  # code for another process, as text
    ("tests/data_prep/test_sen12flood_faults.py", "recognized"),  # a message of GDAL
    ("tests/evaluation/test_commands_devices.py", "optimization"),  # flags of XLA
    ("tests/tasks/test_devices.py", "optimization"),
    ("tests/test_architecture.py", "initialized"),  # code for another process, as text
    ("tests/test_tour.py", "optimized"),  # code for another process, as text
}
"""Texts whose spelling is not the project's: file and word."""


def files() -> list[Path]:
    found = []
    for folder in FOLDERS:
        within = (ROOT / folder).iterdir() if folder == "." else (ROOT / folder).rglob("*")
        found += [path for path in within if path.is_file() and path.suffix in SUFFIXES]
    ignored = {"__pycache__", "golden"}
    return sorted(
        path
        for path in found
        if path != Path(__file__)
        and not ignored & set(path.relative_to(ROOT).parts)
        and (path.suffix or path.name in {"Dockerfile", "Makefile", "run"})
    )


def words(text: str) -> Iterator[tuple[int, str]]:
    """Line and lower-case word; identifiers are split at underscores and capitals."""
    for number, line in enumerate(text.splitlines(), 1):
        for found in re.finditer(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+", line):
            yield number, found[0].lower()


def full_text(path: Path) -> str:
    """All text of a file; of a notebook the cells' sources alone."""
    return "\n\n".join(cell for _, cell in cells(path)) if path.suffix == ".ipynb" else path.read_text()


def cells(notebook: Path) -> list[tuple[str, str]]:
    """Kind and source of each cell, shell commands as comments."""
    found = [(cell["cell_type"], "".join(cell["source"])) for cell in json.loads(notebook.read_text())["cells"]]
    return [(kind, re.sub(r"^( *)[!%]", r"\1pass  # ", text, flags=re.M)) for kind, text in found]


def prose(path: Path) -> str:
    """What is written for people, line by line: comments, texts with a space, names that are defined; no code."""
    text = full_text(path)
    if path.suffix == ".py":
        lines = python_prose(text)
    elif path.suffix == ".md":
        lines = re.sub(r"```.*?```", lambda code: "\n" * code[0].count("\n"), text, flags=re.S).splitlines()
    elif path.suffix == ".ipynb":
        lines = [
            line
            for kind, cell in cells(path)
            for line in (python_prose(cell) if kind == "code" else [*cell.split("\n"), ""])
        ]
    elif path.suffix == ".cff":
        lines = text.splitlines()
    else:
        lines = [line.partition("#")[2] for line in text.splitlines()]
    return "\n".join(re.sub(r"`[^`]*`|\bhttps?:\S+", "", line) for line in lines)


def python_prose(text: str) -> list[str]:
    lines = [""] * (text.count("\n") + 2)
    strings = {tokenize.STRING, getattr(tokenize, "FSTRING_MIDDLE", tokenize.STRING)}
    for token in tokenize.generate_tokens(io.StringIO(text).readline):
        if token.type == tokenize.COMMENT or (token.type in strings and " " in token.string):
            for number, line in enumerate(token.string.splitlines(), token.start[0]):
                lines[number - 1] += " " + re.sub(r"\{[^{}]*\}", "", line)
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            lines[node.lineno - 1] += " " + node.name
        elif isinstance(node, ast.arg):
            lines[node.lineno - 1] += " " + node.arg
        elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            lines[node.lineno - 1] += " " + node.id
    return lines


def forbidden(text: str) -> list[str]:
    return [
        f"{number}: {word!r}: write {instead}"
        for number, word in words(text)
        for pattern, instead in FORBIDDEN.items()
        if re.fullmatch(pattern, word)
    ]


def american(text: str, file: str = "") -> list[str]:
    names = {word for place, word in NAMES_OF_OTHERS if place == file} | {"optimizer", "optimizers", "meter", "meters"}
    return [
        f"{number}: {word!r}: write {re.sub(pattern, british, word)}"
        for number, word in words(text)
        for pattern, british in AMERICAN.items()
        if word not in names and re.fullmatch(pattern, word)
    ]


@pytest.mark.parametrize(
    ("text", "word"),
    [
        ("x = 1\nrun.tellTale()", "2: 'tell'"),
        ("said_by = 1", "1: 'said'"),
        ("drawn\nanew", "2: 'anew'"),
        ("class PowerMeter:", "1: 'meter'"),
        ("OURS = 2", "1: 'ours'"),
    ],
)
def test_forbidden_words_are_found_in_identifiers_and_over_lines(text, word):
    (line,) = forbidden(text)
    assert line.startswith(word)


def test_words_that_only_hold_a_forbidden_one_are_let_through():
    assert not forbidden("parameters amend essay satellite courses hours kilometre diameter intelligence")


@pytest.mark.parametrize(
    ("text", "british"),
    [
        ("# initialize", "initialise"),
        ("'a standardized value'", "standardised"),
        ("normalization = 1", "normalisation"),
        ("'the neighboring tile'", "neighbouring"),
        ("# unlabeled", "unlabelled"),
        ("def center(): pass", "centre"),
    ],
)
def test_american_spelling_is_found_in_prose_and_names(text, british):
    (line,) = american("\n".join(python_prose(text + "\n")))
    assert line.endswith(f"write {british}")


def test_names_of_libraries_may_be_american():
    assert not american("\n".join(python_prose("plt.plot(color=x)\nnnx.initializers\noptimizer = 'size four'\n")))


@pytest.mark.parametrize(("file", "word"), sorted(NAMES_OF_OTHERS))
def test_exceptions_are_needed(file, word):
    assert word in {found for _, found in words(prose(ROOT / file))}


@pytest.mark.parametrize("path", files(), ids=lambda path: path.relative_to(ROOT).as_posix())
def test_words_are_the_fields(path):
    name = path.relative_to(ROOT).as_posix()
    found = [f"{name}: {word}" for word in forbidden(name)]
    found += [f"{name}:{line}" for line in forbidden(full_text(path)) + american(prose(path), name)]
    assert not found, "\n".join(found)
