"""The PyTorch programs: input, optimiser and whole steps of both peers."""

import json
import math

import jax.numpy as jnp
import numpy as np
import pytest

from benchmarks.sample import host_batches
from sarwmix_jax.errors import UserError
from sarwmix_jax.preprocessing import Flips, backscatter_weights
from sarwmix_jax.preprocessing import prepare as jax_prepare
from sarwmix_jax.settings.model import CELL, ModelSettings, published
from sarwmix_jax.settings.sections import WeightSettings
from tests.support import GOLDEN, TINY, V2, golden, standardised

torch = pytest.importorskip("torch")
pytestmark = pytest.mark.torch

PEERS = ("eager", "compiled")
SMALL = ModelSettings(
    embed_dim=4, depths=(1, 1, 1, 1), num_heads=(1, 1, 2, 2), windows=(8, 8, 8, 4), decoder_dim=8, decoder_depth=1,
    decoder_heads=2,
)  # fmt: skip


@pytest.fixture(scope="module", autouse=True)
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.mark.parametrize("side", [120, 128, 96, 384])
def test_input_is_that_of_this_project(side):
    from benchmarks.torch_program import band_statistics, prepare
    from benchmarks.torch_reference import per_channel_weights

    records = torch.from_numpy(host_batches(1, 4, seed=1)[0]["image"])
    flips = torch.tensor([[True, False, True, False], [True, True, False, False]])
    images, db = prepare(records, side, band_statistics(), flips)
    batch = {"image": jnp.asarray(records.numpy())}
    expected_db, expected, _ = jax_prepare(batch, V2, side=side, flips=Flips(*jnp.asarray(flips.numpy())))
    np.testing.assert_allclose(db, expected_db, rtol=0, atol=1e-4)
    np.testing.assert_allclose(images, expected, rtol=0, atol=2e-5)
    weights = backscatter_weights(expected_db, expected, WeightSettings(), cell=CELL)
    np.testing.assert_allclose(per_channel_weights(db), weights, rtol=0, atol=1e-4)
    assert 1 <= float(per_channel_weights(db).min()) < float(per_channel_weights(db).max()) <= math.e + 1e-6


def test_records_look_like_backscatter():
    first, second = (batch["image"] for batch in host_batches(2, 256))
    assert (first.dtype, first.shape) == (np.float16, (256, 2, 120, 120))
    level = first.astype(np.float32).mean(axis=(2, 3))
    speckle_db = -1.0  # mean of gamma speckle of 4.4 looks and mean power 1
    np.testing.assert_allclose(level.mean(axis=0) - speckle_db, V2.mean_db, atol=1.0)  # 3 standard deviations
    np.testing.assert_allclose(level.std(axis=0), V2.std_db, rtol=0.15)
    np.testing.assert_allclose(first[:, 0].astype(np.float32).std(axis=(1, 2)), 2.2, atol=0.1)
    assert not np.array_equal(first, second)


def test_published_groups():
    from benchmarks.torch_program import make_adamw
    from benchmarks.torch_reference import TorchClassifier, TorchMixMAE

    stored = json.loads((GOLDEN / "schedules_and_groups.json").read_text())
    base = published("base")
    with torch.device("meta"):
        pretraining, finetuning = TorchMixMAE(base), TorchClassifier(base, 19)
    found = by_name(pretraining, make_adamw(pretraining, "pretrain", base.depths, "eager"))
    decays = {name: (1.0, decay) for name, decay in stored["pretrain_weight_decay_base"].items()}
    assert found == decays
    expected = stored["finetune_groups_base_layer_decay_0.7"]
    found = by_name(finetuning, make_adamw(finetuning, "finetune", base.depths, "eager"))
    assert set(found) == set(expected)
    for name, (scale, decay) in found.items():
        assert scale == pytest.approx(expected[name][0], rel=1e-6), name
        assert decay == expected[name][1], name


def by_name(model, optimizer) -> dict[str, tuple[float, float]]:
    """(scale, weight decay) of every trained parameter."""
    rules = {
        id(p): (group["scale"], group["weight_decay"]) for group in optimizer.param_groups for p in group["params"]
    }
    return {name: rules[id(p)] for name, p in model.named_parameters() if p.requires_grad}


@pytest.mark.parametrize("peer", PEERS)
def test_eight_golden_pretraining_steps(peer):
    from benchmarks.torch_program import make_adamw, make_model, released_weights, set_rate
    from benchmarks.torch_reference import per_channel_weights, pretraining_loss

    stored, model = golden("pretrain_tiny"), make_model(peer, TINY)
    model.load_state_dict(released_weights(GOLDEN / "pretrain_tiny.pth"), strict=True)
    optimizer = make_adamw(model, "pretrain", TINY.depths, peer)

    def loss_of(db, mask):
        images = torch.from_numpy(np.array(standardised(db)))
        return pretraining_loss(model, images, per_channel_weights(images), torch.from_numpy(mask))

    for number in range(8):
        set_rate(optimizer, float(stored["train_lr"][number]))
        loss = loss_of(stored["train_x_db"][number % 3], stored["train_masks"][number])
        loss.backward()
        norm = torch.nn.utils.get_total_norm([p.grad for p in model.parameters() if p.grad is not None])
        assert abs(loss.item() - stored["train_loss"][number]) < 1e-4
        assert abs(norm.item() - stored["train_grad_norm"][number]) < 1e-3
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
    assert abs(loss_of(stored["x_db"], stored["mask"]).item() - stored["final_loss_check"]) < 1e-4


