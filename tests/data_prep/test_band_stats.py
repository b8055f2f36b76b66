import json

import pytest

SCRIPT = "band_stats.py"


@pytest.fixture
def records(run_here, tmp_path):
    counts = ["--train", "6", "--validation", "2", "--test", "0", "--side", "32"]
    assert run_here("synthetic_scenes.py", "--out", tmp_path / "records", *counts).returncode == 0
    return tmp_path / "records"


def test_the_numbers_are_those_of_the_contract_for_any_workers(run_here, records, tmp_path):
    done = run_here(SCRIPT, records, "--out", tmp_path / "one.json")
    assert done.returncode == 0, done.stderr
    assert "split train: 6 records, dB" in done.stdout
    found = json.loads((tmp_path / "one.json").read_text())
    promised = json.loads((records / "contract.json").read_text())["statistics"]
    for number, band in enumerate(("VH", "VV")):
        assert found["bands"][band]["mean"] == pytest.approx(promised["mean_db"][number], abs=1e-9)
        assert found["bands"][band]["std"] == pytest.approx(promised["std_db"][number], abs=1e-9)
    assert run_here(SCRIPT, records, "--out", tmp_path / "two.json", "--workers=2").returncode == 0
    assert (tmp_path / "two.json").read_bytes() == (tmp_path / "one.json").read_bytes()


def test_dry_run_and_mistakes(run_here, records, tmp_path):
    done = run_here(SCRIPT, records, "--split=train+validation", "--dry-run", "--out", tmp_path / "none.json")
    assert done.returncode == 0 and "would read 8 records" in done.stdout
    assert not (tmp_path / "none.json").exists()
    done = run_here(SCRIPT, records, "--split=moon")
    assert done.returncode == 2 and "no split 'moon' in" in done.stderr
