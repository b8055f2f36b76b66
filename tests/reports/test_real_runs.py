"""A report on real runs: pretraining, continued, finetuning from it, beside a log of the published system."""

import pytest

from sarwmix_jax.preparation.synthetic import write_synthetic_records
from sarwmix_jax.reports.report import report
from sarwmix_jax.reports.runs import read_runs
from sarwmix_jax.settings.config import finetuning_config, pretraining_config, resolve
from sarwmix_jax.settings.sections import FinetuningSettings, PretrainingSettings
from sarwmix_jax.training.loop import train
from tests.reports import logs
from tests.training.conftest import TINY_RUN


def settings(config, kind, records, **changes):
    """Settings of a tiny run, with changes."""
    config.data.records = (str(records),)
    config.update_from_flattened_dict(TINY_RUN | {name.replace("__", "."): value for name, value in changes.items()})
    return resolve(config, kind)


@pytest.mark.slow
def test_one_report_has_real_runs_and_a_published_log(tmp_path):
    records, base = tmp_path / "records", tmp_path / "base"
    write_synthetic_records(records, train=20, validation=6, side=64)
    for steps in (2, 4):  # two starts of two steps, an epoch each
        train(
            settings(pretraining_config(), PretrainingSettings, records, optimizer__stop_after_steps=steps),
            base,
        )
    tuning = {"init_from": str(base / "checkpoints" / "2"), "optimizer__stop_after_steps": 2}
    train(settings(finetuning_config(), FinetuningSettings, records, **tuning), tmp_path / "tuned")
    old = logs.write(tmp_path / "published" / "log.txt", logs.published(macro_AP=0.3))
    places = [str(base), str(tmp_path / "tuned"), old]
    runs = read_runs(places)
    assert [(run.name, run.task, run.epochs) for run in runs] == [
        ("base", "pretraining", 2.0),
        ("tuned", "multilabel", 1.0),
        ("published", "finetuning (published log)", 3.0),
    ]
    assert (runs[0].starts, runs[0].steps, runs[0].status, runs[0].datasets) == (
        2,
        4,
        "finished",
        ("synthetic_scenes",),
    )
    assert runs[0].device_hours > 0
    assert (runs[1].pretraining_epoch, runs[1].selected) == (1.0, "weighted")
    assert not any("not placed" in note for note in runs[1].notes)
    table, files = report(places, tmp_path / "report", "validation/ap_macro")
    assert "VALIDATION" in table and {"loss.png", "pretraining_epochs.png", "throughput.png"} <= set(files)
