"""The PyTorch reference against the golden numbers, and the JAX model against it, layer by layer."""

from dataclasses import replace
from functools import cache

import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from sarwmix_jax.conversion.table import LAYOUTS, Extent, entries, from_published
from sarwmix_jax.models.classifier import Classifier
from sarwmix_jax.models.encoder import cell_mask
from sarwmix_jax.models.mixmae import MixMAE
from sarwmix_jax.models.state import flatten_names, merge_model
from sarwmix_jax.models.tokens import inverse, z_order
from sarwmix_jax.settings.model import ModelSettings
from tests.support import GOLDEN, TINY, golden, model_arrays, standardised

torch = pytest.importorskip("torch")
pytestmark = pytest.mark.torch

WIDE = ModelSettings(
    embed_dim=16,
    depths=(1, 2, 2, 1),
    num_heads=(2, 4, 4, 8),
    windows=(16, 8, 8, 4),
    image_size=128,
    decoder_dim=24,
    decoder_depth=2,
    decoder_heads=3,
)
"""Windows of several cells in the first stages, where the mask matters, and unlike numbers of heads."""

ATOL = 2e-5


@cache
def reference():
    from benchmarks import torch_reference

    return torch_reference


def released(name: str):
    import argparse

    with torch.serialization.safe_globals([argparse.Namespace]):
        return torch.load(GOLDEN / f"{name}.pth", weights_only=True)["model"]


def tensor(array) -> "torch.Tensor":
    return torch.from_numpy(np.array(array))


