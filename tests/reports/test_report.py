"""Reports on logs of both systems: numbers, notes, pictures and faults."""

import csv
import io
import json

import pytest
from matplotlib.image import imread

from sarwmix_jax.cli.main import main
from sarwmix_jax.errors import UserError
from sarwmix_jax.evaluation.pictures import short_name
from sarwmix_jax.reports.charts import epochs_figure, loss_figure
from sarwmix_jax.reports.report import report
from sarwmix_jax.reports.runs import read_run, read_runs, short_names
from sarwmix_jax.reports.table import table_rows
from tests.reports import logs


@pytest.fixture
def places(tmp_path):
    """A pretraining run, two finetuned from it, and one of the published system."""
    one = logs.write(tmp_path / "base" / "log.jsonl", logs.pretraining())
    two = logs.write(tmp_path / "tuned_2" / "log.jsonl", logs.finetuning(f"{tmp_path}/base/checkpoints/20", 2.0, 0.4))
    four = logs.write(tmp_path / "tuned_4" / "log.jsonl", logs.finetuning(f"{tmp_path}/base", 4.0, 0.6))
    lines = logs.published(macro_AP=0.5, acc=70.0)
    return [one, two, four, logs.write(tmp_path / "old" / "log.txt", lines)]


def test_numbers_of_a_run_that_was_started_twice(places):
    (run,) = read_runs(places[:1])
    assert [point["loss"] for point in run.train] == [2, 3.0, 2.5, 2.0]  # step 20 by the second start
    assert run.device_hours == pytest.approx(2 * (3600 + 3 * 3600) / 3600)
    assert (run.starts, run.steps, run.epochs, run.status) == (2, 40, 4.0, "finished")
    assert (run.best["epoch"], run.selected, run.best["loss_per_band/VV"]) == (4.0, "lowest_loss", 3.0)
    assert any("1 restarts from an earlier step" in note for note in run.notes)
    assert run.row()["images_per_second"] == 300.0


def test_a_finetuned_run_stands_at_the_epoch_of_its_checkpoint_with_the_selected_validation(places):
    runs = read_runs(places[1:3])
    assert [(run.pretraining_epoch, run.best["ap_macro"], run.selected) for run in runs] == [
        (2.0, 0.4, "weighted"),
        (4.0, 0.6, "weighted"),
    ]
    panels = {axes.get_title(): axes for axes in epochs_figure(runs).axes}
    axes = panels["finetuned, validation: macro AP"]
    drawn = {each.get_label(): each.get_xydata().tolist() for each in axes.lines}
    assert drawn["finetuned from base, 50 % of labels"] == [[2.0, 0.4], [4.0, 0.6]]
    levels = [values[0][1] for label, values in drawn.items() if label.startswith("published")]
    assert levels == [0.6928, 0.5781]  # half of the labels, pretrained and random
    assert axes.get_xscale() == "log" and axes.get_xticks().tolist() == [2.0, 4.0]


def test_without_the_epoch_in_the_log_that_of_the_pretraining_run_is_found(places, tmp_path):
    lines = logs.finetuning(f"{tmp_path}/base/checkpoints/30", None, 0.5, step=30)
    (run,) = read_runs([logs.write(tmp_path / "old_run" / "log.jsonl", lines)])
    assert run.pretraining_epoch == 3.0
    lines = logs.finetuning(f"{tmp_path}/gone", None, 0.5)
    (run,) = read_runs([logs.write(tmp_path / "lost" / "log.jsonl", lines)])
    assert run.pretraining_epoch is None and any("not placed" in note for note in run.notes)
    lines = logs.finetuning(f"{tmp_path}/tuned_2", 50.0, 0.5, kind="classifier")
    (run,) = read_runs([logs.write(tmp_path / "again" / "log.jsonl", lines)])
    assert run.pretraining_epoch is None and any("a classifier" in note for note in run.notes)


