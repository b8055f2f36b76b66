"""Probing inside a pretraining run: its scores are those of the probe command's parts, and faults come at the start."""

import numpy as np
import pytest

from sarwmix_jax.checkpoints.loading import load_parameters
from sarwmix_jax.data.sources import open_records
from sarwmix_jax.errors import UserError
from sarwmix_jax.evaluation.features import encode_with, labels_of
from sarwmix_jax.evaluation.probes import Samples, neighbour_probe
from sarwmix_jax.metrics.scores import multilabel_scores
from sarwmix_jax.preparation.synthetic import write_synthetic_records
from sarwmix_jax.settings.config import pretraining_config, resolve
from sarwmix_jax.settings.sections import PretrainingSettings
from sarwmix_jax.training.history import read_log, training_curve
from sarwmix_jax.training.loop import train
from tests.training.conftest import TINY_RUN


@pytest.fixture(scope="module")
def records(tmp_path_factory):
    folder = tmp_path_factory.mktemp("data") / "records"
    write_synthetic_records(folder, train=40, validation=14, side=64, seed=1)
    return str(folder)


def settings(records, **changes):
    config = pretraining_config()
    config.data.records = (records,)
    config.update_from_flattened_dict(TINY_RUN | changes)
    return resolve(config, PretrainingSettings)


@pytest.mark.slow
def test_scores_come_when_due_and_are_those_of_the_checkpoint(records, tmp_path):
    given = {"probe.records": records, "probe.train": "train[:50%]", "probe.every_epochs": 2.0}
    train(settings(records, **given, **{"optimizer.stop_after_epochs": 3.2}), tmp_path)
    lines = training_curve(read_log(tmp_path), "probe")
    assert [line["epoch"] for line in lines] == [2.0, 3.2]  # 5 steps an epoch; always before the end
    sources = [open_records(records, split) for split in ("train[:50%]", "validation")]
    encode = encode_with(load_parameters(tmp_path))
    near, held = (Samples(encode(source, "x"), labels_of(source, "multilabel")) for source in sources)
    classes = sources[0].contract.classes
    found = neighbour_probe(near, held, held.features, len(classes), (20,))
    expected = multilabel_scores(found.probabilities, held.truth, classes, 0.5).summary
    assert len(near.features) == 20 and lines[-1]["neighbours"] == 20
    for name, value in expected.items():
        assert lines[-1][name] == pytest.approx(value, abs=2e-3), name  # matrix products of another precision
    assert np.isfinite(expected["ap_macro"])


def test_records_without_labels_or_split_are_refused_before_the_first_step(records, tmp_path):
    with pytest.raises(UserError, match="no split 'holdout'"):
        train(settings(records, **{"probe.records": records, "probe.split": "holdout"}), tmp_path)
    with pytest.raises(UserError, match=r"probe.task is 'flood'; use one of multilabel, single_label"):
        settings(records, **{"probe.records": records, "probe.task": "flood"})
    assert not (tmp_path / "log.jsonl").exists()
