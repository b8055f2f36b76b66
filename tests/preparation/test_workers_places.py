"""Where the work in progress lies: file systems without locks, refusals that leave nothing, damaged notes."""

import errno
import fcntl

import pytest

from sarwmix_jax.errors import UserError
from sarwmix_jax.preparation.workers import Work, run

from .test_workers_sets import prepare, units


@pytest.mark.parametrize("code", [errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOSYS])
def test_without_locks_it_works_with_a_warning(monkeypatch, capsys, tmp_path, code):
    def refuse(*_):
        raise OSError(code, "no locks here")

    monkeypatch.setattr(fcntl, "flock", refuse)
    assert prepare(units(3), tmp_path / "out", part=(1, 1)) is None
    assert prepare(units(3), tmp_path / "out", merge=True)["total"] == 3
    lines = capsys.readouterr().err.splitlines()
    assert lines == [f"{tmp_path}/out.partial: no locks on this file system; let no other run write there"] * 2


def test_another_failure_of_the_lock_is_one_line(monkeypatch, tmp_path):
    def refuse(*_):
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(fcntl, "flock", refuse)
    with pytest.raises(UserError, match=r"cannot write .*Input/output error"):
        prepare(units(3), tmp_path / "out")


@pytest.mark.parametrize("options", [{}, {"workers": 2}, {"part": (1, 1)}, {"merge": True}, {"workers": 0}])
def test_refused_before_anything_was_made_leaves_nothing(tmp_path, options):
    with pytest.raises(UserError):
        prepare(units(3, broken=range(3)), tmp_path / "out", **options)
    assert not list(tmp_path.iterdir())


def test_what_was_made_or_begun_by_others_stays(tmp_path):
    with pytest.raises(UserError, match="source 2 is damaged"):
        prepare(units(3, broken=[2]), tmp_path / "out")
    assert (tmp_path / "out.partial" / "progress" / "u1.json").is_file()
    with pytest.raises(UserError, match="was started with other metadata"):
        prepare(units(4), tmp_path / "out")
    assert (tmp_path / "out.partial" / "progress" / "u1.json").is_file()
    assert prepare(units(3), tmp_path / "out")["total"] == 3


def test_a_part_leaves_the_folder_to_the_others_that_work_in_it(tmp_path):
    lock = tmp_path / "out.partial" / "lock"
    others = []

    def make(_):
        others.append(lock.open("w"))  # as another part would
        fcntl.flock(others[0], fcntl.LOCK_SH)
        raise UserError("refused")

    with pytest.raises(UserError, match="refused"):
        run(Work("plan", units(2), make, lambda *_: {}), tmp_path / "out", part=(1, 2))
    assert (tmp_path / "out.partial" / "plan.json").is_file()
    others[0].close()


BROKEN = pytest.mark.parametrize("content", ['{"plan": ', "", "\0\0"])


@BROKEN
def test_a_damaged_plan_is_refused_in_one_line(tmp_path, content):
    prepare(units(2), tmp_path / "out", part=(1, 2))
    (tmp_path / "out.partial" / "plan.json").write_text(content)
    with pytest.raises(UserError, match=r"plan.json is damaged; remove it and run again"):
        prepare(units(2), tmp_path / "out")


@BROKEN
def test_what_a_damaged_note_is_about_is_made_again_with_one_line_once(tmp_path, capsys, content):
    prepare(units(5), tmp_path / "out", part=(1, 2))
    note = tmp_path / "out.partial" / "progress" / "u2.json"
    note.write_text(content)
    for _ in range(2):
        assert prepare(units(5), tmp_path / "out", part=(1, 2)) is None
    lines = [line for line in capsys.readouterr().err.splitlines() if "damaged" in line]
    assert lines == [f"{note} is damaged; what it notes is made again"]
    note.write_text(content)
    assert prepare(units(5), tmp_path / "out", part=(2, 2)) is None
    with pytest.raises(UserError, match=r"u2.json is damaged; remove it and run again"):
        prepare(units(5), tmp_path / "out", merge=True)
    assert prepare(units(5), tmp_path / "out")["total"] == 10
