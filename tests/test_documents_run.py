"""The commands of the documents, run as they stand in a folder that holds the inputs that they name."""

import ast
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import sarwmix_jax
from convert_torch_ckpt import main as convert
from sarwmix_jax.cli.main import main
from sarwmix_jax.errors import UserError
from tests.documents import DOCUMENTS, README, ROOT, Line, blocks, commands_of, why_not_run, write_inputs
from tests.support import GOLDEN

TRAINING = ("pretrain", "finetune", "dry-run")
SHORT = {
    "model.embed_dim": 8,
    "model.depths": "1,1,1,1",
    "model.num_heads": "1,2,4,8",
    "model.decoder_dim": 16,
    "model.decoder_depth": 1,
    "model.decoder_heads": 4,
    "model.dtype": "float32",
    "batch.global_batch": 8,
    "batch.micro_batch": 8,
    "optimizer.stop_after_steps": 2,
}
"""Added to commands that train, which would take hours: a small model, and two steps."""

CONVERTED = {
    "runs/benv2_finetuned": ("finetune_tiny.pth", "--statistics=bigearthnet_v2"),
    "runs/benv2_pretrained": (
        "pretrain_tiny.pth",
        "--statistics=bigearthnet_v2",
        "--decoder-heads=4",
        "--norm-pix=yes",
    ),
}
"""What stands for the released files, which have to be downloaded."""


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("documents")
    write_inputs(folder)
    for place, (file, *options) in CONVERTED.items():
        assert convert([str(GOLDEN / file), str(folder / place), *options, "--verify"]) == 0
    return folder


def run(words: tuple[str, ...]) -> int:
    """Exit code of a command, shortened where it trains."""
    if words[0] == "sarwmix":
        short = [f"--config.{name}={value}" for name, value in SHORT.items()] if words[1] in TRAINING else []
        return main([*words[1:], *short])
    assert words[0] == "python", words
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    return subprocess.run([sys.executable, *words[1:]], env=environment, timeout=300).returncode


def places_of(words: tuple[str, ...]) -> list[Path]:
    """What a command writes, in the present folder."""
    pairs = [word.split("=", 1) for word in words if word.startswith(("--out=", "--workdir="))]
    following = [words[n + 1] for n, word in enumerate(words) if word in ("--out", "--workdir")]
    return [Path(place) for place in (*(value for _, value in pairs), *following)]


def lines_to_run() -> dict[Path, list[Line]]:
    """Commands by document, README first; one that an earlier document has too is run there."""
    seen, found = set(), {}
    for document in DOCUMENTS:
        found[document] = [
            line for line in commands_of(document) if line.words not in seen and not why_not_run(line.words)
        ]
        seen |= {line.words for line in found[document]}
    return found


@pytest.mark.slow
def test_commands_run(folder, monkeypatch, capfd):
    """A reader of the README types all of it, then what the other documents have beyond it."""
    monkeypatch.chdir(folder)
    failed = []
    for document, lines in lines_to_run().items():
        if document != README:
            for place in (place for line in lines for place in places_of(line.words)):
                shutil.rmtree(place, ignore_errors=True)  # each document is read by itself
        for line in lines:
            code = run(line.words)
            error = capfd.readouterr().err
            if code:
                failed.append(f"{line}\nexit code {code}: {error[-2000:]}")
            elif "runs/finetuned" in map(str, places_of(line.words)):
                for name in ("runs/a", "runs/b"):  # two runs that docs/finetuning.md compares
                    shutil.copytree("runs/finetuned", name)
    assert not failed, "\n".join(failed)
    for place in (
        "runs/own/log.jsonl",
        "features.parquet",
        "own.png",
        "evaluation/test.md",
        "pictures",
        "flood_npy/train",
    ):
        assert Path(place).exists(), place


@pytest.mark.slow
def test_python_in_the_documents_runs(folder, monkeypatch):
    """Every statement runs with a checkpoint of the kind that it is for; one of another kind is refused."""
    monkeypatch.chdir(folder)
    convert(
        [
            str(GOLDEN / "flood_tiny.pth"),
            "runs/flood",
            "--statistics=bigearthnet_v1",
            "--kind=flood",
            "--tiling=released",
        ]
    )
    images = np.array([-19.0, -12.0])[:, None, None] + np.random.default_rng(0).normal(0, 2, (2, 2, 128, 128))
    texts = [text for path in DOCUMENTS for language, text in blocks(path) if language == "python"]
    assert texts
    for statement in (node for text in texts for node in ast.parse(text).body):
        code, ran = ast.unparse(statement), 0
        for place in ("runs/benv2_finetuned", "runs/benv2_pretrained", "runs/flood"):
            model = sarwmix_jax.load(place)
            names = {"sarwmix_jax": sarwmix_jax, "model": model}
            names |= {"images_db": images, "before_db": images, "after_db": images}
            try:
                exec(code, names)
            except UserError as error:
                assert "this checkpoint is of kind" in str(error), code
            else:
                ran += 1
        assert ran, code
