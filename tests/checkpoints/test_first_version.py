"""A checkpoint as the first version wrote it, with the losses that followed there."""

import json
import tarfile

import numpy as np
import pytest

import sarwmix_jax
from sarwmix_jax.checkpoints.loading import load_parameters
from sarwmix_jax.conversion.export import export
from sarwmix_jax.preparation.synthetic import write_synthetic_records
from sarwmix_jax.settings.config import pretraining_config, resolve
from sarwmix_jax.settings.sections import PretrainingSettings
from sarwmix_jax.training.history import read_log, training_curve
from sarwmix_jax.training.loop import train
from tests.support import GOLDEN

STORED = json.loads((GOLDEN / "first_version_run.json").read_text())


@pytest.fixture
def workdir(tmp_path, monkeypatch):
    """The work directory of a run with accumulation, drop path, dropout, flips and clipping, after 4 of 8 steps."""
    monkeypatch.chdir(tmp_path)
    with tarfile.open(GOLDEN / "first_version_run.tar.xz") as archive:
        archive.extractall(tmp_path / "run", filter="data")
    return tmp_path / "run"


def test_it_loads_and_converts(workdir):
    loaded = load_parameters(workdir)
    assert (loaded.step, loaded.kind, loaded.settings.bands) == (4, "pretraining", ("VH", "VV"))
    assert loaded.description["norm_pix"] is True and loaded.settings.window_sides == (8, 8, 4, 2)
    images = np.random.default_rng(0).normal(-15, 3, (2, 2, 64, 64))
    images[:, 0] -= 6
    assert np.isfinite(sarwmix_jax.load(workdir).reconstruct(images).image_db).all()
    exported = export(workdir)
    assert exported.step == 4 and exported.tensors["decoder_pred.weight"].shape == (2048, 4)


@pytest.mark.slow
def test_it_goes_on_with_the_same_losses_and_without_override(workdir):
    write_synthetic_records("records", train=20, validation=6, side=64)
    config = pretraining_config()
    config.update_from_flattened_dict(
        {n: tuple(v) if isinstance(v, list) else v for n, v in STORED["settings"].items()}
    )
    config.optimizer.stop_after_steps = 8
    train(resolve(config, PretrainingSettings), workdir)
    curve = {entry["step"]: (entry["loss"], entry["grad_norm"]) for entry in training_curve(read_log(workdir))}
    expected = {step: values for step, *values in STORED["train"] if step > 4}
    assert set(curve) == set(expected) == {5, 6, 7, 8}
    # equal bit for bit on the processor that computed them; others round otherwise
    np.testing.assert_allclose([curve[step] for step in expected], list(expected.values()), rtol=1e-5)
