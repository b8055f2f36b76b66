import hashlib

import numpy as np
import pytest

from sarwmix_jax.data.sources import open_records
from sarwmix_jax.facts.bands import STATISTICS
from sarwmix_jax.facts.labels import CLASSES
from sarwmix_jax.preparation.synthetic import COVERS, LOOKS, SIDE, make_scene, write_synthetic_records


@pytest.fixture(scope="module")
def scenes():
    return [make_scene(np.random.default_rng([0, number])) for number in range(200)]


def test_scenes_look_like_backscatter(scenes):
    images = np.stack([scene.image_db for scene in scenes])
    real = STATISTICS["bigearthnet_v2"]
    assert images.shape == (200, 2, SIDE, SIDE) and images.dtype == np.float32
    assert np.isfinite(images).all() and images.min() > -50 and images.max() < 30
    np.testing.assert_allclose(images.mean((0, 2, 3)), real.mean_db, atol=1.5)
    np.testing.assert_allclose(images.std((0, 2, 3)), real.std_db, atol=1.6)
    assert 5 < np.mean(images[:, 1] - images[:, 0]) < 8


def test_speckle_has_the_stated_looks_and_is_independent(scenes):
    """In scenes without texture the power of a field has variance mean^2 / looks."""
    flat = {cover.name for cover in COVERS if cover.texture_db <= 0.3}
    variation = []
    correlation = []
    for scene in scenes:
        arable = np.isin(scene.cover, [n for n, cover in enumerate(COVERS) if cover.name in flat])
        power = 10 ** (scene.image_db[1] / 10)
        for row in range(0, SIDE, 12):
            for column in range(0, SIDE, 12):
                block = (slice(row, row + 12), slice(column, column + 12))
                values = power[block]
                # One field only: no edge in the smoothed block.
                halves = [values[:6].mean(), values[6:].mean(), values[:, :6].mean(), values[:, 6:].mean()]
                if arable[block].all() and max(halves) / min(halves) < 1.2:
                    variation.append(values.var() / values.mean() ** 2)
                    centred = values / values.mean() - 1
                    correlation.append(np.mean(centred[:, 1:] * centred[:, :-1]) / centred.var())
    assert len(variation) > 200
    assert 1 / np.median(variation) == pytest.approx(LOOKS, rel=0.1)
    assert abs(np.median(correlation)) < 0.05


def test_labels_are_classes_that_are_there(scenes):
    for scene in scenes:
        assert scene.labels and set(scene.labels) <= set(CLASSES)
    seen = {name for scene in scenes for name in scene.labels}
    assert len(seen) == len(COVERS) + 2
    assert 2 < np.mean([len(scene.labels) for scene in scenes]) < 8


def test_records_follow_the_seed(tmp_path):
    digest = {}
    for name, seed in (("a", 0), ("b", 0), ("c", 1)):
        contract = write_synthetic_records(tmp_path / name, train=6, validation=3, seed=seed, side=64)
        files = sorted((tmp_path / name).glob("*.array_record*"))
        digest[name] = [hashlib.sha256(path.read_bytes()).hexdigest() for path in files]
        assert contract.records == {"train": 6, "validation": 3}
    assert digest["a"] == digest["b"] != digest["c"]
    train, validation = (open_records(tmp_path / "a", split) for split in ("train", "validation"))
    assert train.contract.classes == CLASSES
    assert train[0]["image"].shape == (2, 64, 64)
    assert not np.array_equal(train[0]["image"], validation[0]["image"])
