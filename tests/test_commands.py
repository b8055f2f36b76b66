"""Every command and every script that is a door to one: help, mistakes, and one meaning for each flag."""

import os
import re
import resource
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from sarwmix_jax.cli.commands import COMMANDS, FAMILIES
from sarwmix_jax.cli.main import guarded, load, main, parser_of
from sarwmix_jax.errors import UserError
from sarwmix_jax.settings.recipes import read_config
from sarwmix_jax.version import __version__

ROOT = Path(__file__).parents[1]
DOORS = ["convert_torch_ckpt.py", *sorted(f"data_prep/{path.name}" for path in (ROOT / "data_prep").glob("*.py"))]
NAMES = {(name,): command for name, command in COMMANDS.items() if name not in FAMILIES}
NAMES |= {(family, name): each for family, (_, members) in FAMILIES.items() for name, each in members.items()}
ALL = pytest.mark.parametrize("name", NAMES, ids=" ".join)

UNLIKE = {
    "--out": "a file or a folder, needed or not, as the command writes it",
    "--split": "one split or several",
    "--fit": "what is fitted differs from command to command",
    "--verify": "a conversion is compared tensor by tensor, the files of records with their SHA-256",
    "--step": "without it a conversion takes the newest checkpoint, a verification all, an audit the last but one",
    "--list": "the released files, or the steps of a study",
    "--root": "the archives of BigEarthNet v1 and v2 have other folders",
    "--validation": "synthetic scenes are counted, places of own scenes are shares; old scripts keep their options",
}
"""Flags whose meaning is not the same in all commands, and why."""


def parser(name):
    return parser_of(NAMES[name], " ".join(("sarwmix", *name)))


def flags_of(name):
    """Actions of a command by their long flags."""
    return {flag: action for flag, action in parser(name)._option_string_actions.items() if flag.startswith("--")}


def processor_seconds_of_children() -> float:
    """Time that ended child processes computed; unlike the clock's it does not count what else the machine does."""
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime


def python(*arguments, **options):
    return subprocess.run(
        [sys.executable, *map(str, arguments)],
        capture_output=True,
        text=True,
        cwd=ROOT,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        check=False,
        **options,
    )


WITHOUT_JAX = (
    "import runpy, sys\nsys.argv = sys.argv[1:]\n"
    "try:\n    runpy.run_path(sys.argv[0], run_name='__main__')\n"
    "finally:\n    assert 'jax' not in sys.modules, 'jax was imported'\n"
)


@pytest.mark.smoke
@pytest.mark.parametrize(
    "command",
    [
        ("sarwmix_jax",),
        *(("sarwmix_jax", family) for family in FAMILIES),
        *(("sarwmix_jax", *name) for name in NAMES),
        *((d,) for d in DOORS),
    ],
    ids=" ".join,
)
def test_help_answers_within_two_seconds_of_work_without_jax(command):
    before = processor_seconds_of_children()
    done = python("-c", WITHOUT_JAX, *command, "--help")
    assert processor_seconds_of_children() - before < 2
    assert (done.returncode, done.stderr) == (0, "")
    assert "\n    sarwmix " in done.stdout or command == ("sarwmix_jax",)
    if command[0] in DOORS:
        assert done.stdout.startswith(f"usage: python {command[0]} ")


def test_the_overview_names_every_command(capsys):
    assert main(["--help"]) == main([]) == main(["help"]) == 0
    text = capsys.readouterr().out
    assert all(f"  {name} " in text and command.summary in text for name, command in COMMANDS.items())
    for family, (_, members) in FAMILIES.items():
        assert main([family, "--help"]) == 0
        text = capsys.readouterr().out
        assert all(f"  {name} " in text and command.summary in text for name, command in members.items())
    assert main(["help", "embed"]) == 0
    assert capsys.readouterr().out.startswith("usage: sarwmix embed ")


@pytest.mark.parametrize("flag", ["-V", "--version"])
def test_version(flag):
    done = python("-m", "sarwmix_jax", flag)
    assert (done.returncode, done.stdout, done.stderr) == (0, f"sarwmix_jax {__version__}\n", "")


@ALL
def test_examples_in_the_help_are_command_lines_that_the_command_takes(name):
    text = (load(NAMES[name]).__doc__ or "").replace("\\\n", " ")
    examples = [shlex.split(line) for line in re.findall(r"^    (sarwmix .*)$", text, re.MULTILINE)]
    assert examples
    for _, *words in examples:
        assert tuple(words[: len(name)]) == name
        options = parser(name).parse_args(words[len(name) :])
        if "config" in options:
            read_config(options.config, default="demo" if name == ("demo",) else None)


def mistake(arguments, capsys):
    assert main(arguments) == 2
    printed = capsys.readouterr()
    assert printed.out == "" and printed.err.startswith("error: ") and printed.err.count("\n") == 1
    return printed.err


