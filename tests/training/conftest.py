"""A run small enough to be started many times."""

import pytest

from sarwmix_jax.preparation.synthetic import write_synthetic_records
from sarwmix_jax.settings.config import pretraining_config, resolve
from sarwmix_jax.settings.sections import PretrainingSettings

TINY_RUN = {
    "model.image_size": 64,
    "model.embed_dim": 8,
    "model.depths": (1, 1, 1, 1),
    "model.num_heads": (1, 1, 1, 1),
    "model.decoder_dim": 8,
    "model.decoder_depth": 1,
    "model.decoder_heads": 1,
    "validation.split": "validation",
    "data.statistics": "records",
    "data.threads": 1,
    "batch.global_batch": 8,
    "optimizer.base_lr": 3e-2,
    "optimizer.warmup_epochs": 0.5,
    "optimizer.schedule_epochs": 8.0,
    "optimizer.stop_after_epochs": 2.0,
    "checkpoint.powers_of_two": False,
    "log.every_steps": 1,
}


@pytest.fixture(scope="session")
def records(tmp_path_factory):
    """A record set: 20 scenes to train on (2 steps an epoch), 6 held out."""
    folder = tmp_path_factory.mktemp("data") / "records"
    write_synthetic_records(folder, train=20, validation=6, side=64)
    return folder


@pytest.fixture(scope="session")
def run_settings(records):
    """Settings of a tiny run, with changes."""

    def make(**changes):
        config = pretraining_config()
        config.data.records = (str(records),)
        config.update_from_flattened_dict(TINY_RUN)
        config.update_from_flattened_dict({name.replace("__", "."): value for name, value in changes.items()})
        return resolve(config, PretrainingSettings)

    return make
