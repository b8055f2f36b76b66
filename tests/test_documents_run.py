"""The commands of the documents, run as they stand in a folder that holds the inputs that they name."""

import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from convert_torch_ckpt import main as convert
from sarwmix_jax.cli.main import main
from tests.documents import DOCUMENTS, README, ROOT, blocks, commands_of, why_not_run, write_inputs
from tests.support import GOLDEN

TRAINING = ("pretrain", "finetune", "dry-run", "demo")
SHORT = {
    "model.embed_dim": 8,
    "model.depths": "1,1,2,1",
    "model.num_heads": "1,2,4,8",
    "model.decoder_dim": 16,
    "model.decoder_depth": 2,
    "model.decoder_heads": 4,
    "model.dtype": "float32",
    "batch.global_batch": 8,
    "batch.micro_batch": 8,
    "optimizer.stop_after_steps": 2,
}
"""Added to commands that train, which would take hours: the size of the golden files, and two steps."""

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
    return subprocess.run([sys.executable, *words[1:]], env=environment, stdout=sys.stderr, timeout=300).returncode


def places_of(words: tuple[str, ...]) -> list[Path]:
    """What a command writes, in the present folder."""
    pairs = [word.split("=", 1) for word in words if word.startswith(("--out=", "--workdir="))]
    following = [words[n + 1] for n, word in enumerate(words) if word in ("--out", "--workdir")]
    return [Path(place) for place in (*(value for _, value in pairs), *following)]


@pytest.mark.slow
@pytest.mark.parametrize("document", [README], ids=lambda path: path.name)
def test_commands_run(document, folder, monkeypatch, capfd):
    monkeypatch.chdir(folder)
    failed = []
    for line in commands_of(document):
        if why_not_run(line.words):
            continue
        began = time.perf_counter()
        code = run(line.words)
        out, err = capfd.readouterr()
        print(f"{time.perf_counter() - began:.1f} s, {code}: {line}", file=sys.__stderr__, flush=True)
        Path("/tmp/w/u/run.log").open("a").write(f"{time.perf_counter() - began:.1f} s, {code}: {line}\n{err[-600:]}\n")
        if code:
            failed.append(f"{code}: {line}\n{err[-2000:]}")
    assert not failed, "\n".join(failed)
