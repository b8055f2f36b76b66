import pytest

from .conftest import REPOSITORY

SCRIPTS = sorted(path.name for path in (REPOSITORY / "data_prep").glob("*.py"))


@pytest.mark.parametrize("script", SCRIPTS)
def test_help_shows_the_workers_and_a_mistake_is_one_line(run_here, script):
    done = run_here(script, "--help")
    assert done.returncode == 0 and "--dry-run" in done.stdout
    assert "(default: 1)" in done.stdout.split("--workers WORKERS")[-1].split("--")[0]
    wrong = run_here(script, "--workers=many")
    assert wrong.returncode == 2
    assert wrong.stderr == f"error: argument --workers: invalid int value: 'many'; see python {script} --help\n"