def drawn(model, seed: int):
    """A model whose every trained parameter is drawn, so that a forgotten term shows."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.requires_grad:
                parameter.copy_(torch.randn(parameter.shape, generator=generator) * (0.5 if "table" in name else 0.2))
    return model


def converted(kind, settings: ModelSettings, model, *arguments):
    """The JAX model with the weights of a PyTorch model."""
    weights = from_published({name: value.detach().numpy() for name, value in model.state_dict().items()})
    return model_arrays(kind, settings, *arguments, weights=weights)


def test_released_weights_load_and_give_the_golden_numbers():
    numbers = golden("pretrain_tiny")
    model = reference().TorchMixMAE(TINY)
    weights = released("pretrain_tiny")
    assert list(model.state_dict()) == list(weights)
    np.testing.assert_allclose(model.absolute_pos_embed.detach(), weights["absolute_pos_embed"], rtol=0, atol=1e-6)
    model.load_state_dict(weights, strict=True)
    images, mask = tensor(standardised(numbers["x_db"])), tensor(numbers["mask"])
    np.testing.assert_allclose(model.encode(images, mask).detach(), numbers["encoder_out"], rtol=0, atol=ATOL)
    np.testing.assert_allclose(model(images, mask).detach(), numbers["x_rec"], rtol=0, atol=ATOL)
    loss = reference().pretraining_loss(model, images, reference().per_channel_weights(images), mask)
    np.testing.assert_allclose(loss.item(), numbers["loss"], rtol=1e-5)


def test_released_classifier_gives_the_golden_logits():
    numbers = golden("finetune_tiny")
    model = reference().TorchClassifier(TINY, 19)
    model.load_state_dict(released("finetune_tiny"), strict=True)
    images = tensor(standardised(golden("pretrain_tiny")["x_db"]))
    np.testing.assert_allclose(model(images).detach(), numbers["logits"], rtol=0, atol=ATOL)


MASKS = {
    "half": np.array([1, 0, 0, 1, 1, 0, 1, 0, 0, 1, 1, 0, 0, 1, 0, 1], np.float32),
    "five": np.array([0, 0, 1, 0, 1, 0, 0, 1, 0, 0, 0, 1, 0, 1, 0, 0], np.float32),
}


class Trace:
    """Inputs and outputs of every layer of a PyTorch model, by name."""

    def __init__(self, model):
        self.values = {}
        for name, layer in model.named_modules():
            layer.register_forward_hook(lambda _, inputs, output, name=name: self.keep(name, inputs, output))

    def keep(self, name, inputs, output):
        self.values[name] = (inputs[0].detach().numpy(), output.detach().numpy())


@pytest.mark.parametrize(("settings", "cells"), [(TINY, "half"), (WIDE, "five")], ids=["tiny", "wide"])
def test_layer_by_layer(settings, cells):
    torch_model = drawn(reference().TorchMixMAE(settings), 0)
    images = np.random.default_rng(0).standard_normal((3, 2, 128, 128), np.float32)
    mask = MASKS[cells]
    trace = Trace(torch_model)
    torch_model(tensor(images), tensor(mask))
    model = merge_model(*converted(MixMAE, settings, torch_model))
    for name, actual, expected in layers(model, trace.values, images, mask):
        scale = np.abs(expected).max()
        np.testing.assert_allclose(actual, expected, rtol=0, atol=ATOL * max(1, scale), err_msg=name)


def layers(model, traced, images, mask):
    """(name, JAX output for the PyTorch layer's input, PyTorch output) for every layer."""

    def in_z_order(layer, x):
        grid = round(x.shape[1] ** 0.5)
        y = np.asarray(layer(jnp.asarray(x[:, z_order(grid)])))
        return y[:, inverse(z_order(round(y.shape[1] ** 0.5)))]

    embedded = np.asarray(model.encoder.patch_embed(jnp.asarray(images)))
    yield "patch_embed", embedded[:, inverse(z_order(round(embedded.shape[1] ** 0.5)))], traced["patch_embed"][1]
    prepared = cell_mask(jnp.asarray(mask), None)
    for s, stage in enumerate(model.encoder.stages):
        blocks, merge = list(stage.blocks), stage.merge
        for b, block in enumerate(blocks):
            stage.blocks, stage.rates = nnx.List([block]), (None,)
            x, y = traced[f"layers.{s}.blocks.{b}"]
            yield f"stage {s} block {b}", in_z_order(lambda x, stage=stage: stage(x, prepared, [None]), x), y
        if merge is not None:
            x, y = traced[f"layers.{s}.downsample"]
            yield f"stage {s} merge", in_z_order(merge, x), y
    x, y = traced["norm"]
    yield "norm", np.asarray(model.encoder.norm(jnp.asarray(x))), y
    for b, block in enumerate(model.decoder.blocks):
        x, y = traced[f"decoder_blocks.{b}"]
        yield f"decoder block {b}", np.asarray(block(jnp.asarray(x))), y
    for name, layer in (("embed", model.decoder.embed), ("norm", model.decoder.norm), ("pred", model.decoder.predict)):
        x, y = traced[f"decoder_{name}"]
        yield f"decoder {name}", np.asarray(layer(jnp.asarray(x))), y


@pytest.mark.parametrize(
    ("settings", "masked_count"), [(TINY, 8), (WIDE, 8), (replace(WIDE, attention="plain", decoder="full"), None)]
)
def test_loss_and_every_gradient(settings, masked_count):
    import jax

    from sarwmix_jax.models.mixmae import target_vectors, weighted_errors
    from sarwmix_jax.models.tokens import image_to_vectors

    torch_model = drawn(reference().TorchMixMAE(settings), 1)
    images = np.random.default_rng(1).standard_normal((3, 2, 128, 128), np.float32)
    weights = np.random.default_rng(2).uniform(1, np.e, images.shape).astype(np.float32)
    loss = reference().pretraining_loss(torch_model, tensor(images), tensor(weights), tensor(MASKS["half"]))
    loss.backward()
    graphdef, params, fixed = converted(MixMAE, settings, torch_model)

    def our_loss(params):
        model = merge_model(graphdef, params, fixed)
        rebuilt = model.reconstruct(jnp.asarray(images), jnp.asarray(MASKS["half"]), masked_count=masked_count)
        target = target_vectors(jnp.asarray(images), norm_pix=True)
        return weighted_errors(rebuilt, target, image_to_vectors(jnp.asarray(weights))).mean()

    value, gradients = jax.jit(jax.value_and_grad(our_loss))(params)
    np.testing.assert_allclose(value, loss.item(), rtol=2e-6)
    gradients = flatten_names(gradients)
    published = dict(torch_model.named_parameters())
    for entry in entries(Extent(settings.depths, settings.decoder_depth)):
        if published[entry.published].grad is not None:
            expected = LAYOUTS[entry.layout].from_published(published[entry.published].grad.numpy())
            atol = 1e-4 * max(float(np.abs(expected).max()), 1e-3)
            np.testing.assert_allclose(gradients[entry.name], expected, rtol=0, atol=atol, err_msg=entry.published)


def test_classifier():
    settings = replace(WIDE, image_size=256, windows=(16, 16, 8, 8))
    torch_model = drawn(reference().TorchClassifier(settings, 7), 3)
    images = np.random.default_rng(4).standard_normal((2, 2, 256, 256), np.float32)
    expected = torch_model(tensor(images)).detach().numpy()
    model = merge_model(*converted(Classifier, settings, torch_model, 7))
    np.testing.assert_allclose(model(jnp.asarray(images)), expected, rtol=0, atol=ATOL * np.abs(expected).max())


@pytest.mark.parametrize(
    ("size", "pretraining", "classifier"),
    [("base", 113_686_264, 86_901_515), ("large", 222_270_068, 195_232_903), ("huge", 682_964_778, 655_296_573)],
)
def test_published_parameter_counts(size, pretraining, classifier):
    from sarwmix_jax.settings.model import published

    with torch.device("meta"):
        counted = [reference().TorchMixMAE(published(size)), reference().TorchClassifier(published(size), 19)]
    assert [sum(p.numel() for p in model.parameters()) for model in counted] == [pretraining, classifier]
