import csv
import math
from dataclasses import replace

import numpy as np
import pytest

from sarwmix_jax.checkpoints.loading import Loaded
from sarwmix_jax.errors import UserError
from sarwmix_jax.evaluation.predict import Candidate
from sarwmix_jax.evaluation.results import (
    Published,
    Result,
    class_csv,
    markdown_table,
    read_result,
    write_files,
    write_result,
)
from sarwmix_jax.metrics.intervals import Interval
from sarwmix_jax.metrics.scores import flood_scores, multilabel_scores, single_label_scores, softmax

NAMES = ("Arable land", "Transitional woodland, shrub", "Marine waters")


def multilabel_result(name="run a", seed=0, **changes):
    rng = np.random.default_rng(seed)
    targets = rng.integers(0, 2, (40, 3))
    targets[:, 2] = 0
    scores = multilabel_scores(rng.random((40, 3)).astype(np.float32), targets, NAMES)
    intervals = {
        "ap_macro": Interval(scores.summary["ap_macro"], 0.25, 0.5),
        "f1_micro": Interval(0.3, None, None, "why"),
    }
    values = dict(
        intervals=intervals,
        clusters="87 acquisitions",
        selection="selected by the weighted rule on validation",
        details={"seed": 3, "temperature": 1.5},
        notes=("half of the labels.",),
    )
    return replace(Result(name, "bigearthnet_v2", "test", scores, **values), **changes)


def test_json_gives_the_result_back(tmp_path):
    labels = np.arange(12) % 2
    exclusive = softmax(np.random.default_rng(0).normal(size=(12, 2)))
    flood = Result("threshold", "sen12flood", "test", flood_scores(exclusive, labels))
    single = Result("probe", "eurosat", "test", single_label_scores(exclusive, labels, "ab"))
    for number, result in enumerate((multilabel_result(), flood, single)):
        write_result(tmp_path / str(number), result)
        assert read_result(tmp_path / str(number) / "result.json") == result
        assert sorted(p.name for p in (tmp_path / str(number)).iterdir()) == ["classes.csv", "result.json", "result.md"]


def test_csv_holds_every_class():
    result = multilabel_result()
    rows = list(csv.DictReader(class_csv(result).splitlines()))
    assert [row["name"] for row in rows] == list(NAMES)
    assert float(rows[1]["ap"]) == pytest.approx(result.scores.per_class[1].ap, rel=1e-5)
    assert rows[2]["support"] == "0"
    flood = Result("a", "b", "c", flood_scores(np.float32([[1, 0]]), np.array([0])))
    assert next(csv.DictReader(class_csv(flood).splitlines()))["ap"] == ""


def test_markdown_table():
    baseline = replace(multilabel_result("prevalence", 1), intervals={}, selection="", notes=(), clusters="")
    published = Published("MobileViT-S", {"ap_macro": 0.6312, "ap_micro": 0.8118}, "other model.")
    result = multilabel_result()
    table, notes = markdown_table([result, baseline], [published]).split("\n\n")
    lines = [[cell.strip() for cell in line.strip("|").split("|")] for line in table.splitlines()]
    assert lines[0] == ["", "macro AP", "micro AP", "macro F1", "micro F1"]
    assert lines[2][:2] == ["run a", f"{result.scores.summary['ap_macro']:.4f} [0.2500, 0.5000]"]
    assert lines[2][4] == f"{result.scores.summary['f1_micro']:.4f}"
    assert lines[3][0] == "prevalence" and "[" not in lines[3][1]
    assert lines[4] == ["published: MobileViT-S", "0.6312", "0.8118", "-", "-"]
    assert notes.splitlines() == [
        "- bigearthnet_v2, test split, 40 samples.",
        "- Brackets: 95 % bootstrap intervals that resample 87 acquisitions.",
        "- run a: no interval for some scores (why).",
        "- run a: selected by the weighted rule on validation.",
        "- run a: half of the labels.",
        "- 1 of 3 classes without positives count as AP 0 in macro AP.",
        "- MobileViT-S: other model.",
    ]
    flood = flood_scores(np.float32([[0.9, 0.1], [0.2, 0.8], [0.6, 0.4]]), np.array([0, 1, 1]))
    table = markdown_table([Result("m", "sen12flood", "test", flood)])
    assert "| accuracy, % | F1 | precision | recall |" in table
    assert "| m | 66.67 | 0.6667 | 1.0000 | 0.5000 |" in table


def test_results_of_different_splits_share_no_table():
    with pytest.raises(UserError, match="not comparable: split test and validation; make one table for each"):
        markdown_table([multilabel_result(), multilabel_result("run b", split="validation")])
    scores = flood_scores(np.float32([[1, 0]]), np.array([0]))
    with pytest.raises(UserError, match="tasks or numbers of samples differ"):
        markdown_table([multilabel_result(), multilabel_result("run b", scores=scores)])
    with pytest.raises(UserError, match="no results for a table"):
        markdown_table([])


def test_all_files_or_none(tmp_path, monkeypatch):
    write_files(tmp_path, {"a.txt": "old", "b.txt": "old"})
    (tmp_path / "c.txt").mkdir()
    with pytest.raises(UserError, match=r"cannot write results \(c.txt is a folder\)"):
        write_files(tmp_path, {"a.txt": "new", "c.txt": "new"})
    with pytest.raises(UserError, match="choose another folder"):
        write_files(tmp_path, {"a.txt": "new", "no/such/folder": "new"})
    with pytest.raises(UserError, match="choose another folder"):
        write_files(tmp_path / "a.txt", {"b.txt": "new"})
    with pytest.raises(UserError, match="a value is NaN or infinite"):
        write_result(tmp_path, multilabel_result(details={"temperature": math.nan}))
    assert (tmp_path / "a.txt").read_text() == "old"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.txt", "b.txt", "c.txt"]


@pytest.mark.parametrize("text", ["", "{}", "[1]", '{"scores": 3}', '{"scores": {"per_class": [{"a": 1}]}}'])
def test_files_that_are_no_results(tmp_path, text):
    (tmp_path / "a.json").write_text(text)
    with pytest.raises(UserError, match=r"a\.json: not a result of an evaluation"):
        read_result(tmp_path / "a.json")
    with pytest.raises(UserError, match="not a result"):
        read_result(tmp_path / "missing.json")


@pytest.mark.usefixtures("unchecked")
def test_the_split_of_selection_is_called_as_it_was_read():
    best = {"lowest_loss": {"step": 3}, "sum": {"step": 2}}
    description = {"settings": {"validation": {"split": "if_any"}}, "progress": {"best": best}}
    candidate = Candidate("run", Loaded({}, {}, description, 3), None)
    assert candidate.selected_on == "validation"
    assert candidate.selection == "selected by lowest_loss on split validation"
