import hashlib

import pytest

from sarwmix_jax.data.sources import open_records

SCRIPT = "synthetic_scenes.py"
COUNTS = ["--train=7", "--validation=2", "--test=0", "--side=32", "--records-per-shard=3"]


def digests(folder):
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in sorted(folder.iterdir())}


def test_any_number_of_workers_and_parts_writes_the_same_bytes(run_here, tmp_path):
    done = run_here(SCRIPT, "--out", tmp_path / "one", *COUNTS)
    assert done.returncode == 0, done.stderr
    assert "train 7, validation 2" in done.stdout
    train, validation = (open_records(tmp_path / "one", split) for split in ("train", "validation"))
    assert [str(train[n]["patch_id"]) for n in range(7)] == [f"synthetic_train_{n:06d}" for n in range(7)]
    assert len(validation) == 2
    done = run_here(SCRIPT, "--out", tmp_path / "two", *COUNTS, "--workers=2")
    assert done.returncode == 0, done.stderr
    for part in ("--shard=1/2", "--shard=2/2", "--merge"):
        assert run_here(SCRIPT, "--out", tmp_path / "parts", *COUNTS, part).returncode == 0
    whole = digests(tmp_path / "one")
    assert sum("array_record" in name for name in whole) == 4
    assert whole == digests(tmp_path / "two") == digests(tmp_path / "parts")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["one", "parts", "two"]


def test_what_is_there_is_kept(run_here, tmp_path):
    out = tmp_path / "out"
    assert run_here(SCRIPT, "--out", out, *COUNTS).returncode == 0
    before = digests(out)
    assert run_here(SCRIPT, "--out", out, *COUNTS).returncode == 0
    other = run_here(SCRIPT, "--out", out, *COUNTS, "--seed=1")
    assert other.returncode == 2
    assert other.stderr == f"error: {out} already exists; remove it or choose another --out\n"
    assert digests(out) == before


def test_a_dry_run_reports_and_writes_nothing(run_here, tmp_path):
    done = run_here(SCRIPT, "--out", tmp_path / "out", *COUNTS, "--dry-run")
    assert done.returncode == 0, done.stderr
    assert "would write 9 records in 4 files" in done.stdout and "train 7, validation 2" in done.stdout
    assert "2x32x32 dB" in done.stdout
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    "wrong, message",
    [
        ("--train=-1", "train -1: give 0 or more"),
        ("--seed=-1", "seed -1: give 0 or more"),
        ("--side=0", "side 0: give 1 or more"),
        ("--workers=0", "workers 0: at least 1 is needed"),
        ("--records-per-shard=0", "--records-per-shard=0: at least 1 is needed"),
        ("--shard=3/2", "--shard=3/2: write it as 1/3, 2/3 or 3/3, or auto"),
    ],
)
def test_a_mistake_is_one_line(run_here, tmp_path, wrong, message):
    done = run_here(SCRIPT, "--out", tmp_path / "out", *COUNTS, wrong)
    assert (done.returncode, done.stderr) == (2, f"error: {message}\n")
    assert not (tmp_path / "out").exists()


def test_no_scenes_at_all(run_here, tmp_path):
    done = run_here(SCRIPT, "--out", tmp_path / "out", "--train=0", "--validation=0", "--test=0")
    assert done.returncode == 2 and "no scenes: train, validation, test are all 0; give" in done.stderr
