"""What long commands print of their progress where there is no terminal; here at every step, else once a minute."""

import re

import pytest

from sarwmix_jax.cli.main import main
from sarwmix_jax.preparation.shards import prepare
from sarwmix_jax.preparation.synthetic import synthetic_plan
from tests.evaluation.commands import OPTIONS, convert_main, evaluate_arguments
from tests.support import GOLDEN


@pytest.fixture
def dense(monkeypatch):
    """Lines at every step."""
    for name in ("FIRST_SECONDS", "INTERVAL_SECONDS"):
        monkeypatch.setattr(f"sarwmix_jax.progress.{name}", 0.0)


def check(capsys, *titles):
    """For each title a line with the amount done and the time left, or taken."""
    errors = capsys.readouterr().err
    assert not re.search(r"[\r\x1b]", errors)
    for title in titles:
        lines = [line for line in errors.splitlines() if line.startswith(f"{title}: ")]
        count = r"[\d,]+/[\d,]+ [\w ]+, [\d.,e+]+ [\w ]+/s"
        assert any(re.search(rf": {count}, (about .* left|done in .*)$", line) for line in lines), (title, errors)


@pytest.mark.parametrize("workers", [pytest.param(1, marks=pytest.mark.slow), 2])
def test_prepare_and_inspect(tmp_path, capsys, dense, workers):
    plan, draw = synthetic_plan({"train": 24, "validation": 8}, side=32, records_per_shard=8)
    prepare(plan, draw, tmp_path / "scenes", workers=workers)
    check(capsys, "preparing scenes", "merging files")
    assert main(["inspect", str(tmp_path / "scenes"), f"--out={tmp_path}/x.png", f"--workers={workers}"]) == 0
    check(capsys, "reading synthetic_scenes train", "reading synthetic_scenes validation")


@pytest.mark.slow
def test_evaluate(converted, labelled, tmp_path, capsys, dense):
    more = ("--batch=4", "--replicates=200")
    assert main(evaluate_arguments(converted["finetune"], labelled, tmp_path / "out", *more)) == 0
    name = converted["finetune"].name
    predicting = (f"predicting {split} with {name}" for split in ("validation", "test"))
    check(capsys, *predicting, "bootstrap", "reading image statistics", "fitting logistic regression, C 1")


@pytest.mark.slow
def test_probe_and_embed(converted, labelled, tmp_path, capsys, dense):
    known = [f"--checkpoint={converted['pretrain']}", f"--records={labelled}"]
    assert main(["probe", *known, f"--out={tmp_path}/probe", "--replicates=200"]) == 0
    splits = (f"encoding {split} with {converted['pretrain'].name}" for split in ("train", "validation", "test"))
    check(capsys, *splits, "fitting logistic regression", "bootstrap")
    assert main(["embed", *known, "--batch=4", f"--out={tmp_path}/x.parquet"]) == 0
    check(capsys, "encoding test", "reading names of test")


@pytest.mark.slow
def test_reconstruct(converted, labelled, tmp_path, capsys, dense):
    known = [f"--checkpoint={converted['pretrain']}", f"--records={labelled}", "--fit=train"]
    assert main(["reconstruct", *known, f"--out={tmp_path}/out"]) == 0
    check(capsys, "fitting the best constant prediction", "reconstructing")


@pytest.mark.slow
def test_convert(tmp_path, capsys, dense):
    arguments = [str(GOLDEN / "pretrain_tiny.pth"), str(tmp_path / "out"), *OPTIONS["pretrain"], "--verify"]
    assert convert_main(arguments) == 0
    check(capsys, "checking the file", "converting tensors", "comparing tensors")
