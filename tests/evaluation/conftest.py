"""A tiny pretraining model and records to evaluate it on."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from sarwmix_jax.data.sources import open_records
from sarwmix_jax.evaluation.held_out import Pretrained
from sarwmix_jax.models.mixmae import MixMAE
from sarwmix_jax.preparation.synthetic import write_synthetic_records
from sarwmix_jax.settings.model import ModelSettings
from tests.evaluation import commands
from tests.support import model_arrays, pretraining_task

SMALL = ModelSettings(
    image_size=64,
    embed_dim=8,
    depths=(1, 1, 1, 1),
    num_heads=(1, 1, 1, 1),
    decoder_dim=8,
    decoder_depth=1,
    decoder_heads=1,
)


def small_model(norm_pix=False, seed=0):
    graphdef, params, fixed = model_arrays(MixMAE, SMALL)
    noise = np.random.default_rng(0)
    params = jax.tree.map(
        lambda leaf: jnp.asarray(np.asarray(leaf) + 0.05 * noise.normal(size=leaf.shape).astype(np.float32)), params
    )
    return Pretrained(pretraining_task(SMALL, norm_pix=norm_pix, seed=seed), graphdef, params, fixed)


@pytest.fixture(scope="session")
def scenes(tmp_path_factory):
    folder = tmp_path_factory.mktemp("data") / "scenes"
    write_synthetic_records(folder, train=12, validation=6, side=60)
    return folder


@pytest.fixture
def training_scenes(scenes):
    return open_records(scenes, "train")


@pytest.fixture
def held_out_scenes(scenes):
    return open_records(scenes, "validation")


@pytest.fixture(scope="session")
def place(tmp_path_factory):
    """A folder for what several tests of commands share."""
    return tmp_path_factory.mktemp("commands")


@pytest.fixture(scope="session")
def labelled(place):
    """19 classes; 13 records in the test split, which no number of devices above 1 divides."""
    return commands.write_labelled(place / "labelled", "bigearthnet_v2", train=24, validation=10, test=13)


@pytest.fixture(scope="session")
def pairs(place):
    return commands.write_pairs(place / "pairs", train=8, validation=5, test=13)


@pytest.fixture(scope="session")
def converted(place):
    """The golden files as the converter gives them, by name."""
    return {name: commands.convert(name, place / f"released_{name}") for name in commands.OPTIONS}


@pytest.fixture(scope="session")
def finetuned(place, labelled, converted):
    """A run of three steps from the released pretrained model."""
    return commands.finetune(labelled, place / "finetuned", init_from=converted["pretrain"])
