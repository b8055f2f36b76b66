"""The strong PyTorch peer against the golden numbers and against the plain one."""

from dataclasses import replace

import numpy as np
import pytest

from sarwmix_jax.settings.model import published
from tests.support import GOLDEN, TINY, golden, standardised

torch = pytest.importorskip("torch")
pytestmark = pytest.mark.torch

WIDE = replace(
    TINY,
    embed_dim=16,
    depths=(1, 2, 2, 1),
    num_heads=(2, 4, 4, 8),
    windows=(16, 8, 8, 4),
    decoder_dim=24,
    decoder_heads=3,
)
"""Windows of several cells in the first stages, where the mask matters, and unlike numbers of heads."""

WIDE_384 = replace(WIDE, image_size=384, windows=published("base", 384).windows, depths=(1, 1, 1, 1))
HALF = np.array([1, 0, 0, 1, 1, 0, 1, 0, 0, 1, 1, 0, 0, 1, 0, 1], np.float32)
FIVE = np.array([0, 0, 1, 0, 1, 0, 0, 1, 0, 0, 0, 1, 0, 1, 0, 0], np.float32)


@pytest.fixture(scope="module", autouse=True)
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def both(name: str, settings, *arguments, **changes):
    """The plain and the strong model with the same drawn weights."""
    from benchmarks import torch_reference, torch_strong

    plain = getattr(torch_reference, f"Torch{name}")(settings, *arguments)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for key, parameter in plain.named_parameters():
            if parameter.requires_grad:
                parameter.copy_(torch.randn(parameter.shape, generator=generator) * (0.5 if "table" in key else 0.2))
    strong = getattr(torch_strong, f"Strong{name}")(settings, *arguments, **changes)
    strong.load_state_dict(plain.state_dict(), strict=True)
    return plain, strong


def noise(*shape: int, seed: int = 0) -> "torch.Tensor":
    return torch.from_numpy(np.random.default_rng(seed).standard_normal(shape, np.float32))


@pytest.mark.parametrize(
    ("peer", "changes"), [("eager", {}), ("strong", {}), ("strong", {"attention": "products"})], ids=str
)
def test_golden_numbers(peer, changes):
    from benchmarks import sample
    from benchmarks.torch_golden import TOLERANCES, golden_differences

    assert sample.TINY == TINY
    expected = {"encoder_out": 2e-5, "x_rec": 5e-5, "loss": 1e-5, "largest gradient error": 1e-4}
    assert TOLERANCES == {**expected, "logits": 2e-5}
    differences = golden_differences(peer, GOLDEN, **changes)
    assert set(differences) == set(expected)
    for name, difference in differences.items():
        assert difference < TOLERANCES[name], name


def test_stored_gradients_are_all_but_one():
    from benchmarks.torch_reference import TorchMixMAE

    stored = {name.removeprefix("grad/") for name in golden("pretrain_tiny") if name.startswith("grad/")}
    trained = {name for name, parameter in TorchMixMAE(TINY).named_parameters() if parameter.requires_grad}
    assert trained - stored == {"decoder_pred.weight"}
    assert stored <= trained


def test_golden_check_sees_a_wrong_model(tmp_path):
    from benchmarks.torch_golden import TOLERANCES, golden_differences

    wrong = golden("pretrain_tiny")
    wrong["encoder_out"] = wrong["encoder_out"] + np.float32(1e-3)
    wrong["grad/mask_token"] = wrong["grad/mask_token"] * np.float32(1.01)
    np.savez(tmp_path / "pretrain_tiny.npz", **wrong)
    (tmp_path / "pretrain_tiny.pth").symlink_to(GOLDEN / "pretrain_tiny.pth")
    differences = golden_differences("strong", tmp_path)
    exceeded = {name for name, difference in differences.items() if difference > TOLERANCES[name]}
    assert exceeded == {"encoder_out", "largest gradient error"}


def test_golden_odd_batch_with_five_cells_masked():
    from benchmarks.torch_golden import released_weights
    from benchmarks.torch_reference import per_channel_weights, pretraining_loss
    from benchmarks.torch_strong import StrongMixMAE

    stored, model = golden("pretrain_tiny"), StrongMixMAE(TINY)
    model.load_state_dict(released_weights(GOLDEN / "pretrain_tiny.pth"), strict=True)
    images = torch.from_numpy(np.array(standardised(stored["x_db"][:3])))
    mask = torch.from_numpy(stored["odd_mask"])
    assert mask.sum() == 5
    sequences = model(images, mask).detach()
    np.testing.assert_allclose(sequences[..., ::32], stored["odd_x_rec_slice"], rtol=0, atol=5e-5)
    loss = pretraining_loss(model, images, per_channel_weights(images), mask)
    assert abs(loss.item() - stored["odd_loss"]) < 1e-5


