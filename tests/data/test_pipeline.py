import os
import subprocess
import sys
import textwrap
from pathlib import Path

import numpy as np
import pytest

import sarwmix_jax
from sarwmix_jax.data.held_out import EvaluationInput
from sarwmix_jax.data.pipeline import Reading, TrainingInput, steps_per_epoch
from sarwmix_jax.data.records import Record
from sarwmix_jax.data.sources import open_records
from sarwmix_jax.errors import UserError
from tests.record_sets import write_records

from .conftest import toy_contract


def take(source, steps: int, batch: int = 8, **options) -> list[dict]:
    data = TrainingInput(source, batch, 3, **options)
    got = [next(data) for _ in range(steps)]
    data.close()
    return got


def test_a_batch_holds_the_images_of_the_records_it_names(make_source):
    source = make_source(50)
    data = TrainingInput(source, 8, seed=3)
    assert steps_per_epoch(len(source), 8) == 6
    for _ in range(8):
        batch = next(data)
        assert batch["image"].shape == (8, 2, 4, 4) and batch["image"].dtype == np.float16
        assert batch["record"].dtype == np.int64
        np.testing.assert_allclose(batch["image"][:, 0, 0, 0], -20 - batch["record"] / 8)
        np.testing.assert_allclose(batch["image"][:, 1, 3, 3], -13 - batch["record"] / 8)


@pytest.mark.parametrize("start", [1, 5, 6, 7, 600])
def test_resuming_at_a_step_equals_continuing(make_source, start):
    source = make_source(50)
    if start < 100:
        whole = take(source, start + 4)
    else:
        long = TrainingInput(source, 8, 3, threads=0)
        whole = [next(long) for _ in range(start + 4)]
    resumed = take(source, 4, start_step=start)
    for expected, got in zip(whole[start:], resumed, strict=True):
        np.testing.assert_array_equal(got["record"], expected["record"])
        np.testing.assert_array_equal(got["image"], expected["image"])


@pytest.mark.parametrize("processes", [2, 4])
def test_processes_hold_contiguous_blocks_of_the_same_global_batches(make_source, processes):
    source = make_source(50)
    whole = take(source, 14)
    parts = [take(source, 14, process_index=p, process_count=processes) for p in range(processes)]
    for step, batch in enumerate(whole):
        for name in ("record", "image"):
            joined = np.concatenate([part[step][name] for part in parts])
            np.testing.assert_array_equal(joined, batch[name])


def test_threads_and_prefetch_change_nothing(make_source):
    source = make_source(50)
    plain = take(source, 20, threads=0, prefetch=1)
    for options in ({"threads": 1}, {"threads": 4, "prefetch": 9}):
        for expected, got in zip(plain, take(source, 20, **options), strict=True):
            np.testing.assert_array_equal(got["record"], expected["record"])


def test_several_sources_are_mixed_by_weight(make_source):
    first, second = make_source(40, "first"), make_source(60, "second", split="validation")
    data = TrainingInput([first, second], 8, 0, weights=[3, 1])
    assert steps_per_epoch(100, 8) == 12
    for _ in range(20):
        batch = next(data)
        of_second = batch["record"] >= 40
        assert of_second.sum() == 2
        number = np.where(of_second, batch["record"] - 40 + 60, batch["record"])
        np.testing.assert_allclose(batch["image"][:, 0, 0, 0].astype(float), -20 - number / 8)
    data.close()


def masked_source(tmp_path, count: int = 20):
    rng = np.random.default_rng(0)
    records = [
        Record(np.full((2, 4, 4), -10.0 - n / 8), f"p{n}", valid_pixels=rng.random((4, 4)) < 0.5) for n in range(count)
    ]
    write_records(tmp_path / "masked", toy_contract(has_valid_pixels=True), {"train": records})
    return open_records(tmp_path / "masked", "train"), np.stack([r.valid_pixels for r in records])


def test_masks_come_along(tmp_path, make_source):
    source, masks = masked_source(tmp_path)
    for batch in take(source, 3):
        np.testing.assert_array_equal(batch["valid_pixels"], masks[batch["record"]])
    (batch,) = list(EvaluationInput(source, 32))
    np.testing.assert_array_equal(batch["valid_pixels"][:20], masks)


def test_a_source_without_masks_counts_as_valid_when_mixed(tmp_path, make_source):
    source, masks = masked_source(tmp_path)
    data = TrainingInput([make_source(20), source], 8, 0, weights=[1, 1])
    for _ in range(4):
        batch = next(data)
        for record, valid in zip(batch["record"], batch["valid_pixels"], strict=True):
            np.testing.assert_array_equal(valid, True if record < 20 else masks[record - 20])
    data.close()


