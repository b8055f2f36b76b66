"""Every command of the documents, and every example of recipes and commands, can be typed as it stands."""

import re

import pytest

from benchmarks.__main__ import FLAGS
from benchmarks.gpu_program import windows
from benchmarks.gpu_program.__main__ import parsed
from benchmarks.gpu_program.guard import case_of
from benchmarks.gpu_program.results import read_result
from benchmarks.programs import make_plan
from sarwmix_jax.cli.main import Parser, main, parser_of
from sarwmix_jax.errors import UserError
from sarwmix_jax.settings.recipes import read_config
from sarwmix_jax.version import __version__
from tests.documents import (
    DOCUMENTS,
    PLACEHOLDERS,
    README,
    ROOT,
    SHELL,
    Line,
    blocks,
    commands_of,
    examples_of,
    find_command,
    inline_commands_of,
    why_not_run,
)

EXAMPLES = [
    line
    for folder in ("configs", "sarwmix_jax/cli", "benchmarks")
    for path in sorted((ROOT / folder).rglob("*.py"))
    for line in examples_of(path)
]
IN_BLOCKS = [line for path in DOCUMENTS for line in commands_of(path)]
INLINE = [line for path in DOCUMENTS for line in inline_commands_of(path)]


def check_parses(line: Line) -> None:
    """Every flag and value is known, and the recipe can be read; nothing is run."""
    if line.words[:3] == ("python", "-m", "benchmarks.gpu_program"):
        options = parsed(list(line.words[3:]))
        case_of(options) if options.check is None else [read_result(path) for path in options.check]
    elif line.words[:3] == ("python", "-m", "benchmarks.gpu_program.windows"):
        windows.parsed(list(line.words[3:]))
    elif line.words[:3] == ("python", "-m", "benchmarks"):
        parser = Parser(prog="python -m benchmarks")
        for name, about in FLAGS.items():
            parser.add_argument(f"--{name}", **about)
        make_plan(parser.parse_args(list(line.words[3:])))
    elif line.words[:2] == ("python", "-c"):
        compile(line.words[2], line.place, "exec")
    elif line.words[0] == "make":
        assert all(re.search(rf"^{target}:", (ROOT / "Makefile").read_text(), re.M) for target in line.words[1:])
    elif line.words[0] == "pytest":
        assert [word for word in line.words if word.endswith(".py") and (ROOT / word).is_file()], line
    elif line.words[0] in ("pip", "gdown"):
        assert len(line.words) > 1
    elif line.words[1:] in (("--help",), ("--version",)):
        assert main(line.words[1:]) == 0
    else:
        found = find_command(line.words)
        assert found is not None, f"{line}: a kind of command that this test does not know"
        command, program, arguments = found
        options = parser_of(command, program).parse_args(arguments)
        if getattr(options, "config", None):
            read_config(options.config, default="demo" if program == "sarwmix demo" else None)


@pytest.mark.parametrize("line", [*IN_BLOCKS, *EXAMPLES], ids=str)
def test_it_parses(line, monkeypatch):
    monkeypatch.chdir(ROOT)
    check_parses(line)


@pytest.mark.parametrize("line", INLINE, ids=str)
def test_flags_in_the_running_text_exist(line, monkeypatch):
    """There, words that stand for others and what is left out are no mistakes."""
    monkeypatch.chdir(ROOT)
    words = tuple(word for word in line.words if "..." not in word)
    if len(words) == 1 or words[-1] in PLACEHOLDERS or words in (("python", "-m", "sarwmix_jax"),):
        return
    try:
        check_parses(Line(line.place, words))
    except UserError as error:
        assert re.search("(is|are) not given; see|expected one argument", str(error)), error


def test_there_is_something_to_check():
    """The patterns still find what they are for."""
    assert len(IN_BLOCKS) >= 25 and len(EXAMPLES) >= 30 and len(INLINE) >= 10
    assert {language for path in DOCUMENTS for language, _ in blocks(path)} <= {*SHELL, "python", ""}
    for name in ("prepare", "convert", "settings", "pretrain", "finetune", "evaluate", "probe", "embed", "demo"):
        assert [line for line in IN_BLOCKS if line.words[:2] == ("sarwmix", name)], name


def test_only_what_cannot_run_here_is_left_out():
    """Everything else is run by the slow test beside this one."""
    left_out = {line.words[0] for line in IN_BLOCKS if why_not_run(line.words)}
    assert left_out == {"gdown", "make", "pip", "python", "sarwmix"}
    assert sum(not why_not_run(line.words) for line in IN_BLOCKS) >= 20


@pytest.mark.parametrize(
    ("line", "fault"),
    [
        ("sarwmix pretrain --records=records/own", "--config.data.records"),
        ("sarwmix pretrain --config=pretrain_bigearthnet:base", "no recipe 'pretrain_bigearthnet'"),
        ("sarwmix evaluate --checkpoint a --records b --out c --tune_thresholds", "--tune-thresholds"),
        ("sarwmix reconstruct --checkpoint a --out c", "--records is not given"),
        ("python data_prep/geotiff.py --input FOLDER", "unknown flag --input"),
        ("sarwmix prepare bigearthnet", "unknown data set 'bigearthnet'"),
        ("python -m benchmarks --device=tpu --out=DIR", "invalid choice: 'tpu'"),
        ("python -m benchmarks.gpu_program --gpu=h100 --task=flod", "invalid choice: 'flod'"),
    ],
)
def test_a_wrong_line_would_be_found(line, fault):
    with pytest.raises(UserError, match=re.escape(fault)):
        check_parses(Line("here", tuple(line.split())))


def test_an_unknown_kind_of_line_is_no_pass():
    with pytest.raises(AssertionError, match="a kind of command that this test does not know"):
        check_parses(Line("here", ("docker", "run", "sarwmix")))


def test_the_tree_of_the_readme_is_true():
    (tree,) = [text for language, text in blocks(README) if not language]
    named, folder = set(), ROOT
    for name, indented in ((line.split()[0], line.startswith("  ")) for line in tree.splitlines()):
        folder = folder if indented else ROOT
        path = folder / name
        assert path.exists(), name
        named.add(path.relative_to(ROOT).parts[-1])
        folder = path if not indented and path.is_dir() else folder
    parts = {p.name for p in (ROOT / "sarwmix_jax").iterdir() if p.is_dir() and not p.name.startswith("__")}
    assert parts <= named, parts - named


def test_links_lead_somewhere():
    for path in DOCUMENTS:
        for target in re.findall(r"\]\((?!https?:)([^)#]+)", path.read_text()):
            assert (path.parent / target).exists(), f"{path.name}: {target}"


def test_the_version_is_the_same_everywhere():
    assert re.search(rf"^## \[{re.escape(__version__)}\]", (ROOT / "CHANGELOG.md").read_text(), re.M)
    citation = (ROOT / "CITATION.cff").read_text()
    assert f"\nversion: {__version__}\n" in citation
    for fact in ("10.1109/JSTARS.2026.3652404", "arXiv:2503.01181", "start: 265", "end: 269"):
        assert fact in citation
