"""A whole study with a tiny model: pretraining, finetuning, probes, reconstruction, tables and figures."""

import csv
import json
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from sarwmix_jax.cli.main import main
from sarwmix_jax.errors import MISTAKE, STOPPED
from sarwmix_jax.studies.claims import CLAIM
from tests.studies.studies import PLAIN, WHOLE, config_file, opened


def rows(folder: Path) -> list[dict[str, str]]:
    with (folder / "results.csv").open() as file:
        return list(csv.DictReader(file))


LONG = {
    "pretraining": WHOLE["pretraining"].replace("stop_after_steps=3", "stop_after_steps=60 checkpoint.every_epochs=1"),
    "finetuning": WHOLE["finetuning"].replace("steps=2", "steps=40 checkpoint.every_epochs=4"),
}
"""Long enough to be stopped in the middle."""


def command(config: Path, folder: Path) -> list[str]:
    """A study as a process of its own: how many devices this one has, other tests have decided."""
    return [sys.executable, "-m", "sarwmix_jax", "study", f"--config={config}", f"--workdir={folder}"]


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """A finished study that was never stopped, and its config."""
    place = tmp_path_factory.mktemp("study")
    config = config_file(place / "whole.py", **WHOLE | LONG)
    subprocess.run(command(config, place / "out"), check=True, capture_output=True)
    return place / "out", config


@pytest.mark.slow
def test_a_whole_study_has_all_scores_tables_and_figures(whole):
    folder, _ = whole
    found = {(row["measured"], row["initialisation"], row["split"]) for row in rows(folder)}
    baselines = ("class prevalence", "linear model on eight VV/VH statistics")
    assert found == {
        *(("finetuned", start, split) for start in ("weighted", "random") for split in ("validation", "test")),
        *(("probe", start, "test") for start in ("weighted", "random")),
        *(("baseline", name, "test") for name in baselines),
        ("reconstruction", "weighted", "test"),
    }
    kept = {row["samples"] for row in rows(folder) if row["measured"] in ("finetuned", "probe", "baseline")}
    assert kept == {"16"}  # half of 32
    parts = [row for row in rows(folder) if row["score"].startswith("pixel_") and row["score"].endswith("_db2")]
    assert {(row["band"], row["score"]) for row in parts} == {
        (band, f"pixel_{part}_squared_error_db2") for band in ("VH", "VV") for part in ("dark", "middle", "bright")
    }
    table = (folder / "labels.md").read_text()
    for line in ("weighted, finetuned", "gain of weighted over random, finetuned", "random, frozen features, probed"):
        assert f"| {line} |" in table
    assert "Not done yet" not in table
    for name in ("labels.png", "reconstruction.png"):
        assert (folder / name).read_bytes()[:4] == b"\x89PNG"


@pytest.mark.slow
def test_a_finished_study_runs_nothing_again(whole, capsys):
    folder, config = whole
    before = {path: path.stat().st_mtime_ns for path in folder.rglob("step.json")}
    assert main(["study", f"--config={config}", f"--workdir={folder}"]) == 0
    assert {path: path.stat().st_mtime_ns for path in folder.rglob("step.json")} == before
    assert "8 steps, 8 of them done" in capsys.readouterr().err


@pytest.mark.slow
def test_a_probe_of_random_parameters_takes_those_from_which_finetuning_starts(whole):
    """Their scores are finite and differ from those of the pretrained encoder."""
    folder, _ = whole
    scores = {
        row["initialisation"]: float(row["value"])
        for row in rows(folder)
        if (row["measured"], row["score"]) == ("probe", "ap_macro")
    }
    assert 0 < scores["random"] != scores["weighted"] > 0


def test_what_is_missing_is_stated(tmp_path, capsys):
    folder, config = tmp_path / "out", config_file(tmp_path / "plain.py", **PLAIN)
    command = ["study", f"--config={config}", f"--workdir={folder}"]
    assert main([*command, "--collect"]) == MISTAKE
    assert "has no scores yet" in capsys.readouterr().err
    assert main([*command, "--only", "scenes", "baseline/seed1"]) == 0
    assert not (folder / "labels.md").exists()
    assert main([*command, "--collect"]) == 0
    table = capsys.readouterr().out
    assert "Not done yet, and not in these figures: baseline/seed0 (open)." in table
    assert "(1 of 2 seeds)" in table


def test_listing_writes_nothing(tmp_path, capsys):
    config = config_file(tmp_path / "plain.py", **PLAIN)
    assert main(["study", f"--config={config}", f"--workdir={tmp_path / 'out'}", "--list"]) == 0
    assert "0 of 3 steps are done" in capsys.readouterr().out
    assert not (tmp_path / "out").exists()


@pytest.mark.slow
def test_a_killed_study_goes_on_with_the_same_results(whole, tmp_path):
    """SIGKILL in pretraining, SIGTERM in finetuning; all scores are those of a study that was never stopped."""
    straight, config = whole
    out = tmp_path / "out"
    stop_when(command(config, out), out / "pretrain/weighted/seed0/log.jsonl", signal.SIGKILL)
    assert list(out.rglob(CLAIM))
    log = out / "finetune/random/0.5/recipe/seed0/stage0/log.jsonl"
    assert stop_when(command(config, out), log, signal.SIGTERM) == STOPPED
    assert not list(out.rglob(CLAIM))
    subprocess.run(command(config, out), check=True, capture_output=True)
    assert json.loads((out / "results.json").read_text()) == json.loads((straight / "results.json").read_text())


def stop_when(words: list[str], log: Path, number: signal.Signals) -> int:
    """Start, and send a signal when the log has two lines of training."""
    process = subprocess.Popen(words, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    limit = time.monotonic() + 300
    while not (log.exists() and log.read_text().count('"event": "train"') > 1):
        assert time.monotonic() < limit and process.poll() is None
        time.sleep(0.02)
    process.send_signal(number)
    return process.wait(timeout=120)


def test_published_scores_of_the_data_set_stand_beside(tmp_path):
    """By label fraction, and only those of the same data set."""
    from sarwmix_jax.facts.published import PUBLISHED
    from sarwmix_jax.studies.collect import Collection
    from sarwmix_jax.studies.tables import label_table

    folder = opened(tmp_path / "out", **PLAIN | {"fractions": (0.125, 0.25, 1.0)})
    published = [each for each in PUBLISHED if each.dataset == "bigearthnet_v1"]
    table = label_table(Collection(folder.study, [], {}, {}), published)
    assert "| published: SAR-W-MixMAE | 0.6453 | 0.6616 | 0.7141 |" in table
    assert "| published: random initialisation | 0.5268 | 0.5545 | 0.6107 |" in table
    assert "published on bigearthnet_v1: 19 classes" in table
