"""The Python interface on converted golden files: the published numbers, batching, and errors."""

from dataclasses import replace

import numpy as np
import pytest

import sarwmix_jax
from sarwmix_jax.conversion.convert import ConversionRequest, convert, write
from sarwmix_jax.conversion.hints import Hints
from sarwmix_jax.errors import UserError
from sarwmix_jax.inference import model as model_module
from sarwmix_jax.inference.batching import batches, mirrored_chunks
from tests.support import GOLDEN, golden

ATOL = 2e-5
X_DB = golden("pretrain_tiny")["x_db"]


def converted(folder, name: str, image_size=None, windows=None, **hints):
    request = ConversionRequest(GOLDEN / f"{name}_tiny.pth", Hints(**hints), image_size=image_size, windows=windows)
    write(convert(request), folder)
    return sarwmix_jax.load(folder)


@pytest.fixture(scope="module")
def pretrained(tmp_path_factory):
    folder = tmp_path_factory.mktemp("pretrained") / "out"
    return converted(folder, "pretrain", statistics="bigearthnet_v2", decoder_heads=4, norm_pix=True)


@pytest.fixture(scope="module")
def classifier(tmp_path_factory):
    return converted(tmp_path_factory.mktemp("classifier") / "out", "finetune", statistics="bigearthnet_v2")


@pytest.fixture(scope="module")
def flood(tmp_path_factory):
    folder = tmp_path_factory.mktemp("flood") / "out"
    return converted(folder, "flood", statistics="bigearthnet_v1", kind="flood", tiling="released")


def pairs_db(name: str):
    """Golden pairs in dB, zeros as the published system reads them: (before, after)."""
    linear = golden("flood_tiny")[name]
    return np.moveaxis(10 * np.log10(np.where(linear == 0, np.float32(1e-6), linear)), 1, 0)


def test_classifier(classifier):
    numbers = golden("finetune_tiny")
    np.testing.assert_allclose(classifier.classify(X_DB), numbers["logits"], rtol=0, atol=ATOL)
    np.testing.assert_allclose(classifier.encode(X_DB), numbers["features"], rtol=0, atol=ATOL)
    assert classifier.kind == "classifier" and classifier.bands == ("VH", "VV")


def test_at_another_size(tmp_path):
    numbers = golden("resize_128_to_256")
    model = converted(tmp_path, "finetune", 256, (16, 16, 16, 8), statistics="bigearthnet_v2")
    np.testing.assert_allclose(model.classify(numbers["x_db"]), numbers["logits"], rtol=0, atol=1e-4)


@pytest.mark.parametrize("patch_op", ["avg", "max"])
def test_flood_in_both_tilings_and_with_nine_tiles(flood, patch_op):
    numbers = golden("flood_tiny")
    before, after = pairs_db("pair_linear")
    given = flood.flood(before, after, patch_op)
    np.testing.assert_allclose(given, numbers[f"logits_{patch_op}"], rtol=0, atol=ATOL)
    two_band = flood.flood(before, after, patch_op, tiling="two_band")
    np.testing.assert_allclose(two_band, numbers[f"logits_{patch_op}_two_band_tiles"], rtol=0, atol=ATOL)
    large = flood.flood(*pairs_db("pair_linear_384"), patch_op)
    np.testing.assert_allclose(large, numbers[f"logits_{patch_op}_384"], rtol=0, atol=ATOL)


def test_reconstruction(pretrained):
    numbers = golden("pretrain_tiny")
    mask = numbers["mask"]
    first, second = np.split(numbers["x_rec"], 2)
    expected = np.where(mask[:, None] == 1, first, second[::-1])
    expected = expected.reshape(4, 4, 4, 32, 32, 2).transpose(0, 5, 1, 3, 2, 4).reshape(4, 2, 128, 128)
    rebuilt = pretrained.reconstruct(X_DB, mask)
    np.testing.assert_allclose(rebuilt.prediction, expected, rtol=0, atol=ATOL)
    np.testing.assert_array_equal(pretrained.reconstruct(X_DB, mask.reshape(4, 4)).mask, mask)
    raw = pretrained.reconstruct(X_DB, mask, norm_pix=False)
    deviation, mean = np.array([5.4501, 5.0019])[:, None, None], np.array([-19.1966, -12.5144])[:, None, None]
    np.testing.assert_allclose(raw.image_db, rebuilt.prediction * deviation + mean, rtol=0, atol=1e-4)
    cell = (X_DB[1, :, 32:64, 96:128].astype(np.float64) - mean) / deviation
    predicted = rebuilt.prediction[1, :, 32:64, 96:128] * np.sqrt(cell.var(ddof=1) + 1e-6) + cell.mean()
    np.testing.assert_allclose(rebuilt.image_db[1, :, 32:64, 96:128], predicted * deviation + mean, rtol=0, atol=1e-4)


