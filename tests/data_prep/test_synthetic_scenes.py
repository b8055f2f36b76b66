from sarwmix_jax.data.sources import open_records


def test_the_command_writes_and_refuses(run_here, tmp_path):
    counts = ["--train", "3", "--validation", "1", "--test", "0", "--side", "32"]
    done = run_here("synthetic_scenes.py", "--out", tmp_path / "out", *counts)
    assert done.returncode == 0, done.stderr
    assert len(open_records(tmp_path / "out", "train+validation")) == 4
    again = run_here("synthetic_scenes.py", "--out", tmp_path / "out", *counts)
    assert again.returncode == 2
    assert again.stderr.startswith("error: ") and again.stderr.count("\n") == 1
    assert "already exists" in again.stderr
