"""`sarwmix embed` and `sarwmix probe`, and finetuning from pretrained and from new parameters side by side."""

import json
import re

import numpy as np
import pyarrow.parquet
import pytest

from sarwmix_jax.cli.main import main
from sarwmix_jax.data.sources import open_records
from sarwmix_jax.facts.labels import CLASSES
from sarwmix_jax.inference.model import load
from sarwmix_jax.preparation.synthetic import write_synthetic_records
from tests.evaluation.commands import ROOT, evaluate, finetune, log_of, result, rows_of
from tests.training.conftest import TINY_RUN

MODEL = {name: value for name, value in TINY_RUN.items() if name.startswith("model.")}


def embed(checkpoint, records, out, *more):
    arguments = ["embed", f"--checkpoint={checkpoint}", f"--records={records}", f"--out={out}"]
    return main([*arguments, *more])


def test_embed_writes_every_record_once_in_order(converted, labelled, tmp_path, capsys):
    out = tmp_path / "new" / "features.parquet"
    assert embed(converted["pretrain"], labelled, out, "--split=validation,test", "--batch=4") == 0
    assert f"wrote {out}: 23 rows" in capsys.readouterr().out
    table = pyarrow.parquet.read_table(out)
    sources = [open_records(labelled, split) for split in ("validation", "test")]
    records = [source[number] for source in sources for number in range(len(source))]
    for name in ("patch_id", "s1_name", "split", "country"):
        assert table[name].to_pylist() == [record[name] for record in records]
    names = [[n for n, has in zip(CLASSES, record["labels"], strict=True) if has] for record in records]
    assert table["labels"].to_pylist() == names
    images = np.stack([record["image"] for record in records]).astype(np.float32)
    features = np.stack(table["features"].to_pylist())
    np.testing.assert_allclose(features, load(converted["pretrain"]).encode(images), rtol=0, atol=1e-5)
    assert features.std(axis=0).max() > 1e-3
    assert json.loads(table.schema.metadata[b"sarwmix_jax"])["description"]["kind"] == "pretraining"
    assert [path.name for path in out.parent.iterdir()] == [out.name]
    before = out.read_bytes()
    assert embed(converted["pretrain"], labelled, out) == 2
    assert f"{out} exists; name another file" in capsys.readouterr().err
    assert out.read_bytes() == before


@pytest.fixture(scope="module")
def scenes(place):
    folder = place / "scenes"
    write_synthetic_records(folder, train=96, validation=32, test=48, side=64)
    return folder


@pytest.fixture(scope="module")
def encoders(place, scenes):
    """A model after 24 steps of pretraining, and one after a step at a learning rate of 0: as it was drawn."""
    config = f"--config={ROOT}/configs/pretrain_bigearthnet_v2.py:base"
    runs = {}
    for name, steps in (("pretrained", 24), ("drawn", 1)):
        settings = TINY_RUN | {"data.records": scenes, "data.split": "train", "optimizer.stop_after_steps": steps}
        arguments = [f"--config.{key}={value}" for key, value in settings.items()]
        assert main(["pretrain", config, *arguments, f"--workdir={place / name}"]) == 0
        runs[name] = place / name
    assert [line["learning_rate"] for line in log_of(runs["drawn"]) if line["event"] == "train"] == [0]
    return runs


@pytest.mark.slow
def test_probes_of_a_pretrained_and_a_drawn_encoder_stand_beside_each_other(encoders, scenes, tmp_path, capsys):
    runs = [str(encoders[name]) for name in ("pretrained", "drawn")]
    assert main(["probe", "--checkpoint", *runs, f"--records={scenes}", f"--out={tmp_path}", "--replicates=400"]) == 0
    table = (tmp_path / "probe.md").read_text()
    assert table in capsys.readouterr().out
    rows = rows_of(table)
    patterns = [
        r"pretrained, logistic regression \(C [\d.e-]+\)",
        r"pretrained, \d+ nearest neighbours",
        r"drawn, logistic regression \(C [\d.e-]+\)",
        r"drawn, \d+ nearest neighbours",
        "class prevalence",
        "linear model on eight VV/VH statistics",
    ]
    assert all(re.fullmatch(pattern, name) for pattern, name in zip(patterns, rows, strict=True)), rows
    for name, cells in rows.items():
        low, high = map(float, re.fullmatch(r"[\d.]+ \[([\d.]+), ([\d.]+)\]", cells[0]).groups())
        assert 0 <= low < high <= 1, name
    assert "synthetic_scenes, test split, 48 samples." in table
    assert "96 training samples of train, settings chosen on validation" in table
    assert "published" not in table
    assert len(list(tmp_path.glob("*.json"))) == 6
    values = list(rows.values())
    assert values[0] != values[2]  # features of two encoders