def test_masks_are_drawn_by_seed(pretrained):
    first, again, other = (pretrained.reconstruct(X_DB, seed=seed).mask for seed in (1, 1, 2))
    np.testing.assert_array_equal(first, again)
    assert first.sum() == 8 and not np.array_equal(first, other)


def test_batching_changes_nothing(pretrained, monkeypatch):
    """Partners stay together, whatever the internal batch."""
    whole, features = pretrained.reconstruct(X_DB, seed=3).prediction, pretrained.encode(X_DB)
    monkeypatch.setattr(model_module, "BATCH", 2)
    np.testing.assert_allclose(pretrained.reconstruct(X_DB, seed=3).prediction, whole, rtol=0, atol=1e-5)
    np.testing.assert_allclose(pretrained.encode(X_DB), features, rtol=0, atol=1e-5)


@pytest.mark.parametrize("count", range(2, 12))
def test_chunks_keep_partners_together_and_lose_nothing(count):
    for limit in (1, 2, 4, 32):
        chunks = list(mirrored_chunks(count, limit))
        assert set(np.concatenate([rows[:kept] for rows, kept in chunks])) == set(range(count))
        for rows, kept in chunks:
            assert len(rows) <= max(2, limit)
            assert all(rows[::-1] != rows)  # nobody is its own partner
            assert all(rows[::-1][:kept] == np.where(2 * rows[:kept] == count - 1, 0, count - 1 - rows[:kept]))


def test_a_single_image_would_be_mixed_with_itself(pretrained):
    with pytest.raises(UserError, match="images_db holds one image, which would be mixed with itself; give at least 2"):
        pretrained.reconstruct(X_DB[:1])


def test_the_middle_image_of_three_is_mixed_with_the_first(pretrained):
    three, two = pretrained.reconstruct(X_DB[:3], seed=3), pretrained.reconstruct(X_DB[[1, 0]], seed=3)
    np.testing.assert_allclose(three.prediction[1], two.prediction[0], rtol=0, atol=ATOL)


def test_features_of_a_pretraining_checkpoint_are_the_classifiers(pretrained, classifier):
    """The golden classifier starts from the golden pretraining encoder."""
    np.testing.assert_allclose(pretrained.encode(X_DB), classifier.encode(X_DB), rtol=0, atol=ATOL)


def test_pyramid_maps_are_the_stages_outputs_row_by_row(classifier):
    maps = classifier.encode_pyramid(X_DB)
    width = classifier.settings.embed_dim
    assert [each.shape[1:] for each in maps] == [(32 >> stage, 32 >> stage, width << stage) for stage in range(4)]
    np.testing.assert_allclose(maps[-1].mean(axis=(1, 2)), classifier.encode(X_DB), rtol=0, atol=1e-5)
    changed = X_DB[:1].copy()
    changed[:, :, 64:, :64] += 3  # the lower left quarter
    moved = np.abs(classifier.encode_pyramid(changed)[0] - maps[0][:1]).max(axis=(0, 3)) > 1e-4
    assert moved[16:, :16].all()  # windows of the first stage lie within quarters
    assert moved.sum() == 16 * 16


def test_native_patches_are_resized_as_in_training(classifier):
    stored = golden("resize_120_to_128")
    np.testing.assert_allclose(
        classifier.encode(stored["db"], resize=True), classifier.encode(stored["resized"]), rtol=0, atol=1e-4
    )
    with pytest.raises(UserError, match="120 x 120 pixels; this checkpoint takes 128 x 128, give resize=True"):
        classifier.encode(stored["db"])


def test_sizes_of_batches():
    assert list(batches(70, 32)) == [(0, 32, 32), (32, 64, 32), (64, 70, 8)]
    assert list(batches(1, 32)) == [(0, 1, 1)] and list(batches(3, 3)) == [(0, 3, 3)]


def test_other_statistics(tmp_path):
    request = ConversionRequest(GOLDEN / "finetune_tiny.pth", Hints(statistics="-19.1966,-12.5144,5.4501,5.0019"))
    write(convert(request), tmp_path / "out")
    own, other = sarwmix_jax.load(tmp_path / "out"), sarwmix_jax.load(tmp_path / "out", statistics="bigearthnet_v1")
    assert own.statistics.std_db == (5.4501, 5.0019) and other.statistics.std_db == (3.1672, 2.9644)
    with pytest.raises(UserError, match="bigearthnet_v1, bigearthnet_v2"):
        sarwmix_jax.load(tmp_path / "out", statistics="v3")
    with pytest.raises(UserError, match="no checkpoint in"):
        sarwmix_jax.load(tmp_path / "absent")


GOOD = np.full((1, 2, 128, 128), -15.0)
TWO = np.concatenate([GOOD, GOOD])
BAD_INPUTS = {
    "three axes": (GOOD[0], r"shape \(2, 128, 128\)"),
    "three bands": (np.full((1, 3, 128, 128), -15.0), "bands VH, VV"),
    "other side": (GOOD[..., :120, :120], "takes 128 x 128"),
    "no images": (GOOD[:0], "shape"),
    "linear": (10 ** (GOOD / 10), "linear power"),
    "standardised": (np.random.default_rng(0).standard_normal(GOOD.shape), "standardised"),
    "nan": (np.where(np.arange(128) == 3, np.nan, GOOD), "256 values that are not finite"),
    "text": (np.full(GOOD.shape, "a"), "not numbers"),
    "complex": (GOOD + 0j, "not numbers"),
}


