"""A run of two processes that is killed again and again is in the end the run that was not, bit for bit."""

import contextlib
import itertools
import signal
import sys
import time
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from sarwmix_jax.checkpoints.integrity import complete_steps
from sarwmix_jax.checkpoints.reading import Reader
from sarwmix_jax.training.history import read_log
from tests.cluster import jobs
from tests.soak import COUNT, SEED
from tests.training.conftest import records  # noqa: F401

KILLS = max(3, COUNT * 3 // 20) // 3 * 3
SETTINGS = {
    "batch__global_batch": 16,  # of 20 records: one step an epoch
    "batch__mix_group": 2,
    "validation__split": None,
    "optimizer__schedule_epochs": 1e6,
    "optimizer__stop_after_epochs": 1e6,
    "checkpoint__every_epochs": 5.0,
}
WAYS = ("SIGKILL to one", "SIGKILL to both", "SIGTERM to one")
"""In turn; the last one saves the run's last step."""


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    return tmp_path_factory.mktemp("killed")


def start(records, place, name, **more):  # noqa: F811
    """Both processes of a run, each with two devices, in the work directory of this name."""
    flags = [f"--config.data.records={records}", f"--workdir={place / name}", f"--compiled={place / 'compiled'}"]
    program = (sys.executable, "-m", "tests.cluster.recorded", str(place / f"{name}.records"))
    command = ["pretrain", "--config=demo", *flags, *jobs.changes(**SETTINGS | more)]
    return jobs.start(command, 2, program=program)


def starts(workdir):
    return sum(entry["event"] == "start" for entry in read_log(workdir)) if (workdir / "log.jsonl").exists() else 0


def await_(condition, both, seconds=400):
    """Wait until something holds, while both processes work."""
    latest = time.monotonic() + seconds
    while not condition():
        lost = time.monotonic() > latest or any(each.poll() is not None for each in both)
        assert not lost, [jobs.outcome(each, 5) for each in both]
        time.sleep(0.002)


def saving(workdir, since):
    """The step that is being saved, if one is, in a save that began after this time."""
    for path in (workdir / "checkpoints").glob("*tmp*"):
        with contextlib.suppress(FileNotFoundError):
            if path.stat().st_ctime >= since:
                return path.name.partition(".")[0]
    return None


def await_save(workdir, both, since, count):
    """Wait until the run is inside its save of this number from now on."""
    for _ in range(count):
        before = saving(workdir, since)
        await_(lambda before=before: saving(workdir, since) not in (None, before), both)


def kill(both, way, first):
    """Exit codes after one or both processes got a signal."""
    number = signal.SIGTERM if way == "SIGTERM to one" else signal.SIGKILL
    for each in both[first : first + 1] if way.endswith("one") else both:
        each.send_signal(number)
    found = [jobs.outcome(each) for each in both]
    codes = [code for code, _, _ in found]
    lost = [-9, 76] if first == 0 else [76, -9]
    expected = {"SIGTERM to one": [75, 75], "SIGKILL to one": lost, "SIGKILL to both": [-9, -9]}[way]
    assert codes == expected and not any("Traceback" in err for _, _, err in found), (way, first, found)


def by_step(pairs):
    """Values by step, of which a step that was repeated has the same each time."""
    found = {}
    for step, value in pairs:
        assert found.setdefault(step, value) == value, step
    return found


def losses(workdir):
    return by_step((e["step"], (e["loss"], e["grad_norm"])) for e in read_log(workdir) if e["event"] == "train")


def record_sequence(place, name, last):
    """Records of every step by process and step, from 0."""
    files = [Path(f"{place / name}.records.{number}") for number in range(2)]
    parts = [by_step(line.split() for line in file.read_text().splitlines() if line.count(" ")) for file in files]
    return [[part[str(step)] for step in range(last)] for part in parts]


def assert_same(place, one, other, last):
    """Losses and records of all steps and all arrays of the last checkpoint are the same in both runs."""
    assert complete_steps(place / one / "checkpoints")[-1] == complete_steps(place / other / "checkpoints")[-1] == last
    found, expected = ({s: v for s, v in losses(place / name).items() if s <= last} for name in (one, other))
    assert found == expected and sorted(found) == list(range(1, last + 1))
    assert record_sequence(place, one, last) == record_sequence(place, other, last)
    readers = [Reader(place / name / "checkpoints") for name in (one, other)]
    assert readers[0].contents(last) == readers[1].contents(last)


@pytest.mark.slow
@pytest.mark.damage
def test_a_run_killed_at_random_moments_is_the_run_that_was_not(place, records):  # noqa: F811
    rng, counts, run = np.random.default_rng(SEED), Counter(), place / "run"
    for turn, way in zip(range(KILLS), itertools.cycle(WAYS)):
        began, number, first = time.time(), starts(run), int(rng.integers(2))
        both = start(records, place, "run")
        await_(lambda number=number: starts(run) > number, both)
        if turn % 2 == 0:
            await_save(run, both, began, int(rng.integers(1, 3)))
        else:
            time.sleep(rng.uniform(0, 4))
        step = saving(run, began)
        seconds = time.time() - began
        kill(both, way, first)
        where = f"inside the save of step {step}" if step else "outside of saves"
        counts[way, "inside a save" if step else "outside of saves"] += 1
        print(f"kill {turn}: {way} ({first}) after {seconds:.2f} s, {where}", flush=True)
    assert sum(count for (_, what), count in counts.items() if what == "inside a save") >= KILLS // 3
    last = complete_steps(run / "checkpoints")[-1]
    whole = start(records, place, "whole", optimizer__stop_after_steps=last)
    assert [jobs.outcome(each)[0] for each in whole] == [0, 0]
    assert_same(place, "run", "whole", last)
    print(f"kills: {dict(counts)}, {last} steps")


@pytest.mark.soak
def test_a_stopped_run_whose_processes_share_the_state_of_the_optimiser_goes_on(place, records):  # noqa: F811
    """Its decoder's blocks, stacked, are large enough to be divided; in checkpoints, one by one, they are not."""
    shared = {"optimizer__shard_state": True, "model__decoder_dim": 64, "model__decoder_depth": 8}
    for name, end in (("undisturbed", 7), ("stopped", 4), ("stopped", 7)):
        both = start(records, place, name, optimizer__stop_after_steps=end, **shared)
        found = [jobs.outcome(each) for each in both]
        assert [code for code, _, _ in found] == [0, 0], found
        assert "optimizer.shard_state: each of 4 devices holds" in found[0][2]
    assert_same(place, "stopped", "undisturbed", 7)
