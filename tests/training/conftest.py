"""A run small enough to be started many times."""

import numpy as np
import pytest

from sarwmix_jax.data.records import Contract, Record
from sarwmix_jax.preparation.synthetic import write_synthetic_records
from sarwmix_jax.settings.config import finetuning_config, pretraining_config, resolve
from sarwmix_jax.settings.sections import FinetuningSettings, PretrainingSettings
from tests.record_sets import write_records

TINY_RUN = {
    "model.image_size": 64,
    "model.windows": (8, 8, 4, 2),
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


CLASSES = ("dark", "bright", "even")
SEQUENCES = 8


def labelled_scene(number):
    """Scene `number` of 64 pixels a side: two of each acquisition, labelled by what its number is divisible by."""
    level_db = -18 + 8 * (number % 2)
    noise = np.random.default_rng(number).normal(0, 1, (2, 64, 64))
    labels = (CLASSES[number % 2], *(("even",) if number % 3 == 0 else ()))
    product = f"S1A_IW_GRDH_1SDV_20170613T{number // 2:06d}_33UUP_0_{number}"
    image = (level_db + noise + np.array([0.0, 7.0])[:, None, None]).astype(np.float32)
    return Record(image, f"scene_{number:02d}", product, labels=labels)


def scene_contract(**changes):
    known = {"name": "scenes", "version": "1.0.0", "source": "test", "quantity": "sigma0", "height": 64, "width": 64}
    return Contract(**known | changes)


@pytest.fixture(scope="session")
def labelled_records(tmp_path_factory):
    """20 labelled scenes of 10 acquisitions to train on, 8 held out; dark, bright, and some of both also even."""
    folder = tmp_path_factory.mktemp("data") / "labelled"
    splits = {"train": map(labelled_scene, range(20)), "validation": map(labelled_scene, range(20, 28))}
    write_records(folder, scene_contract(classes=CLASSES), splits)
    return folder


@pytest.fixture(scope="session")
def pairs(tmp_path_factory):
    """8 pairs to train on, 4 held out: of two bright dates, or flooded with a dark later date."""
    folder = tmp_path_factory.mktemp("data") / "pairs"
    lines = ["name,split,first,second,label"]
    splits = {"train": [], "validation": []}
    for number in range(SEQUENCES + SEQUENCES // 2):
        split, label = "train" if number < SEQUENCES else "validation", number % 2
        dates = splits[split]
        lines.append(f"{number}__a__b__{label},{split},{len(dates)},{len(dates) + 1},{label}")
        dates += [labelled_scene(4 * number + 1), labelled_scene(4 * number + 3 - label)]
    write_records(folder, scene_contract(), splits)
    (folder / "pairs.csv").write_text("\n".join(lines) + "\n")
    return folder


@pytest.fixture(scope="session")
def finetuning_settings(labelled_records):
    """Settings of a tiny run on labelled scenes, with changes."""

    def make(**changes):
        config = finetuning_config()
        config.data.records = (str(labelled_records),)
        config.update_from_flattened_dict(TINY_RUN)
        config.update_from_flattened_dict({name.replace("__", "."): value for name, value in changes.items()})
        return resolve(config, FinetuningSettings)

    return make