@pytest.mark.parametrize("read", [lambda s: take(s, 4), lambda s: list(EvaluationInput(s, 8))])
def test_a_damaged_file_is_one_line_also_from_reading_threads(make_source, read):
    source = make_source(20)
    path = source._files[1].path
    path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(UserError, match="00001-of-00003 cannot be read"):
        read(source)


@pytest.mark.parametrize("processes", [1, 2, 4])
def test_evaluation_gives_every_record_once_and_marks_padding(make_source, processes):
    source = make_source(21)
    parts = [list(EvaluationInput(source, 8, process_index=p, process_count=processes)) for p in range(processes)]
    assert [len(part) for part in parts] == [3] * processes
    joined = [{k: np.concatenate([part[b][k] for part in parts]) for k in parts[0][b]} for b in range(3)]
    valid = np.concatenate([batch["valid"] for batch in joined])
    record = np.concatenate([batch["record"] for batch in joined])
    assert valid.tolist() == [True] * 21 + [False] * 3
    assert record[valid].tolist() == list(range(21))
    for batch in joined:
        np.testing.assert_allclose(batch["image"][:, 0, 0, 0], -20 - batch["record"] / 8)
        assert np.argmax(batch["labels"], axis=1).tolist() == (batch["record"] % 3).tolist()


def test_evaluation_can_be_run_again(make_source):
    data = EvaluationInput(make_source(10), 4)
    assert len(data) == 3
    assert [b["record"].tolist() for b in data] == [b["record"].tolist() for b in data]


def test_mistakes_are_named(make_source, tmp_path):
    source = make_source(10)
    records = [Record(np.full((2, 4, 6), -10.0 - n), f"p{n}") for n in range(9)]
    write_records(tmp_path / "wide", toy_contract(name="wide", width=6, classes=()), {"train": records})
    wide = open_records(tmp_path / "wide", "train")
    with pytest.raises(UserError, match="10 records are fewer than one global batch of 16"):
        TrainingInput(source, 16, 0)
    with pytest.raises(UserError, match="global batch 9 is not a multiple of 2 processes; use 8"):
        TrainingInput(source, 9, 0, process_count=2)
    with pytest.raises(UserError, match=r"toy \(VH, VV in dB, 4x4\) and wide \(VH, VV in dB, 4x6\) differ; prepare"):
        TrainingInput([source, wide], 8, 0, weights=[1, 1])
    with pytest.raises(UserError, match="no record set given"):
        TrainingInput([], 8, 0)
    with pytest.raises(UserError, match="batch 0"):
        EvaluationInput(source, 0)
    assert Reading(1, 4).block(8) == slice(2, 4)


def test_the_package_initialises_no_backend_on_import():
    code = """
        import sarwmix_jax.data.pipeline
        from jax._src import xla_bridge
        assert not xla_bridge.backends_are_initialized()
    """
    subprocess.run([sys.executable, "-c", textwrap.dedent(code)], check=True, timeout=300)


def test_worker_processes_give_the_same_batches_and_initialise_no_backend(make_source, tmp_path):
    source = make_source(50)
    expected = np.stack([batch["record"] for batch in take(source, 9, start_step=2)])
    np.save(tmp_path / "expected.npy", expected)
    script = tmp_path / "run.py"
    script.write_text(
        textwrap.dedent(f"""
        import os
        import numpy as np
        from sarwmix_jax.data.pipeline import TrainingInput
        from sarwmix_jax.data.sources import RecordSource, open_records

        class Watched(RecordSource):
            def read_batch(self, indices, *options):
                from jax._src import xla_bridge
                state = "backend" if xla_bridge.backends_are_initialized() else "none"
                with open({str(tmp_path)!r} + f"/worker-{{os.getpid()}}", "a") as log:
                    log.write(state + "\\n")
                return super().read_batch(indices, *options)

        if __name__ == "__main__":
            source = open_records({str(tmp_path / "toy")!r}, "train")
            watched = Watched(source.contract, source.split, source._files)
            data = TrainingInput(watched, 8, 3, start_step=2, workers=2)
            got = np.stack([next(data)["record"] for _ in range(9)])
            data.close()
            np.testing.assert_array_equal(got, np.load({str(tmp_path / "expected.npy")!r}))
            print("main", os.getpid())
        """)
    )
    environment = os.environ | {"PYTHONPATH": str(Path(sarwmix_jax.__file__).parents[1])}
    done = subprocess.run([sys.executable, str(script)], capture_output=True, text=True, timeout=300, env=environment)
    assert done.returncode == 0, done.stderr
    main = done.stdout.split()[-1]
    logs = {path.name.removeprefix("worker-"): path.read_text().split() for path in tmp_path.glob("worker-*")}
    assert len(logs) == 2 and main not in logs
    assert {state for states in logs.values() for state in states} == {"none"}
