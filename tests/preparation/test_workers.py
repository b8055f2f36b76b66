import dataclasses
import os
import signal
import time
from pathlib import Path

import pytest

from sarwmix_jax.errors import UserError
from sarwmix_jax.preparation.workers import run_tasks


@dataclasses.dataclass(frozen=True)
class Touch:
    """A unit of work that leaves a file with the number of its process."""

    path: Path

    def __call__(self) -> None:
        self.path.write_text(str(os.getpid()))


@dataclasses.dataclass(frozen=True)
class SlowTouch(Touch):
    def __call__(self) -> None:
        time.sleep(0.05)
        super().__call__()


@dataclasses.dataclass(frozen=True)
class Fail:
    message: str

    def __call__(self) -> None:
        raise UserError(self.message)


@dataclasses.dataclass(frozen=True)
class Killed:
    def __call__(self) -> None:
        os.kill(os.getpid(), signal.SIGKILL)


@pytest.mark.parametrize("workers", [1, 2])
def test_every_task_runs_once(tmp_path, workers):
    assert (
        list(run_tasks(((Touch(tmp_path / str(n)), 1) for n in range(25)), workers, "touched", total=25)) == [None] * 25
    )
    processes = {path.read_text() for path in tmp_path.iterdir()}
    assert len(list(tmp_path.iterdir())) == 25
    assert (processes == {str(os.getpid())}) == (workers == 1)


@pytest.mark.parametrize("workers", [1, 2])
def test_the_error_of_a_task_arrives_and_the_rest_is_dropped(tmp_path, workers):
    tasks = [(Fail("this one"), 1), *((SlowTouch(tmp_path / str(n)), 1) for n in range(200))]
    with pytest.raises(UserError, match=r"^this one$"):
        list(run_tasks(tasks, workers, "tried", total=201))
    assert len(list(tmp_path.iterdir())) < 200


def test_a_killed_worker_is_one_line():
    with pytest.raises(UserError, match="a worker process was killed, perhaps for lack of memory; run again with"):
        list(run_tasks([(Killed(), 1)], 2, "killed", total=1))


def test_no_worker_is_refused():
    with pytest.raises(UserError, match="workers 0: at least 1 is needed"):
        list(run_tasks([], 0, "nothing", total=0))
