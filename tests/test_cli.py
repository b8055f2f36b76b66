"""The command as a user meets it: one line for every mistake, exit code 2, and help at once."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from sarwmix_jax.cli.main import main
from sarwmix_jax.data.records import Contract, Record
from sarwmix_jax.preparation.landscapes import make_scene
from sarwmix_jax.preparation.synthetic import write_synthetic_records
from sarwmix_jax.settings.recipes import load_config
from tests.record_sets import write_records
from tests.training.conftest import TINY_RUN

ROOT = Path(__file__).parents[1]
TINY = [f"--config.{name}={value}" for name, value in TINY_RUN.items()]
CONFIG = f"--config={ROOT}/configs/pretrain_bigearthnet_v2.py:base"


@pytest.fixture(scope="module")
def records(tmp_path_factory):
    folder = tmp_path_factory.mktemp("data") / "records"
    write_synthetic_records(folder, train=20, validation=6, side=64)
    return folder


def pretrain(*arguments, records="nowhere"):
    return ["pretrain", CONFIG, f"--config.data.records={records}", "--config.data.split=train", *TINY, *arguments]


def mistake(arguments, capsys):
    """The one line that `sarwmix` prints for a mistake."""
    assert main(arguments) == 2
    printed = capsys.readouterr()
    assert "Traceback" not in printed.err
    lines = [line for line in printed.err.splitlines() if line.startswith("error: ")]
    assert len(lines) == 1
    assert printed.err.splitlines()[-1] == lines[0]
    return lines[0]


@pytest.mark.smoke
@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["pretrian"], "unknown command 'pretrian'; did you mean pretrain?"),
        (["pretrain"], "--config is not given"),
        (["pretrain", CONFIG], "--workdir is not given"),
        (["pretrain", CONFIG, "--workdr=x"], "unknown flag --workdr; did you mean --workdir?"),
        (["pretrain", CONFIG, "--workdir=x", "extra"], "does not understand 'extra'"),
        (["pretrain", f"{CONFIG[:-4]}bse", "--workdir=x"], "model size 'bse' is unknown; use one of base, large, huge"),
        (["pretrain", "--config=nowhere.py", "--workdir=x"], "nowhere.py"),
        (
            pretrain("--config.model.image_sise=128", "--workdir=x"),
            "--config.model.image_sise; did you mean --config.model.image_size",
        ),
        (
            pretrain("--config.modl.image_size=128", "--workdir=x"),
            "--config.modl.image_size; did you mean --config.model.image_size",
        ),
        (
            pretrain("--config.model.embed_dim=many", "--workdir=x"),
            "--config.model.embed_dim is 'many'; give a whole number",
        ),
        (
            pretrain("--config.model.image_size=130", "--workdir=x"),
            "image side 130 is not a multiple of 32; use 128 or",
        ),
        (pretrain("--config.model.depths=1,1", "--workdir=x"), "model.depths"),
        (pretrain("--workdir=x"), "no record set at nowhere"),
        (["reconstruct", "--checkpoint=nowhere", "--out=x"], "--records is not given"),
    ],
)
def test_mistakes_on_the_command_line(arguments, words, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert words in mistake(arguments, capsys)
    assert not (tmp_path / "x").exists()


def write_scenes(folder, change, **contract):
    """Records whose images were changed after drawing."""
    rng = np.random.default_rng(0)
    scenes = [Record(change(make_scene(rng, 64).image_db), f"scene_{number}") for number in range(16)]
    known = {"name": "scenes", "version": "1.0.0", "source": "test", "quantity": "sigma0", "height": 64, "width": 64}
    write_records(folder, Contract(**known | contract), {"train": scenes, "validation": scenes[:4]})


@pytest.mark.parametrize(
    ("change", "contract", "words"),
    [
        (lambda db: db[::-1], {}, "VH"),
        (lambda db: db, {"bands": ("VV", "VH")}, "bands are VV, VH, expected VH, VV"),
        (lambda db: 10 ** (db / 10), {}, "linear"),
        (lambda db: 10 ** (db / 10), {"unit": "linear"}, "values are linear, expected dB"),
    ],
)
def test_records_that_do_not_hold_what_the_run_expects(change, contract, words, tmp_path, capsys):
    write_scenes(tmp_path / "records", change, **contract)
    statistics = "--config.data.statistics=bigearthnet_v2"
    arguments = pretrain(f"--workdir={tmp_path}/run", statistics, records=tmp_path / "records")
    assert words in mistake(arguments, capsys)
    assert not (tmp_path / "run").exists()


def test_records_of_another_quantity(records, tmp_path, capsys):
    arguments = pretrain(f"--workdir={tmp_path}/run", "--config.data.quantity=gamma0", records=records)
    assert "values are sigma0, expected gamma0" in mistake(arguments, capsys)


@pytest.mark.parametrize("name", ["x y", "a,b", "2020", "it's (1)", "None", "[1, 2]"])
def test_a_path_is_taken_as_it_is(name, records, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    shutil.copytree(records, name)
    wrong = "--config.data.quantity=gamma0"
    for place in (name, str(tmp_path / name)):
        words = f"records {place}: values are sigma0, expected gamma0"
        assert words in mistake(pretrain("--workdir=run", wrong, records=place), capsys)
        apart = ["dry-run", CONFIG, "--config.data.records", place, "--config.data.split=train", wrong, *TINY]
        assert words in mistake(apart, capsys)
        apart = "./" if place == "None" else ""  # the word alone unsets a setting that can be unset
        given = pretrain(f"--config.init_from={apart}{place}", "--workdir=run", records=place)
        assert f"no checkpoint in {place};" in mistake(given, capsys)


def test_several_record_sets_are_repeated_flags_or_a_tuple(capsys):
    weights = "data.mix_weights has 0 numbers for 2 record sets"
    assert weights in mistake(pretrain("--config.data.records=b c", "--workdir=run"), capsys)
    assert weights in mistake(pretrain("--workdir=run", records="('a b', 'c')"), capsys)
    assert "names a b twice" in mistake(pretrain("--config.data.records=a b", "--workdir=run", records="a b"), capsys)
    assert "names a b twice" in mistake(pretrain("--workdir=run", records="'a b', 'a b'"), capsys)
    assert "no record set at 1,2:" in mistake(pretrain("--workdir=run", records="1,2"), capsys)
    assert "data.statistics is '2020'" in mistake(pretrain("--config.data.statistics=2020", "--workdir=run"), capsys)


def test_damaged_records(records, tmp_path, capsys):
    shutil.copytree(records, tmp_path / "records")
    next((tmp_path / "records").glob("*train*")).write_bytes(b"nothing of the kind" * 1000)
    assert "records" in mistake(pretrain(f"--workdir={tmp_path}/run", records=tmp_path / "records"), capsys)


def test_a_flipped_bit_in_records_is_found_before_the_start_on_request(records, tmp_path, capsys):
    own = shutil.copytree(records, tmp_path / "records")
    path = next(own.glob("*train*"))
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    line = mistake(pretrain(f"--workdir={tmp_path}/run", "--verify", records=own), capsys)
    assert line.startswith(f"error: records {own}: {path.name} differs from its SHA-256")
    assert not (tmp_path / "run").exists()


@pytest.mark.slow
def test_dry_run_prints_the_plan_and_writes_nothing(records, tmp_path, capsys):
    arguments = ["dry-run", *pretrain(records=records)[1:], f"--workdir={tmp_path}/run", "--verify"]
    assert main(arguments) == 0
    plan, lines = capsys.readouterr()
    assert f"records {records}: all files agree with their SHA-256" in lines
    for words in (
        "20 of",
        "2 per epoch, 4 until epoch 2",
        "8 = 1 x 1 x 8",
        "GiB per device",
        "stage 4",
        "checkpoints: ",
    ):
        assert words in plan
    assert not (tmp_path / "run").exists()


@pytest.mark.smoke
@pytest.mark.slow
def test_a_run_from_the_command_line_and_its_pictures(records, tmp_path, capsys):
    for name in ("one", "two"):
        arguments = pretrain(f"--workdir={tmp_path}/{name}", f"--config.seed={len(name + name)}", records=records)
        assert main([*arguments, "--config.optimizer.stop_after_steps=1"]) == 0
    assert "a run with other settings (seed: 6 -> 7)" in mistake(
        pretrain(f"--workdir={tmp_path}/one", "--config.seed=7", records=records), capsys
    )
    assert "use another workdir" in mistake(pretrain(f"--workdir={tmp_path}/one", records=records), capsys)
    out = tmp_path / "pictures"
    arguments = ["reconstruct", "--checkpoint", f"{tmp_path}/one", f"{tmp_path}/two", "--records", str(records)]
    assert main([*arguments, f"--out={out}", "--samples=2", "--fit=train"]) == 0
    printed = capsys.readouterr().out
    assert "one: held-out loss" in printed
    assert printed.count("correlation inside cells and squared error:\n  model  ") == 2
    names = {path.name for path in out.iterdir()}
    assert names == {"reconstruction.png", "reconstruction.json", "correlation_one.png", "correlation_two.png"}
    figures = json.loads((out / "reconstruction.json").read_text())
    assert set(figures["two"]["correlation"]) == {"VH", "VV"}


LIMITED = """
import resource, signal, sys
from sarwmix_jax.cli.main import main
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, 50_000))
sys.exit(main(sys.argv[1:]))
"""


@pytest.mark.slow
def test_disk_full_at_checkpoint_time(records, tmp_path):
    """No file may grow beyond 50 kB: the checkpoint fails as on a full disk, and the run reports it in one line."""
    arguments = pretrain(f"--workdir={tmp_path}/run", "--config.optimizer.stop_after_steps=1", records=records)
    # what it cannot keep of its programs stays out of the other tests' way
    environment = os.environ | {"JAX_PLATFORMS": "cpu", "JAX_COMPILATION_CACHE_DIR": str(tmp_path / "compiled")}
    result = subprocess.run(
        [sys.executable, "-c", LIMITED, *arguments],
        capture_output=True,
        text=True,
        cwd=ROOT,
        env=environment,
        check=False,
    )
    assert result.returncode == 2, result.stderr
    assert "Traceback" not in result.stderr
    (line,) = [line for line in result.stderr.splitlines() if line.startswith("error: ")]
    assert "cannot write a checkpoint in" in line
    assert "there is no complete one" in line


def test_published_recipe():
    config = load_config(f"{ROOT}/configs/pretrain_bigearthnet_v2.py:large")
    assert (config.model.embed_dim, config.model.num_heads) == (192, (6, 12, 24, 48))
    assert config.model.dtype == "bfloat16"
    assert config.data.split == "train+validation"
    assert (config.batch.global_batch, config.optimizer.base_lr) == (2048, 1.5e-4)
    epochs = [config.optimizer[name] for name in ("warmup_epochs", "schedule_epochs", "stop_after_epochs")]
    assert epochs == [40.0, 1024.0, 64.0]


def test_help_states_flags_and_defaults_but_no_file(capsys):
    assert main(["reconstruct", "--help"]) == 0
    text = " ".join(capsys.readouterr().out.split())
    assert " --samples SAMPLES images to draw (default: 4) " in text
    assert " 'train[:10%]' (default: validation) " in text
    assert text.endswith(" --out FOLDER folder for the pictures")
    assert ".py" not in text
    assert main(["pretrain", "--help"]) == 0
    text = " ".join(capsys.readouterr().out.split())
    assert "default" not in text
    assert " --config PLACE " in text and " --config.GROUP.NAME VALUE " in text and "sarwmix settings lists all" in text
