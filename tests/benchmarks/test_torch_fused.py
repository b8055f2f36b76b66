"""The peers' switches: fused attention against the golden numbers and against the plain form; drop path."""

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


def both(settings, classes=None):
    """The plain model and the one with fused attention, with the same drawn weights."""
    from benchmarks.torch_program import make_model

    plain = make_model("eager", settings, classes)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for key, parameter in plain.named_parameters():
            if parameter.requires_grad:
                parameter.copy_(torch.randn(parameter.shape, generator=generator) * (0.5 if "table" in key else 0.2))
    fused = make_model("compiled", settings, classes)
    fused.load_state_dict(plain.state_dict(), strict=True)
    return plain, fused


def noise(*shape: int, seed: int = 0) -> "torch.Tensor":
    return torch.from_numpy(np.random.default_rng(seed).standard_normal(shape, np.float32))


@pytest.mark.parametrize("classifier", [False, True])
@pytest.mark.parametrize("peer", ["eager", "compiled"])
def test_golden_numbers(peer, classifier):
    from benchmarks import sample
    from benchmarks.torch_program import TOLERANCES, golden_differences

    assert sample.TINY == TINY
    expected = {"encoder_out": 2e-5, "x_rec": 5e-5, "loss": 1e-5, "largest gradient error": 1e-4, "logits": 2e-5}
    assert expected == TOLERANCES
    differences = golden_differences(peer, GOLDEN, classifier)
    of_one = {"logits"} if classifier else {"encoder_out", "x_rec"}
    assert set(differences) == {"loss", "largest gradient error"} | of_one
    for name, difference in differences.items():
        assert difference < TOLERANCES[name], name


@pytest.mark.parametrize("peer", ["eager", "compiled", "products"])
def test_only_one_peer_fuses_attention(peer):
    from benchmarks.torch_program import make_model
    from benchmarks.torch_reference import attend, fused_attend

    found = {layer.attend for layer in make_model(peer, TINY).modules() if hasattr(layer, "attend")}
    assert found == {fused_attend if peer == "compiled" else attend}


def test_stored_gradients_are_all_but_one():
    from benchmarks.torch_reference import TorchMixMAE

    stored = {name.removeprefix("grad/") for name in golden("pretrain_tiny") if name.startswith("grad/")}
    trained = {name for name, parameter in TorchMixMAE(TINY).named_parameters() if parameter.requires_grad}
    assert trained - stored == {"decoder_pred.weight"}
    assert stored <= trained


def test_golden_check_sees_a_wrong_model(tmp_path):
    from benchmarks.torch_program import TOLERANCES, golden_differences

    wrong = golden("pretrain_tiny")
    wrong["encoder_out"] = wrong["encoder_out"] + np.float32(1e-3)
    wrong["grad/mask_token"] = wrong["grad/mask_token"] * np.float32(1.01)
    np.savez(tmp_path / "pretrain_tiny.npz", **wrong)
    (tmp_path / "pretrain_tiny.pth").symlink_to(GOLDEN / "pretrain_tiny.pth")
    differences = golden_differences("compiled", tmp_path)
    exceeded = {name for name, difference in differences.items() if difference > TOLERANCES[name]}
    assert exceeded == {"encoder_out", "largest gradient error"}


def test_golden_odd_batch_with_five_cells_masked():
    from benchmarks.torch_program import make_model, released_weights
    from benchmarks.torch_reference import per_channel_weights, pretraining_loss

    stored, model = golden("pretrain_tiny"), make_model("compiled", TINY)
    model.load_state_dict(released_weights(GOLDEN / "pretrain_tiny.pth"), strict=True)
    images = torch.from_numpy(np.array(standardised(stored["x_db"][:3])))
    mask = torch.from_numpy(stored["odd_mask"])
    assert mask.sum() == 5
    sequences = model(images, mask).detach()
    np.testing.assert_allclose(sequences[..., ::32], stored["odd_x_rec_slice"], rtol=0, atol=5e-5)
    loss = pretraining_loss(model, images, per_channel_weights(images), mask)
    assert abs(loss.item() - stored["odd_loss"]) < 1e-5


MASKS_384 = np.random.default_rng(5).permutation(144) < 72


@pytest.mark.parametrize(
    ("settings", "mask", "batch"),
    [(WIDE, HALF, 4), (WIDE, FIVE, 3), (WIDE_384, MASKS_384.astype(np.float32), 2)],
    ids=["half", "odd_five", "384"],
)
def test_loss_reconstruction_and_gradients_of_the_plain_model(settings, mask, batch):
    from benchmarks.torch_reference import pretraining_loss

    plain, fused = both(settings)
    side = settings.image_size
    images, weights = noise(batch, 2, side, side), noise(batch, 2, side, side, seed=1).abs() + 1
    mask, losses = torch.from_numpy(mask), []
    for model in (plain, fused):
        losses.append(pretraining_loss(model, images, weights, mask))
        losses[-1].backward()
    assert abs(losses[1].item() / losses[0].item() - 1) < 2e-6
    with torch.no_grad():
        expected, actual = plain.reconstruct(images, mask), fused.reconstruct(images, mask)
    np.testing.assert_allclose(actual, expected, rtol=0, atol=2e-5 * float(expected.abs().max()))
    for (name, p), q in zip(plain.named_parameters(), fused.parameters(), strict=True):
        if p.requires_grad:
            atol = 1e-4 * max(float(p.grad.abs().max()), 1e-3)
            np.testing.assert_allclose(q.grad, p.grad, rtol=0, atol=atol, err_msg=name)


@pytest.mark.parametrize("rate", [0.0, 0.5])
@pytest.mark.parametrize("settings", [WIDE, WIDE_384], ids=["128", "384"])
def test_classifier_with_and_without_drop_path(settings, rate):
    settings = replace(settings, drop_path=rate)
    plain, fused = both(settings, 7)
    images = noise(5, 2, settings.image_size, settings.image_size)
    draws = torch.rand((sum(settings.depths), 2, 5), generator=torch.Generator().manual_seed(3)) if rate else None
    expected, actual = plain(images, draws).detach(), fused(images, draws).detach()
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
