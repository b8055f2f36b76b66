import hashlib

import numpy as np
import pytest

from sarwmix_jax.data.sources import open_records
from sarwmix_jax.errors import UserError
from sarwmix_jax.facts.bands import STATISTICS
from sarwmix_jax.facts.labels import CLASSES
from sarwmix_jax.preparation.landscapes import COVERS, LANDSCAPES, LOOKS, SIDE, make_scene
from sarwmix_jax.preparation.synthetic import write_synthetic_records

SMALL_MEAN_DB = [[-18.6800, -12.5564], [-16.3562, -10.4203], [-18.7309, -12.4557]]
SMALL_MIDDLE_DB = [-14.9754, -18.9999, -11.3822]


@pytest.fixture(scope="module", params=sorted(LANDSCAPES))
def landscape(request):
    return request.param


@pytest.fixture(scope="module")
def scenes(landscape):
    return [make_scene(np.random.default_rng([0, number]), landscape=landscape) for number in range(200)]


def test_scenes_look_like_backscatter(scenes):
    images = np.stack([scene.image_db for scene in scenes])
    real = STATISTICS["bigearthnet_v2"]
    assert images.shape == (200, 2, SIDE, SIDE) and images.dtype == np.float32
    assert np.isfinite(images).all() and images.min() > -50 and images.max() < 30
    np.testing.assert_allclose(images.mean((0, 2, 3)), real.mean_db, atol=1.5)
    np.testing.assert_allclose(images.std((0, 2, 3)), real.std_db, atol=1.6)
    assert 5 < np.mean(images[:, 1] - images[:, 0]) < 8


def test_speckle_has_the_stated_looks_and_is_independent(scenes):
    """Without point targets the power is that without speckle, times gamma noise of variance 1 / looks."""
    speckle = []
    for scene in scenes:
        pointless = ~np.isin(scene.cover, [n for n, cover in enumerate(COVERS) if cover.points > 0])
        ratio = 10 ** ((scene.image_db - scene.speckle_free_db) / 10)
        speckle.append(np.where(pointless & (scene.speckle_free_db[1] < -15), ratio, np.nan))
    values = np.stack(speckle)
    assert np.isfinite(values).sum() > 100_000
    assert np.nanmean(values) == pytest.approx(1, abs=0.01)
    assert 1 / np.nanvar(values) == pytest.approx(LOOKS, rel=0.02)
    for one, other in ((values[..., 1:], values[..., :-1]), (values[:, 0], values[:, 1])):  # neighbours, bands
        assert abs(np.nanmean((one - 1) * (other - 1))) < 0.01 / LOOKS


def test_large_parcels_are_longer_than_a_cell():
    """Of 32-pixel cells, those of a single cover and the borders in them, by landscape."""
    pure, borders = {}, {}
    for name in LANDSCAPES:
        covers = np.stack([make_scene(np.random.default_rng([0, n]), 128, name).cover for n in range(60)])
        cells = covers.reshape(60, 4, 32, 4, 32).transpose(0, 1, 3, 2, 4).reshape(-1, 32, 32)
        pure[name] = np.mean([cell.min() == cell.max() for cell in cells])
        borders[name] = np.mean(cells[:, :, 1:] != cells[:, :, :-1])
    assert pure["large_parcels"] > 2 * pure["small_parcels"]
    assert borders["large_parcels"] < 0.6 * borders["small_parcels"]


def test_scenes_of_small_parcels_stay_what_they_were():
    """Figures measured on them before there were others hold."""
    images = np.stack([make_scene(np.random.default_rng([0, number])).image_db for number in range(3)])
    np.testing.assert_allclose(images.mean(axis=(2, 3)), SMALL_MEAN_DB, atol=1e-4)
    np.testing.assert_allclose(images[:, 1, 60, 60], SMALL_MIDDLE_DB, atol=1e-4)


def test_a_landscape_that_does_not_exist(tmp_path):
    with pytest.raises(UserError, match="no landscape 'alps': give one of small_parcels, large_parcels"):
        write_synthetic_records(tmp_path / "a", train=2, landscape="alps")
    assert not list(tmp_path.iterdir())


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
