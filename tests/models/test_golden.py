"""The model against numbers computed with the published system, float32 on a CPU."""

import subprocess
import sys
from functools import cache, partial
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from sarwmix_jax.conversion.table import LAYOUTS, entries, extent_of, from_published
from sarwmix_jax.conversion.torch_file import read_checkpoint
from sarwmix_jax.models.state import flatten_names, merge_model
from sarwmix_jax.preprocessing import Prepared
from sarwmix_jax.settings.sections import OptimizerSettings, WeightSettings
from sarwmix_jax.tasks.pretraining import Pretraining, errors
from sarwmix_jax.training.optimizer import learning_rate, make_optimizer
from tests.support import GOLDEN, golden, golden_autoencoder, golden_classifier, pretraining_task, standardised

PRETRAIN = golden("pretrain_tiny")
RELEASED = WeightSettings(mode="per_channel", power_of="standardised")


def task(norm_pix: bool = True, weighting: WeightSettings = RELEASED, ratio: float = 0.5) -> Pretraining:
    return pretraining_task(weighting=weighting, ratio=ratio, norm_pix=norm_pix)


def loss(graphdef, fixed, task, params, db, mask):
    db = jnp.asarray(db, jnp.float32)
    predicted = task.predict(merge_model(graphdef, params, fixed), Prepared(db, standardised(db), None), mask)
    return errors(predicted).mean()


@cache
def gradients():
    """(params, db, mask) -> (loss, gradients), compiled once for all tests."""
    graphdef, _, fixed = golden_autoencoder()
    return jax.jit(jax.value_and_grad(partial(loss, graphdef, fixed, task())))


@pytest.mark.smoke
@pytest.mark.parametrize("masked_count", [8, None], ids=["gathered", "plain"])
def test_encoder_and_both_sequences(masked_count):
    model = merge_model(*golden_autoencoder())
    images, mask = standardised(PRETRAIN["x_db"]), jnp.asarray(PRETRAIN["mask"])
    encoded = jax.jit(partial(model.encode, masked_count=masked_count))(images, mask)
    np.testing.assert_allclose(encoded, PRETRAIN["encoder_out"], rtol=0, atol=2e-5)
    sequences = jax.jit(model.decoder.full)(encoded, mask).reshape(8, 16, 2048)
    np.testing.assert_allclose(sequences, PRETRAIN["x_rec"], rtol=0, atol=5e-5)


@pytest.mark.smoke
def test_loss_forms():
    graphdef, params, fixed = golden_autoencoder()
    forms = {"loss_no_norm_pix": task(norm_pix=False), "loss_unweighted": task(weighting=WeightSettings(mode="off"))}

    @jax.jit  # together, as the reconstruction is then compiled once
    def losses(params, db, mask):
        return {key: loss(graphdef, fixed, asked, params, db, mask) for key, asked in forms.items()}

    found = losses(params, PRETRAIN["x_db"], jnp.asarray(PRETRAIN["mask"]))
    for key, value in found.items():
        assert abs(value - PRETRAIN[key]) < 1e-5, key


@pytest.mark.smoke
def test_loss_and_every_stored_gradient():
    _, params, _ = golden_autoencoder()
    value, grads = gradients()(params, PRETRAIN["x_db"], jnp.asarray(PRETRAIN["mask"]))
    assert abs(value - PRETRAIN["loss"]) < 1e-5
    compare_gradients(grads, PRETRAIN, left_out={"decoder/predict/kernel"})


