"""model.kernel=auto: the choice from errors and times, the measurement in the interpreter, and what is kept."""

import json
from dataclasses import asdict, replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from sarwmix_jax.errors import UserError
from sarwmix_jax.models.interpreter import interpreted
from sarwmix_jax.settings.model import PLACES, published
from sarwmix_jax.training import kernels
from sarwmix_jax.training.kernels import ALLOWED, Measured, choose, measure, measure_model, together, with_kernels
from tests.support import TINY, on_gpu

SMALL = replace(TINY, image_size=64, embed_dim=16, num_heads=(1, 2, 4, 8), windows=(4, 4, 2, 2), decoder_dim=16)
SMALL = replace(SMALL, decoder_heads=1, depths=(1, 1, 1, 1))
PLAIN = Measured("xla", 1.0, 0.004)


@pytest.mark.parametrize(
    ("others", "chosen"),
    [
        ([], "xla"),
        ([Measured("fused", 0.5, 0.01)], "fused"),
        ([Measured("fused", 0.5, 0.01), Measured("cudnn", 0.4, 0.01)], "cudnn"),
        ([Measured("fused", 0.5, 0.01), Measured("cudnn", 0.4, 0.03)], "fused"),  # the fastest one is wrong
        ([Measured("fused", 0.5, float("inf"))], "xla"),
        ([Measured("fused", 0.5, float("nan"))], "xla"),
        ([Measured("fused", 0.99, 0.001)], "xla"),  # not clearly faster
        ([Measured("fused", 1.5, 0.001)], "xla"),
        ([Measured("fused", reason="it does not compile")], "xla"),
    ],
)
def test_the_fastest_kernel_that_is_right_is_chosen(others, chosen):
    assert choose([*others, PLAIN], ALLOWED["bfloat16"]) == chosen
    assert choose([PLAIN, *others], ALLOWED["bfloat16"]) == chosen


def test_where_plain_attention_fails_another_kernel_may_serve():
    assert choose([Measured("fused", 9.0, 0.01), Measured("xla", reason="no memory")], 0.02) == "fused"


def test_a_kernel_that_computes_something_else_is_found_and_one_that_fails_is_named():
    def fails(x):
        raise NotImplementedError("there is no such\noperation")

    given = (jnp.asarray(np.random.default_rng(0).normal(size=(4, 8)), jnp.float32),)
    functions = {"xla": jnp.tanh, "fused": lambda x: jnp.tanh(x) * 1.1, "cudnn": fails}
    found = {each.kernel: each for each in measure(functions, given)}
    assert found["xla"].error < 1e-6 and found["xla"].seconds > 0
    assert 0.09 < found["fused"].error < 0.25  # a tenth in the value, twice of it in the gradient
    assert found["cudnn"] == Measured("cudnn", reason="there is no such operation")
    assert choose(list(found.values()), ALLOWED["float32"]) == "xla"


def test_shapes_count_together():
    parts = [[Measured("fused", 1.0, 0.01), PLAIN], [Measured("fused", 2.0, 0.03), PLAIN]]
    assert together(parts) == [Measured("fused", 3.0, 0.03), Measured("xla", 2.0, 0.004)]
    parts[0][0] = Measured("fused", reason="no memory")
    assert together(parts)[0] == Measured("fused", reason="no memory")


@pytest.fixture(scope="module")
def measured():
    """The measurement of a small model, with the kernels in the interpreter."""
    with interpreted(), pytest.MonkeyPatch.context() as patch:
        patch.setattr(kernels, "CALLS", 1)
        patch.setattr(kernels, "ROUNDS", 1)
        return measure_model(SMALL, "any", 2)


@pytest.mark.slow
def test_all_places_are_measured_and_the_kernels_agree(measured):
    assert tuple(measured) == PLACES
    for place, found in measured.items():
        assert {each.kernel for each in found} == {"fused", "xla"}, place  # cuDNN cannot compute in float32
        for each in found:
            assert not each.reason and each.seconds > 0 and each.error < 1e-5, (place, each)


@pytest.fixture
def on_a_gpu(monkeypatch, tmp_path):
    """A set-up that takes the device for a GPU; gives how often it measured, and where measurements are kept."""
    asked = []

    def measure_model(model, masks, images):
        asked.append((masks, images))
        times = dict.fromkeys(PLACES, 1.0) | {"stage 1": 1e-4, "LayerNorm": 1e-4}
        plain = Measured("xla", 0.5, 0.004)
        return {place: [Measured("fused", seconds, 0.001), plain] for place, seconds in times.items()}

    monkeypatch.setattr(kernels, "measure_model", measure_model)
    old = jax.config.values["jax_compilation_cache_dir"]
    jax.config.update("jax_compilation_cache_dir", str(tmp_path))
    yield asked, tmp_path / "kernels.json"
    jax.config.update("jax_compilation_cache_dir", old)


CHOSEN = ("fused", "xla", "xla", "xla", "xla", "fused")


def test_a_second_start_does_not_measure_again(on_a_gpu, run_settings):
    asked, path = on_a_gpu
    settings = run_settings(model__kernel="auto")
    settings = replace(settings, batch=replace(settings.batch, micro_batch=4))
    found, (line,) = with_kernels(settings, "gpu")
    assert found.model.kernels == CHOSEN
    assert "measured at this start; --config.model.kernels=fused,xla,xla,xla,xla,fused" in line and "\n" not in line
    assert "stage 1 fused (fused 0.1 ms, error 0.001; xla 500 ms, error 0.004)" in line
    again, (line,) = with_kernels(settings, "gpu")
    assert again == found and asked == [("half", 4)]
    assert f"kept in {path}" in line

    with_kernels(replace(settings, batch=replace(settings.batch, micro_batch=2)), "gpu")  # another shape
    path.write_text(path.read_text()[:-9])
    with_kernels(settings, "gpu")  # damaged
    assert asked == [("half", 4), ("half", 2), ("half", 4)]
    (kept,) = json.loads(path.read_text()).values()
    assert kept["decoder"][0] == asdict(Measured("fused", 1.0, 0.001))


def test_without_a_folder_every_start_measures(on_a_gpu, run_settings):
    asked, path = on_a_gpu
    jax.config.update("jax_compilation_cache_dir", None)
    for _ in range(2):
        with_kernels(run_settings(model__kernel="auto"), "gpu")
    assert len(asked) == 2 and not path.exists()


def test_on_a_cpu_auto_is_plain_and_costs_nothing(run_settings):
    assert run_settings(model__kernel="auto").model.on("cpu").kernel == "xla"
    assert run_settings(model__kernel="auto").model.on("gpu").kernel == "auto"


def test_named_kernels_are_checked(run_settings):
    settings = run_settings(model__kernels=CHOSEN)
    line = "model.kernels fused cannot compute stage 1: the head depth 8 is not one of 16, 32, 64"
    with pytest.raises(UserError, match=f"^{line}; change --config.model.kernels$"):
        with_kernels(settings, "gpu")
    with pytest.raises(UserError, match=r"^model\.kernels fused needs a GPU and this machine computes on cpu"):
        with_kernels(settings, "cpu")


@on_gpu
@pytest.mark.parametrize("size", ["base", "huge"])
def test_on_a_gpu_every_kernel_is_right_at_every_part_of_a_model(size):
    for place, found in measure_model(published(size, dtype="bfloat16"), "half", 16).items():
        for each in found:
            assert each.error is not None, f"{place}: {each.kernel} fails: {each.reason}"
            assert each.error <= ALLOWED["bfloat16"], f"{place}: {each.kernel}"
