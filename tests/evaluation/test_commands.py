"""Released-layout files through conversion, finetuning and evaluation, by the commands alone."""

import json

import numpy as np
import pytest
from sklearn.metrics import average_precision_score

from sarwmix_jax.data.sources import open_records
from tests.evaluation.commands import (
    check_classifier,
    check_flood,
    evaluate,
    finetune,
    log_of,
    prepare_flood_miniature,
    result,
    rows_of,
)

LINEAR = "linear model on eight VV/VH statistics"
pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore:No positive class found:UserWarning")]
"""The warning is of scikit-learn, which the tests call themselves; two classes of the test split have no positive."""


@pytest.fixture(scope="module")
def evaluated(converted, finetuned, labelled, place):
    """The folder and the table of the released classifier and a run from the released pretrained model."""
    out = place / "evaluated"
    return out, evaluate([converted["finetune"], finetuned], labelled, out)


def test_the_released_classifier_evaluates_with_no_further_settings(evaluated, converted, labelled):
    out, table = evaluated
    check_classifier(out, converted["finetune"], labelled, 13)
    rows = rows_of(table)
    measured = ["released_finetune", "finetuned", "class prevalence", LINEAR]
    assert list(rows) == [*measured, "published: ResNet-50", "published: MobileViT-S"]
    assert all("[" in cell for name in ("released_finetune", "finetuned", LINEAR) for cell in rows[name])
    assert rows["published: ResNet-50"] == ["0.6284", "0.8007", "0.5761", "0.7020"]
    assert "bigearthnet_v2, test split, 13 samples." in table
    assert "resample 9 acquisitions" in table
    assert "2 of 19 classes without positives count as AP 0 in macro AP." in table
    assert "released_finetune: chosen by its author; the file does not state how." in table


def test_a_run_from_the_released_pretrained_model_evaluates(evaluated, finetuned, labelled):
    out, table = evaluated
    log = log_of(finetuned)
    assert [line["step"] for line in log if line["event"] == "train"] == [1, 2, 3]
    start = next(line for line in log if line["event"] == "begin")
    assert set(start["kept"]) == {"head/kernel", "head/bias"}
    assert all(name.split("/")[0] in ("decoder", "decoder_embed", "mask_token") for name in start["unused"])
    check_classifier(out, finetuned, labelled, 13)
    assert "finetuned: selected by weighted, sum, most_best, lowest_loss on split validation." in table


def test_the_prevalence_is_that_of_the_training_split(evaluated, labelled):
    train, test = (open_records(labelled, split) for split in ("train", "test"))
    shares = train.read_batch(range(24))["labels"].mean(axis=0)
    truth = test.read_batch(range(13))["labels"]
    macro = np.mean([average_precision_score(truth[:, k], np.full(13, shares[k])) for k in range(19)])
    micro = average_precision_score(truth.ravel(), np.tile(shares, 13))
    cells = rows_of(evaluated[1])["class prevalence"]
    assert [float(cell.split()[0]) for cell in cells] == pytest.approx([macro, micro, 0, 0], abs=5.1e-5)
    assert "class prevalence: no interval for some scores (all resamples give the same score)." in evaluated[1]


def test_differences_are_paired_and_have_intervals(evaluated, converted, finetuned):
    out, table = evaluated
    found = json.loads((out / "test" / "differences.json").read_text())["finetuned - released_finetune"]
    first, second = (result(out, each)["scores"]["summary"] for each in (converted["finetune"], finetuned))
    assert "finetuned - released_finetune: " in table
    for name in ("ap_macro", "ap_micro", "f1_macro", "f1_micro"):
        assert found[name]["estimate"] == pytest.approx(second[name] - first[name], abs=1e-6)
        assert found[name]["low"] <= found[name]["estimate"] <= found[name]["high"]
        assert f"{name} {found[name]['estimate']:+.4f} [{found[name]['low']:+.4f}, " in table


def test_the_released_flood_model_evaluates_and_no_score_of_it_is_known(converted, pairs, tmp_path):
    table = evaluate(converted["flood"], pairs, tmp_path)
    check_flood(tmp_path, converted["flood"], pairs)
    assert "tiling released, tiles pooled by avg; no score of the released flood checkpoint is known" in table
    names = list(rows_of(table))
    assert names[:2] == ["released_flood", "majority class"]
    assert names[2].startswith("mean /difference/ above ") and len(names) == 3
    assert "resample 9 sequences" in table


def test_a_run_from_the_released_classifier_starts_with_its_head(converted, labelled, tmp_path):
    run = finetune(labelled, tmp_path / "run", init_from=converted["finetune"])
    assert next(line for line in log_of(run) if line["event"] == "begin")["kept"] == {}
    table = evaluate(run, labelled, tmp_path / "out", "--split=test,validation", "--tune-thresholds", "--best=sum")
    assert "run: thresholds tuned per class on validation." in table.replace("validation\n", "validation.\n")
    assert "validation split, 10 samples" in (tmp_path / "out" / "validation.md").read_text()
    assert len({row["threshold"] for row in result(tmp_path / "out", run)["scores"]["per_class"]}) > 1


def test_flood_from_raw_files_to_a_finetuned_model(converted, tmp_path):
    records = prepare_flood_miniature(tmp_path)
    run = finetune(
        records,
        tmp_path / "run",
        task="flood",
        init_from=converted["flood"],
        validation__split="test",
        batch__global_batch=2,
        flood__tiling="released",
        flood__patch_op="max",
    )
    table = evaluate([converted["flood"], run], records, tmp_path / "out")
    check_flood(tmp_path / "out", converted["flood"], records)
    check_flood(tmp_path / "out", run, records, patch_op="max")
    assert "run: tiling released, tiles pooled by max; no score of the released flood checkpoint is known" in table
    assert "lowest_loss on split test." in table
    assert "no temperature fitted: the records have no split validation" in table
    assert "resample 1 sequence" in table and "no interval for some scores" in table