def test_golden_classifier():
    from benchmarks.torch_golden import released_weights
    from benchmarks.torch_strong import StrongClassifier

    stored, model = golden("finetune_tiny"), StrongClassifier(TINY, 19)
    model.load_state_dict(released_weights(GOLDEN / "finetune_tiny.pth"), strict=True)
    logits = model(torch.from_numpy(np.array(standardised(stored["x_db"]))))
    np.testing.assert_allclose(logits.detach(), stored["logits"], rtol=0, atol=2e-5)
    labels = torch.from_numpy(stored["y"]).float()
    loss = torch.nn.functional.multilabel_soft_margin_loss(logits, labels)
    assert abs(loss.item() - stored["loss"]) < 1e-5
    loss.backward()
    gradients = {name: value for name, value in stored.items() if name.startswith("grad/")}
    parameters = dict(model.named_parameters())
    for name, expected in gradients.items():
        actual = parameters[name.removeprefix("grad/")].grad
        np.testing.assert_allclose(actual, expected, rtol=0, atol=1e-4 * np.abs(expected).max(), err_msg=name)


MASKS_384 = np.random.default_rng(5).permutation(144) < 72


@pytest.mark.parametrize("attention", ["fused", "products"])
@pytest.mark.parametrize(
    ("settings", "mask", "batch"),
    [(WIDE, HALF, 4), (WIDE, FIVE, 3), (WIDE_384, MASKS_384.astype(np.float32), 2)],
    ids=["half", "odd_five", "384"],
)
def test_loss_reconstruction_and_gradients_of_the_plain_model(settings, mask, batch, attention):
    from benchmarks.torch_reference import pretraining_loss

    plain, strong = both("MixMAE", settings, attention=attention)
    side = settings.image_size
    images, weights = noise(batch, 2, side, side), noise(batch, 2, side, side, seed=1).abs() + 1
    mask, losses = torch.from_numpy(mask), []
    for model in (plain, strong):
        losses.append(pretraining_loss(model, images, weights, mask))
        losses[-1].backward()
    assert abs(losses[1].item() / losses[0].item() - 1) < 2e-6
    with torch.no_grad():
        expected, actual = plain.reconstruct(images, mask), strong.reconstruct(images, mask)
    np.testing.assert_allclose(actual, expected, rtol=0, atol=2e-5 * float(expected.abs().max()))
    for (name, p), q in zip(plain.named_parameters(), strong.parameters(), strict=True):
        if p.requires_grad:
            atol = 1e-4 * max(float(p.grad.abs().max()), 1e-3)
            np.testing.assert_allclose(q.grad, p.grad, rtol=0, atol=atol, err_msg=name)


@pytest.mark.parametrize("rate", [0.0, 0.5])
@pytest.mark.parametrize("settings", [WIDE, WIDE_384], ids=["128", "384"])
def test_classifier_with_and_without_drop_path(settings, rate):
    settings = replace(settings, drop_path=rate)
    plain, strong = both("Classifier", settings, 7)
    images = noise(5, 2, settings.image_size, settings.image_size)
    draws = torch.rand((sum(settings.depths), 2, 5), generator=torch.Generator().manual_seed(3)) if rate else None
    expected, actual = plain(images, draws).detach(), strong(images, draws).detach()
    np.testing.assert_allclose(actual, expected, rtol=0, atol=2e-5 * float(expected.abs().max()))
    without = plain(images).detach()
    assert (float((without - expected).abs().max()) > 1e-2) == bool(rate)


def test_drop_path_by_hand():
    from benchmarks.torch_reference import TorchClassifier, drop_path

    branch, draws = torch.ones(3, 2, 2), torch.tensor([0.1, 0.25, 0.9])
    expected = torch.tensor([0.0, 4 / 3, 4 / 3])[:, None, None].expand(3, 2, 2)
    torch.testing.assert_close(drop_path(branch, draws, 0.25), expected)
    assert drop_path(branch, None, 0.25) is branch
    with torch.device("meta"):
        model = TorchClassifier(published("base", drop_path=0.1), 19)
    rates = [block.rate for stage in model.layers for block in stage.blocks]
    np.testing.assert_allclose(rates, 0.1 * np.arange(24) / 23)


def test_masks_are_added_only_where_a_window_holds_several_cells():
    from benchmarks.torch_strong import forbidden_pairs

    mask, base = torch.from_numpy(HALF), published("base")
    pairs = [forbidden_pairs(mask, base, stage) for stage in range(4)]
    assert pairs[0] is None
    assert [tuple(p.shape) for p in pairs[1:]] == [(4, 64, 64), (1, 64, 64), (1, 16, 16)]
    same = HALF[:, None] == HALF[None, :]
    np.testing.assert_array_equal(pairs[3][0].numpy() == 0, same)
    all_384 = torch.from_numpy(MASKS_384.astype(np.float32))
    assert all(forbidden_pairs(all_384, published("base", 384), stage) is not None for stage in range(4))
    assert all(forbidden_pairs(None, base, stage) is None for stage in range(4))