def compare_gradients(grads, stored: dict[str, np.ndarray], left_out: set[str]) -> None:
    """Each stored gradient within 1e-4 of its tensor's largest value."""
    found = {name: np.asarray(value) for name, value in flatten_names(grads).items()}
    published = {name.removeprefix("grad/"): value for name, value in stored.items() if name.startswith("grad/")}
    published_names = names_of(published)
    assert set(published_names) == set(found) - left_out
    for name, expected in published_names.items():
        scale = np.abs(expected).max()
        if name.endswith("attention/qkv/bias"):  # a key bias has a zero gradient; hold it to the others' scale
            assert np.abs(expected[expected.size // 3 : 2 * expected.size // 3]).max() < 1e-3 * scale
        np.testing.assert_allclose(
            found[name], expected.reshape(found[name].shape), rtol=0, atol=1e-4 * scale, err_msg=name
        )


def names_of(published: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Published tensors, any subset of a pretraining model's, by our names and layouts."""
    whole = read_checkpoint(GOLDEN / "pretrain_tiny.pth").model
    rows = [*entries(extent_of(whole))]
    rows += [
        row for row in entries(extent_of(read_checkpoint(GOLDEN / "finetune_tiny.pth").model)) if "head" in row.name
    ]
    return {
        row.name: LAYOUTS[row.layout].from_published(published[row.published])
        for row in rows
        if row.published in published
    }


def test_names_of_a_whole_model_are_those_of_the_table():
    whole = read_checkpoint(GOLDEN / "pretrain_tiny.pth").model
    assert set(names_of(whole)) == set(from_published(whole))


@pytest.mark.smoke
def test_odd_batch_with_five_cells_masked():
    graphdef, params, fixed = golden_autoencoder()
    db, mask = PRETRAIN["x_db"][:3], jnp.asarray(PRETRAIN["odd_mask"])
    assert mask.sum() == 5

    @jax.jit  # together, as the encoder is then compiled once
    def both(params, db, mask):
        model = merge_model(graphdef, params, fixed)
        sequences = model.sequences(standardised(db), mask, masked_count=5)
        return sequences, loss(graphdef, fixed, task(ratio=5 / 16), params, db, mask)

    sequences, value = both(params, db, mask)
    np.testing.assert_allclose(
        sequences.reshape(6, 16, 2048)[..., ::32], PRETRAIN["odd_x_rec_slice"], rtol=0, atol=5e-5
    )
    assert abs(value - PRETRAIN["odd_loss"]) < 1e-5


TRAJECTORY = OptimizerSettings(warmup_epochs=2, schedule_epochs=10)


def updates_of(optimizer):
    """(gradients, optimiser state, parameters, rate) -> (parameters, optimiser state), compiled as one program."""

    @jax.jit
    def update(grads, opt_state, params, rate):
        updates, opt_state = optimizer.update(grads, opt_state, params)
        return jax.tree.map(lambda p, u: p - rate * u, params, updates), opt_state

    return update


@pytest.mark.slow
@pytest.mark.promotes("optax raises a float to the power of the whole number of steps")
@pytest.mark.smoke
def test_eight_steps():
    _, params, _ = golden_autoencoder()
    update, opt_state = updates_of(make_optimizer(TRAJECTORY)), jax.jit(make_optimizer(TRAJECTORY).init)(params)
    for number in range(8):
        rate = learning_rate(number / 3, peak=1e-3, minimum=0.0, warmup_epochs=2, schedule_epochs=10)
        assert abs(rate - PRETRAIN["train_lr"][number]) < 1e-9
        value, grads = gradients()(
            params, PRETRAIN["train_x_db"][number % 3], jnp.asarray(PRETRAIN["train_masks"][number])
        )
        assert abs(value - PRETRAIN["train_loss"][number]) < 1e-4
        assert abs(optax.global_norm(grads) - PRETRAIN["train_grad_norm"][number]) < 1e-3
        params, opt_state = update(grads, opt_state, params, rate)
    value, _ = gradients()(params, PRETRAIN["x_db"], jnp.asarray(PRETRAIN["mask"]))
    assert abs(value - PRETRAIN["final_loss_check"]) < 1e-4
    compare_trained(params)


def compare_trained(params) -> None:
    """Stored trained tensors, without the key biases, whose zero gradient AdamW turns into noise."""
    found = flatten_names(params)
    trained = names_of({n.removeprefix("trained/"): v for n, v in PRETRAIN.items() if n.startswith("trained/")})
    assert len(trained) == 25
    for name, expected in trained.items():
        actual = np.asarray(found[name]).reshape(expected.shape)
        if name.endswith("attention/qkv/bias"):
            keys = slice(expected.size // 3, 2 * expected.size // 3)
            actual, expected = np.delete(actual, keys), np.delete(expected, keys)
        np.testing.assert_allclose(actual, expected, rtol=0, atol=1e-4, err_msg=name)


@pytest.mark.promotes("optax raises a float to the power of the whole number of steps")
@pytest.mark.smoke
def test_accumulation_and_clipping():
    _, params, _ = golden_autoencoder()
    recipe = OptimizerSettings(clip_grad=1.0)
    update, opt_state = updates_of(make_optimizer(recipe)), jax.jit(make_optimizer(recipe).init)(params)
    for number in range(4):
        micro = [
            gradients()(params, PRETRAIN["train_x_db"][n % 3], jnp.asarray(PRETRAIN["accum_masks"][n]))
            for n in (2 * number, 2 * number + 1)
        ]
        for offset, (value, _) in enumerate(micro):
            assert abs(value - PRETRAIN["accum_loss"][2 * number + offset]) < 1e-4
        grads = jax.tree.map(lambda a, b: (a + b) / 2, micro[0][1], micro[1][1])
        assert abs(optax.global_norm(grads) - PRETRAIN["accum_norm_before_clipping"][number]) < 1e-3
        params, opt_state = update(grads, opt_state, params, 1e-3)
    value, _ = gradients()(params, PRETRAIN["x_db"], jnp.asarray(PRETRAIN["mask"]))
    assert abs(value - PRETRAIN["accum_final_loss_check"]) < 1e-4


@pytest.mark.smoke
def test_classifier():
    stored = golden("finetune_tiny")
    model = merge_model(*golden_classifier())
    features, logits = jax.jit(lambda x: (model.features(x), model(x)))(standardised(stored["x_db"]))
    np.testing.assert_allclose(features, stored["features"], rtol=0, atol=2e-5)
    np.testing.assert_allclose(logits, stored["logits"], rtol=0, atol=2e-5)


@pytest.mark.slow
def test_the_same_as_users_compile(optimised):
    """Gradients and eight steps, in a process with all optimisations."""
    command = [
        sys.executable,
        "-m",
        "pytest",
        "-q",
        "-m",
        "",
        "-k",
        "gradient or eight_steps",
        "tests/models/test_golden.py",
    ]
    done = subprocess.run(command, cwd=Path(__file__).parents[2], capture_output=True, text=True, check=False)
    assert done.returncode == 0 and "2 passed" in done.stdout, done.stdout