def test_the_axis_of_the_study_has_powers_of_two_and_marks_40_and_600(tmp_path):
    lines = [logs.start(0, 0.0, logs.PRETRAINING)]
    lines += [logs.line("probe", 10 * 2**n, 1.0, ap_macro=n / 10) for n in range(11)]
    runs = read_runs([logs.write(tmp_path / "run" / "log.jsonl", lines)])
    axes = epochs_figure(runs).axes[0]
    assert [label.get_text() for label in axes.get_xticklabels()] == [str(2**n) for n in range(11)]
    assert [text.get_text() for text in axes.texts] == ["40", "600"]


def test_the_published_log_is_read_with_its_figures_labelled_as_validation(places):
    (run,) = read_runs(places[3:])
    assert [point["epoch"] for point in run.train] == [1.0, 2.0, 3.0]  # it counts from 0
    assert [point["learning_rate"] for point in run.train] == [0.0, 1e-4, 2e-4]
    assert run.validation[-1] == {"epoch": 3.0, "loss": pytest.approx(2 / 3), "ap_macro": 0.7, "acc": 70.2}
    assert run.device_hours is None
    assert "VALIDATION" in run.notes[0] and any("test_macro_AP as ap_macro" in note for note in run.notes)


def test_all_figures_of_the_published_rule_select_the_epoch(tmp_path):
    names = {"f1_macro": 0.5, "F1 micro": 0.4, "MultilabelAveragePrecision_macro": 0.3, "precision_macro": 0.2}
    lines = logs.published(**names)
    lines[1] |= {f"test_{name}": 0.9 for name in names}
    (run,) = read_runs([logs.write(tmp_path / "log.txt", lines)])
    assert (run.selected, run.best["epoch"], run.best["ap_macro"]) == ("weighted", 2.0, 0.9)


def test_a_published_run_that_began_again_counts_once(tmp_path):
    lines = [*logs.published(3), *logs.published(2)]
    lines[-1]["train_loss"] = float("nan")
    lines.append({"n_parameters": 3, "train_loss": 1.0})
    logs.write(tmp_path / "log.txt", lines)
    run = read_run(tmp_path / "log.txt")
    assert [point["epoch"] for point in run.train] == [1.0, 2.0]
    assert "loss" not in run.train[-1]
    text = " ".join(run.notes)
    assert "loss (1 times)" in text and "1 restarts" in text and "1 lines without an epoch" in text


def test_a_report_of_everything(places, tmp_path, capsys):
    out = tmp_path / "report"
    assert main(["report", *places, "--sort", "validation/ap_macro", "--out", str(out)]) == 0
    printed = capsys.readouterr().out
    rows = list(csv.DictReader(io.StringIO((out / "runs.csv").read_text())))
    assert [row["run"] for row in rows] == ["old", "tuned_4", "tuned_2", "base"]  # highest first, then none
    known = {run["run"]: run for run in json.loads((out / "runs.json").read_text())["runs"]}
    assert known["tuned_2"]["pretraining_epoch"] == 2.0 and known["old"]["validation/acc"] == pytest.approx(70.2)
    table = (out / "runs.md").read_text()
    for text in ("VALIDATION", "Published scores of bigearthnet_v1", "0.7141", "Device hours:", "![loss](loss.png)"):
        assert text in table, text
    assert printed.splitlines()[0] in table
    files = {"loss.png", "learning_rate.png", "validation.png", "pretraining_epochs.png", "throughput.png"}
    assert {path.name for path in out.iterdir()} == files | {"runs.md", "runs.csv", "runs.json"}
    for name in files:
        assert imread(out / name).std() > 0.05


def test_names_are_short_and_differ_even_where_only_their_middle_does(tmp_path):
    long = ["a" * 40 + "1" + "b" * 40, "a" * 40 + "2" + "b" * 40]
    names = short_names([tmp_path / name / "log.jsonl" for name in long])
    assert names == ["…1bbbbbbbbbbbb…bbbbbbbbbbbbb", "…2bbbbbbbbbbbb…bbbbbbbbbbbbb"]
    assert short_names([tmp_path / "x" / "run" / "log.jsonl", tmp_path / "y" / "run" / "log.txt"]) == ["x/run", "y/run"]
    assert short_name(long[0], 28).count("…") == 1


