import json
from dataclasses import dataclass

import pytest

from sarwmix_jax.data.records import RecordError
from sarwmix_jax.errors import UserError
from sarwmix_jax.preparation.workers import Work, run
from sarwmix_jax.preparation.writer import write_file


@dataclass(frozen=True)
class Numbers:
    """Writes a file of so many bytes and gives their number."""

    number: int
    broken: bool = False

    def __call__(self, folder):
        if self.broken:
            raise RecordError(f"source {self.number} is damaged")
        (folder / "a").mkdir(exist_ok=True)
        write_file(folder / "a" / f"{self.number}.txt", b"x" * self.number)
        return self.number


@dataclass(frozen=True)
class Unit:
    name: str
    number: int
    broken: bool
    count: int = 1


def units(count: int, broken=()) -> list[Unit]:
    return [Unit(f"u{n}", n, n in broken) for n in range(count)]


def prepare(some, out, settings="as they are", **options):
    work = Work(
        fingerprint=f"{settings} {len(some)}",
        units=some,
        make=lambda unit: Numbers(unit.number, unit.broken),
        finish=lambda folder, outcomes: {"total": sum(outcomes.values())},
    )
    return run(work, out, **options)


@pytest.mark.parametrize("workers", [1, 2])
def test_all_files_and_the_report_are_there(tmp_path, workers):
    report = prepare(units(5), tmp_path / "out", workers=workers)
    assert report["total"] == 10 and json.loads((tmp_path / "out" / "preparation.json").read_text()) == report
    for n in range(5):
        assert (tmp_path / "out" / "a" / f"{n}.txt").read_bytes() == b"x" * n
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out"]
    assert prepare(units(5, broken=range(5)), tmp_path / "out") == report  # finished: nothing is done again


def test_a_stopped_run_goes_on_and_other_work_is_refused(tmp_path):
    with pytest.raises(UserError, match="source 3 is damaged; repair it"):
        prepare(units(5, broken={3}), tmp_path / "out")
    with pytest.raises(UserError, match="was started with other"):
        prepare(units(5), tmp_path / "out", settings="others")
    with pytest.raises(UserError, match="was started with other"):
        prepare(units(6), tmp_path / "out")
    assert prepare(units(5, broken={0, 1, 2}), tmp_path / "out")["total"] == 10  # those three are done


def test_parts_are_put_together(tmp_path):
    assert prepare(units(5), tmp_path / "out", part=(2, 2)) is None
    with pytest.raises(UserError, match="3 of 5 shards are not in"):
        prepare(units(5), tmp_path / "out", merge=True)
    assert prepare(units(5), tmp_path / "out", part=(1, 2)) is None
    assert prepare(units(5), tmp_path / "out", merge=True)["total"] == 10


def test_what_is_there_is_not_replaced(tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "mine.txt").write_text("")
    with pytest.raises(UserError, match="already exists"):
        prepare(units(2), tmp_path / "out")


def test_leftovers_of_a_killed_write_are_cleared(tmp_path):
    with pytest.raises(UserError, match="is damaged"):
        prepare(units(3, broken={2}), tmp_path / "out")
    for name in (".2.txt.tmp", ".gone.txt.tmp"):
        (tmp_path / "out.partial" / "records" / "a" / name).write_text("half")
    prepare(units(3), tmp_path / "out")
    assert sorted(path.name for path in (tmp_path / "out" / "a").iterdir()) == ["0.txt", "1.txt", "2.txt"]