@pytest.mark.parametrize("case", BAD_INPUTS)
def test_wrong_input(classifier, case):
    images, why = BAD_INPUTS[case]
    for method in (classifier.encode, classifier.classify):
        with pytest.raises(UserError, match=why):
            method(images)


def patches_db(count: int) -> np.ndarray:
    """Land whose VV lies 7 dB above VH, as between the published means."""
    levels_db = np.array([-19.2, -12.2])[:, None, None]
    return (levels_db + 2 * np.random.default_rng(0).standard_normal((count, 2, 128, 128))).astype(np.float32)


def uses(pretrained, classifier, flood, **check):
    """Every method that takes images, by name, as a function of two images."""
    return {
        "encode": lambda db: classifier.encode(db, **check),
        "encode_pyramid": lambda db: classifier.encode_pyramid(db, **check)[-1],
        "classify": lambda db: classifier.classify(db, **check),
        "flood before": lambda db: flood.flood(db, patches_db(2), **check),
        "flood after": lambda db: flood.flood(patches_db(2), db, **check),
        "reconstruct": lambda db: pretrained.reconstruct(db, **check).prediction,
    }


def test_swapped_bands_are_refused_unless_the_user_knows_better(pretrained, classifier, flood):
    swapped, unchecked = patches_db(2)[:, ::-1], uses(pretrained, classifier, flood, check=False)
    for name, use in uses(pretrained, classifier, flood).items():
        why = r"VH lies (6|7)\.. dB above VV .*the bands are swapped; swap them, or give check=False"
        with pytest.raises(UserError, match=why) as refusal:
            use(swapped)
        assert "before" not in name or "before_db" in str(refusal.value)
        assert "after" not in name or "after_db" in str(refusal.value)
        np.testing.assert_array_equal(unchecked[name](patches_db(2)), use(patches_db(2)))
        assert not np.allclose(unchecked[name](swapped), use(patches_db(2)), atol=1e-3)
        for fault, words in ((np.nan, "not finite"), (np.inf, "not finite")):
            with pytest.raises(UserError, match=words):
                unchecked[name](np.where(np.arange(128) == 3, fault, swapped))
        with pytest.raises(UserError, match="give"):
            unchecked[name](swapped[0])


def test_one_image_is_judged_as_a_record_among_others_is(classifier):
    """A calm sea and a bright town by themselves are no swapped and no standardised bands."""
    for levels_db in ((-23.5, -25.0), (-1.5, 3.0), (-30.0, -30.0)):
        image = patches_db(1) + np.array(levels_db)[:, None, None] - np.array([-19.2, -12.2])[:, None, None]
        assert np.isfinite(classifier.encode(image)).all()
    with pytest.raises(UserError, match="the bands are swapped"):
        classifier.encode(patches_db(1)[:, ::-1])


@pytest.mark.usefixtures("unchecked")
def test_wrong_use(pretrained, classifier, flood):
    pair = np.full((1, 2, 200, 300), -15.0)
    for call, why in [
        (lambda: pretrained.classify(GOOD), "kind pretraining; a classifier"),
        (lambda: classifier.flood(pair, pair), "kind classifier; a flood"),
        (lambda: classifier.reconstruct(GOOD), "a pretraining checkpoint is needed"),
        (lambda: flood.flood(pair, pair[..., :150]), "give the same"),
        (lambda: flood.flood(pair[..., :100], pair[..., :100]), "smaller than a tile of 128"),
        (lambda: flood.flood(pair, pair, "mean"), "use one of avg, max"),
        (lambda: flood.flood(pair, pair, tiling="three"), "use one of released, two_band"),
        (lambda: pretrained.reconstruct(TWO, mask=np.ones(15)), "give 16 values"),
        (lambda: pretrained.reconstruct(TWO, mask=np.full(16, 0.5)), "0 or 1"),
    ]:
        with pytest.raises(UserError, match=why):
            call()


def test_reconstruction_needs_to_know_the_targets(tmp_path):
    model = converted(tmp_path, "pretrain", statistics="bigearthnet_v2", decoder_heads=4)
    with pytest.raises(UserError, match="give norm_pix"):
        model.reconstruct(TWO)


def test_a_checkpoint_that_does_not_fit_its_description(classifier):
    loaded = classifier._loaded
    for changes, why in [
        ({"classes": 18}, "head/bias"),
        ({"model": loaded.description["model"] | {"novelty": 1}}, "unknown model settings"),
        ({"kind": "segmentation"}, "cannot be used here"),
    ]:
        with pytest.raises(UserError, match=why):
            _ = replace(loaded, description=loaded.description | changes).structure