@pytest.mark.slow
def test_a_probe_is_logistic_regression_on_frozen_features(encoders, scenes, tmp_path):
    """The scores of the smallest fraction's probe by scikit-learn on features of the interface for inference."""
    from sklearn.linear_model import LogisticRegression
    from sklearn.metrics import average_precision_score
    from sklearn.preprocessing import StandardScaler

    arguments = ["probe", f"--checkpoint={encoders['pretrained']}", f"--records={scenes}", f"--out={tmp_path}"]
    assert main([*arguments, "--replicates=200"]) == 0
    (path,) = tmp_path.glob("*logistic*.json")
    found = json.loads(path.read_text())
    strength = float(re.search(r"C ([\d.e-]+)\)", found["name"]).group(1))
    model, parts = load(encoders["pretrained"]), {}
    for split in ("train", "test"):
        source = open_records(scenes, split)
        batch = source.read_batch(range(len(source)))
        parts[split] = model.encode(batch["image"].astype(np.float32)), batch["labels"]
    scaler, values = StandardScaler().fit(parts["train"][0]), []
    for train, test in zip(parts["train"][1].T, parts["test"][1].T, strict=True):
        if train.min() == train.max() or not test.any():
            values.append(average_precision_score(test, np.full(len(test), train[0])) if test.any() else 0.0)
            continue
        fit = LogisticRegression(C=strength, max_iter=5000).fit(scaler.transform(parts["train"][0]), train)
        values.append(average_precision_score(test, fit.predict_proba(scaler.transform(parts["test"][0]))[:, 1]))
    assert found["scores"]["summary"]["ap_macro"] == pytest.approx(np.mean(values), abs=5e-3)


@pytest.mark.slow
def test_pretrained_and_new_parameters_are_compared_in_one_table(encoders, scenes, tmp_path):
    settings = {name.replace(".", "__"): value for name, value in MODEL.items()} | {"optimizer__stop_after_steps": 12}
    runs = [
        finetune(scenes, tmp_path / "scratch", **settings),
        finetune(scenes, tmp_path / "pretrained", **settings, init_from=encoders["pretrained"]),
    ]
    assert any(line["event"] == "begin" for line in log_of(runs[1]))
    assert not any(line["event"] == "begin" for line in log_of(runs[0]))
    table = evaluate(runs, scenes, tmp_path / "out", "--best=weighted")
    rows = rows_of(table)
    assert list(rows)[:2] == ["scratch", "pretrained"] and len(rows) == 4
    assert "published" not in table
    differences = json.loads((tmp_path / "out" / "test" / "differences.json").read_text())["pretrained - scratch"]
    first, second = (result(tmp_path / "out", run)["scores"]["summary"] for run in runs)
    for name in ("ap_macro", "ap_micro", "f1_macro", "f1_micro"):
        assert differences[name]["estimate"] == pytest.approx(second[name] - first[name], abs=1e-9)
    found = differences["ap_micro"]
    assert found["low"] <= found["estimate"] <= found["high"]
    line = next(line for line in table.splitlines() if line.startswith("- pretrained - scratch: "))
    assert f"ap_micro {found['estimate']:+.4f} [{found['low']:+.4f}, {found['high']:+.4f}]" in line
    absent = 19 - np.count_nonzero(open_records(scenes, "test").read_batch(range(48))["labels"].any(axis=0))
    assert absent > 0 and f"{absent} of 19 classes without positives count as AP 0 in macro AP." in table
    assert "pretrained: selected by " in table and "weighted" in table