@pytest.mark.parametrize("peer", PEERS)
def test_eight_golden_finetuning_steps(peer):
    from benchmarks.torch_program import make_adamw, make_model, released_weights, set_rate

    stored, inputs = golden("finetune_tiny"), golden("pretrain_tiny")["train_x_db"]
    model = make_model(peer, TINY, 19)
    model.load_state_dict(released_weights(GOLDEN / "finetune_tiny.pth"), strict=True)
    optimizer = make_adamw(model, "finetune", TINY.depths, peer)
    for number in range(8):
        set_rate(optimizer, float(stored["train_lr"][number]))
        images = torch.from_numpy(np.array(standardised(inputs[number % 3])))
        labels = torch.from_numpy(stored["train_y"][number % 3]).float()
        loss = torch.nn.functional.multilabel_soft_margin_loss(model(images), labels)
        assert abs(loss.item() - stored["train_loss"][number]) < 1e-4
        loss.backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
    logits = model(torch.from_numpy(np.array(standardised(stored["x_db"])))).detach()
    np.testing.assert_allclose(logits, stored["final_logits"], rtol=0, atol=1e-4)


def losses(task, peer, dtype, *, steps=2, compile=False, settings=TINY, batch=4):
    from benchmarks.torch_program import TorchProgram

    spec = {"task": task, "batch": batch, "kind": peer, "device": "cpu", "dtype": dtype}
    work, found = TorchProgram(spec, settings, compile), []
    for _ in range(steps):
        work.step()
        work.wait()
        found.append(work.numbers()["loss"])
    return found, work


@pytest.mark.parametrize("task", ["pretrain", "finetune", "inference"])
def test_both_peers_do_the_same_work(task):
    plain, _ = losses(task, "eager", "float32", steps=3)
    fused, work = losses(task, "compiled", "float32", steps=3)
    assert np.isfinite(plain).all()
    assert len(set(plain)) == 3
    np.testing.assert_allclose(fused, plain, rtol=0, atol=2e-5)
    for peer in PEERS:
        low, _ = losses(task, peer, "bfloat16", steps=3)
        np.testing.assert_allclose(low, plain, rtol=0, atol=0.03 * max(1, *plain))
        assert low != plain
    assert work.peak_bytes() is None
    assert work.facts == {"versions": {"torch": torch.__version__}}


@pytest.mark.parametrize("peer", PEERS)
def test_activations_are_in_the_lower_precision(peer):
    _, work = losses("pretrain", peer, "bfloat16", steps=1)
    types = {}
    for name, layer in work.model.named_modules():
        layer.register_forward_hook(lambda _, inputs, output, name=name: types.update({name: output.dtype}))
    work.step()
    assert types["layers.2.blocks.0.attn.qkv"] == types["decoder_pred"] == torch.bfloat16
    assert {p.dtype for p in work.model.parameters()} == {torch.float32}


@pytest.mark.parametrize(("task", "fall"), [("pretrain", 0.02), ("finetune", 0.2)])
@pytest.mark.parametrize("peer", PEERS)
def test_steps_train(task, fall, peer, monkeypatch):
    from benchmarks import torch_program

    monkeypatch.setattr(torch_program, "PEAK_RATE", 0.2)
    monkeypatch.setattr(torch_program, "BATCHES", 1)
    found, work = losses(task, peer, "float32", settings=SMALL, steps=16)
    assert np.mean(found[-5:]) < np.mean(found[:5]) - fall
    assert all(p in work.optimizer.state for p in work.model.parameters() if p.requires_grad)


def test_masks_are_fresh_and_half():
    from benchmarks.torch_program import draw

    generator = torch.Generator().manual_seed(0)
    drawn = [draw("pretrain", published("base"), 6, generator) for _ in range(2000)]
    masks = torch.stack([mask for _, mask, _ in drawn])
    assert (masks.sum(dim=1) == 8).all()
    assert len(torch.unique(masks, dim=0)) > 1500
    assert abs(masks.mean(dim=0) - 0.5).max() < 0.05  # 4.5 standard deviations
    assert drawn[0][0].shape == (2, 6)
    assert draw("finetune", published("base"), 6, generator)[2].shape == (24, 2, 6)


@pytest.mark.parametrize("task", ["pretrain", "inference"])
def test_a_peer_is_held_against_the_golden_numbers_before_it_is_timed(task, monkeypatch):
    from benchmarks import torch_program

    spec = {"task": task, "size": "tiny", "batch": 2, "kind": "eager", "device": "cpu", "dtype": "float32"}
    assert 0 <= torch_program.checked_program(spec).facts["golden"] < 1e-4
    monkeypatch.setitem(torch_program.TOLERANCES, "loss", 0.0)
    with pytest.raises(UserError, match=r"loss of the eager peer is .* away from the golden numbers"):
        torch_program.checked_program(spec)


@pytest.mark.filterwarnings("ignore:.*")  # the compiler warns of its own old calls
@pytest.mark.parametrize(
    "task",
    [pytest.param(task, marks=pytest.mark.soak) for task in ("pretrain", "finetune")]
    + [pytest.param("inference", marks=pytest.mark.slow)],
)
def test_compiled_equals_uncompiled(task):
    counters = torch._dynamo.utils.counters
    counters.clear()
    expected, _ = losses(task, "compiled", "float32", settings=SMALL, steps=3)
    assert not counters["stats"]["unique_graphs"]
    actual, _ = losses(task, "compiled", "float32", settings=SMALL, steps=3, compile=True)
    np.testing.assert_allclose(actual, expected, rtol=0, atol=1e-5)
    assert counters["stats"]["unique_graphs"] == 1  # a changed learning rate or mask compiles nothing again
