"""A rehearsal of the published schedule's 64 epochs on synthetic scenes: how much of the time is productive."""

import signal
import time

import pytest

from sarwmix_jax.cli.main import main
from sarwmix_jax.preparation.synthetic import write_synthetic_records
from sarwmix_jax.reports.goodput import goodput, goodput_note, spent
from sarwmix_jax.training.history import read_log, training_curve
from tests.cluster import jobs

SCENES, EPOCHS = 320, 64
STEPS_PER_EPOCH = SCENES // 16
PREEMPTIONS = ((14.3, signal.SIGTERM, [75, 75]), (31.6, signal.SIGKILL, [76, -9]), (52.8, signal.SIGTERM, [75, 75]))
"""Epoch, what the second process gets, and how both end: two notices of a scheduler, and a host that is lost."""
SCHEDULE = {
    "base_lr": 1.5e-4,
    "warmup_epochs": 40.0,
    "schedule_epochs": 1024.0,
    "stop_after_epochs": float(EPOCHS),
}


@pytest.mark.soak
def test_the_schedule_with_three_preemptions(tmp_path, capsys):
    write_synthetic_records(tmp_path / "records", train=SCENES, validation=32)
    workdir = tmp_path / "run"
    settings = {f"optimizer.{name}": value for name, value in SCHEDULE.items()}
    settings |= {"checkpoint.every_epochs": 1.0, "validation.every_epochs": 4.0}
    flags = [f"--config.{name}={value}" for name, value in settings.items()]
    places = [f"--config.data.records={tmp_path}/records", f"--workdir={workdir}", f"--compiled={tmp_path}/compiled"]

    def start():
        optimised = {"JAX_DISABLE_MOST_OPTIMIZATIONS": "0", "XLA_FLAGS": "--xla_force_host_platform_device_count=1"}
        return jobs.start(["pretrain", "--config=demo", *places, *flags], 2, devices=1, **optimised)

    def steps():
        return training_curve(read_log(workdir)) if (workdir / "log.jsonl").exists() else []

    began = time.monotonic()
    for epoch, number, codes in PREEMPTIONS:
        both = start()
        while not (done := steps()) or done[-1]["step"] < epoch * STEPS_PER_EPOCH:
            assert all(each.poll() is None for each in both), [jobs.outcome(each) for each in both]
            time.sleep(0.1)
        both[1].send_signal(number)
        found = [jobs.outcome(each) for each in both]
        assert [code for code, _, _ in found] == codes, found
    assert [jobs.outcome(each)[0] for each in start()] == [0, 0]
    seconds = time.monotonic() - began
    entries = read_log(workdir)
    assert steps()[-1]["step"] == EPOCHS * STEPS_PER_EPOCH
    assert sum(entry["event"] == "start" for entry in entries) == 4
    found = spent(entries)
    assert found["lost_work"] > 0 and 0.3 < goodput(found) < 1
    (note,) = goodput_note(found)
    assert main(["report", str(workdir), f"--out={tmp_path}/report"]) == 0
    assert note in capsys.readouterr().out + "".join(path.read_text() for path in (tmp_path / "report").glob("*.md"))
    print(f"rehearsal: {len(entries)} lines, {EPOCHS * STEPS_PER_EPOCH} steps in {seconds:.0f} s with 4 starts; {note}")