def test_many_long_names_do_not_overlap_in_the_legend(tmp_path):
    places = [logs.write(tmp_path / f"{n:02d}_{'long_' * 20}{n}" / "log.jsonl", logs.pretraining()) for n in range(24)]
    figure = loss_figure(read_runs(places))
    figure.draw_without_rendering()
    (legend,) = figure.legends
    boxes = [text.get_window_extent() for text in legend.get_texts()]
    assert len(boxes) == 26
    assert not any(one.overlaps(two) for n, one in enumerate(boxes) for two in boxes[n + 1 :])
    assert not any(legend.get_window_extent().overlaps(axes.get_window_extent()) for axes in figure.axes)


def test_what_is_incomplete_is_read_and_noted(tmp_path):
    cases = {
        "truncated": (logs.pretraining(end=False), '{"event": "tra', "the last line is truncated"),
        "nothing": ([], "", "the log is empty"),
        "text": ([*logs.pretraining(), logs.line("train", 50, 1e5, loss="nan")], "", "loss (1 times)"),
        "plain": ([e for e in logs.pretraining() if e["event"] != "validation"], "", "no validation in the log"),
        "torn": (logs.pretraining(), 'oops\n{"event": "end", "time": 1e9}\n', "1 lines are not JSON objects"),
        "headless": (logs.pretraining()[1:3], "", "no `start` in the log"),
    }
    places = [logs.write(tmp_path / name / "log.jsonl", lines, more) for name, (lines, more, _) in cases.items()]
    runs = dict(zip(cases, read_runs(places), strict=True))
    for name, (_, _, note) in cases.items():
        assert any(note in each for each in runs[name].notes), name
    assert runs["truncated"].status == "running, or ended without notice"
    assert runs["truncated"].epochs == 4.0 and runs["nothing"].epochs is None
    table, files = report(places, tmp_path / "out")
    assert "nothing: the log is empty." in table and "loss.png" in files
    json.loads((tmp_path / "out" / "runs.json").read_text(), parse_constant=lambda name: 1 / 0)
    assert report([places[1]], tmp_path / "out")[1] == ["runs.md", "runs.csv", "runs.json"]
    assert len(list((tmp_path / "out").iterdir())) == 3  # no picture of the report before


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["nowhere"], "nowhere does not exist"),
        (["."], "no log.jsonl or log.txt in"),
        (["text.txt"], "is not a log: line 1 is not a JSON object"),
        (["other.json"], "neither `event` nor train_"),
        (["binary"], "is not a log: line 1 is not a JSON object"),
        (["run", "run/log.jsonl"], "the same run twice"),
        (["run", "--sort", "validation/ap"], "--sort validation/ap: no run has it; use one of run, task"),
        (["run", "--out", "text.txt"], "cannot write results"),
        ([], "RUN"),
    ],
)
def test_faults_are_one_line(arguments, message, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    logs.write(tmp_path / "run" / "log.jsonl", logs.pretraining())
    (tmp_path / "text.txt").write_text("hello\n")
    (tmp_path / "other.json").write_text('{"a": 1}\n')
    (tmp_path / "binary").write_bytes(b"\xff\xfe\x00")
    assert main(["report", *arguments]) == 2
    error = capsys.readouterr().err
    assert message in error and error.count("\n") == 1
    assert not (tmp_path / "out").exists()


def test_sorting_puts_losses_from_the_lowest_and_unknown_values_last(places):
    runs = read_runs(places)
    assert [row["run"] for row in table_rows(runs, "validation/loss")] == ["tuned_2", "tuned_4", "old", "base"]
    assert [row["run"] for row in table_rows(runs, "device_hours")][-1] == "old"
    with pytest.raises(UserError, match="no run has it"):
        table_rows(runs, "ap")