@ALL
def test_a_shortened_flag_is_answered_with_the_right_one_and_an_unknown_one_with_the_help(name, capsys):
    known = [flag for flag in flags_of(name) if "." not in flag]
    assert len(known) > 1 or name == ("settings",)
    for flag in known:
        assert f"unknown flag {flag[:-1]}; did you mean {flag}? " in mistake([*name, f"{flag[:-1]}=1"], capsys)
    assert mistake([*name, "--zzz", "1"], capsys).endswith(f"unknown flag --zzz; see sarwmix {' '.join(name)} --help\n")


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("pretain", "unknown command 'pretain'; did you mean pretrain?"),
        ("xyz", "unknown command 'xyz'; choose one of pretrain, finetune, dry-run, demo, "),
        ("prepare", "sarwmix prepare needs a data set: one of bigearthnet-v2, "),
        ("prepare geotif", "unknown data set 'geotif'; did you mean geotiff?"),
        ("prepare bigearthnet_v1", "unknown data set 'bigearthnet_v1'; did you mean bigearthnet-v1?"),
        ("pretrain --records x", "unknown flag --records; did you mean --config.data.records?"),
        ("pretrain --global-batch 8", "unknown flag --global-batch; did you mean --config.batch.global_batch?"),
        ("pretrain --conf=demo", "unknown flag --conf; did you mean --config?"),
        ("pretrain --out x", "unknown flag --out; did you mean --workdir?"),
        ("pretrain -workdir x", "unknown flag -workdir; did you mean --workdir?"),
        ("finetune --checkpoint x", "unknown flag --checkpoint; did you mean --config.init_from?"),
        ("evaluate --workdir x", "unknown flag --workdir; did you mean --out?"),
        ("evaluate --patch_op max", "unknown flag --patch_op; did you mean --patch-op?"),
        ("evaluate --config.data.records=x", "unknown flag --config.data.records; did you mean --records?"),
        ("embed --checkpoint x", "--records, --out are not given; see sarwmix embed --help"),
        ("embed --checkpoint x y --records x --out x", "takes one checkpoint, 2 are given"),
        ("embed --checkpoint x --checkpoint y --records x --out x", "takes one checkpoint, 2 are given"),
        ("embed --batch 0", "argument --batch: '0' is not a whole number from 1"),
        ("settings training", "invalid choice: 'training'"),
        ("inspect a b", "sarwmix inspect does not understand 'b'; see sarwmix inspect --help"),
        ("inspect a\udcff", r"argument a\xff has bytes that are not UTF-8"),
    ],
)
def test_mistakes_name_the_remedy(line, words, capsys):
    assert words in mistake(line.split(" "), capsys)


def test_no_flag_has_two_meanings():
    meanings = {}
    for name in NAMES:
        for flag, action in flags_of(name).items():
            meaning = (type(action), action.nargs, action.type, str(action.choices), action.help)
            meanings.setdefault(flag, set()).add(meaning)
    assert {flag for flag, found in meanings.items() if len(found) > 1} == set(UNLIKE)


@pytest.mark.parametrize(
    "given", ["--checkpoint a b", "--checkpoint a --checkpoint b", "--checkpoint=a --checkpoint b"]
)
@pytest.mark.parametrize("name", ["evaluate", "probe", "reconstruct"])
def test_several_checkpoints(name, given):
    options = parser((name,)).parse_args([*given.split(), "--records=r", "--out=o"])
    assert options.checkpoint == ["a", "b"] and options.records == "r" and options.out == Path("o")


@pytest.mark.parametrize("joined", [True, False])
@pytest.mark.parametrize(
    ("name", "flag", "text", "value"),
    [
        (("convert",), "--statistics", "-19,-12,5,5", "-19,-12,5,5"),
        (("prepare", "geotiff"), "--nodata", "-9999", -9999.0),
        (("prepare", "geotiff"), "--nodata", "-.5e-3", -0.0005),
        (("prepare", "geotiff"), "--name", "a, b", "a, b"),
    ],
)
def test_values_with_commas_spaces_and_a_minus(name, flag, text, value, joined):
    rest = ["--inputs", "x", "--out", "y"] if name[0] == "prepare" else []
    options = parser(name).parse_args([*([f"{flag}={text}"] if joined else [flag, text]), *rest])
    assert vars(options)[flag[2:]] == value


def test_a_flag_without_its_value_is_a_mistake():
    with pytest.raises(UserError, match="argument --statistics: expected one argument; see sarwmix convert --help"):
        parser(("convert",)).parse_args(["a", "b", "--statistics"])


@pytest.mark.parametrize(
    ("command", "unbuffered"),
    [*((c, "") for c in ("--help", "prepare --help", "pretrain --help", "settings")), ("convert --list", "1")],
)
def test_a_closed_output_ends_a_command_quietly(command, unbuffered):
    reader, writer = os.pipe()
    os.close(reader)
    done = subprocess.run(
        [sys.executable, "-m", "sarwmix_jax", *command.split()],
        cwd=ROOT,
        env=os.environ | {"PYTHONUNBUFFERED": unbuffered},
        stdout=writer,
        stderr=subprocess.PIPE,
        text=True,
        check=False,
    )
    os.close(writer)
    assert (done.returncode, done.stderr) == (141, "")


def test_another_closed_pipe_is_no_closed_output(capsys):
    def work():
        raise BrokenPipeError("a worker is gone")

    with pytest.raises(BrokenPipeError, match="a worker is gone"):
        guarded(work)


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no device that is always full")
def test_a_full_disk_is_one_line():
    with Path("/dev/full").open("w") as full:
        done = subprocess.run(
            [sys.executable, "-m", "sarwmix_jax", "convert", "--list"],
            cwd=ROOT,
            env=os.environ | {"PYTHONUNBUFFERED": ""},
            stdout=full,
            stderr=subprocess.PIPE,
            text=True,
            check=False,
        )
    assert (done.returncode, done.stderr) == (2, "error: cannot write the output: No space left on device\n")
