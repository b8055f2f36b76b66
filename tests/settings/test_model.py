"""What the settings of a model refuse on a device."""

from dataclasses import asdict
from types import SimpleNamespace

import numpy as np
import pytest

from sarwmix_jax.checkpoints import loading
from sarwmix_jax.checkpoints.loading import Loaded
from sarwmix_jax.errors import UserError
from sarwmix_jax.evaluation import predict
from sarwmix_jax.evaluation.features import write_embeddings
from sarwmix_jax.inference import model as inference
from sarwmix_jax.settings.config import pretraining_config, resolve
from sarwmix_jax.settings.model import PLACES, published
from sarwmix_jax.settings.sections import PretrainingSettings
from sarwmix_jax.training import run as run_module

REFUSAL = (
    "model.dtype bfloat16 needs a GPU of compute capability 8.0 or above, and Tesla T4 has 7.5; "
    "use --config.model.dtype=float32"
)


@pytest.mark.parametrize("dtype", ["bfloat16", "float32"])
@pytest.mark.parametrize("capability", [None, "gfx90a", "8.0", "9.0", "10.0", "12.1"])
def test_other_devices_compute_in_both_types(dtype, capability):
    published("base", dtype=dtype).check_device("some device", capability)


@pytest.mark.parametrize("capability", ["7.5", "7.0", "6.1"])
def test_an_older_gpu_computes_in_float32_alone(capability):
    published("base", dtype="float32").check_device("Tesla T4", capability)
    with pytest.raises(UserError) as caught:
        published("base", dtype="bfloat16").check_device("Tesla T4", capability)
    assert str(caught.value) == REFUSAL.replace("7.5", capability)


def a_checkpoint(kind, **changes):
    """A checkpoint that states a model of base and holds none of its arrays."""
    statistics = {"mean_db": (-20.0, -13.0), "std_db": (5.0, 5.0)}
    stated = {"kind": kind, "model": asdict(published("base", **changes)), "unit": "dB", "statistics": statistics}
    return Loaded({}, {}, stated, 1)


@pytest.mark.parametrize("kind", ["pretraining", "classifier"])
def test_a_checkpoint_is_not_computed_on_an_older_gpu(monkeypatch, tmp_path, kind):
    """By none of the ways from a checkpoint to results: evaluate, embed, and `sarwmix_jax.load`."""
    loaded = a_checkpoint(kind, dtype="bfloat16", kernel="fused")
    device = SimpleNamespace(platform="gpu", device_kind="Tesla T4", compute_capability="7.5")
    monkeypatch.setattr(loading.jax, "devices", lambda: [device])
    for module in (inference, predict):
        monkeypatch.setattr(module, "load_parameters", lambda *_: loaded)
    ways = [lambda: inference.load(tmp_path), lambda: write_embeddings(tmp_path / "out.parquet", loaded, {})]
    if kind == "classifier":
        ways.append(lambda: predict.load_candidate("run", "run", best=None, patch_op=None, batch=1))
    for way in ways:
        with pytest.raises(UserError) as caught:
            way()
        assert str(caught.value) == REFUSAL.replace("use --config.model.dtype=float32", loading.ON_CPUS)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("kernel", ["auto", "fused", "cudnn", "xla"])
def test_checkpoints_are_computed_by_the_plain_kernels_whatever_trained_them(kernel):
    settings = a_checkpoint("pretraining", dtype="bfloat16", kernel=kernel).settings
    assert {settings.on("gpu").kernel_of(place) for place in PLACES} == {"xla"}


def test_a_run_asks_before_it_reads_records(monkeypatch):
    device = SimpleNamespace(platform="gpu", device_kind="Tesla T4", compute_capability="7.5")
    mesh = SimpleNamespace(devices=np.array([device], dtype=object), size=1)
    monkeypatch.setattr(run_module, "make_mesh", lambda: mesh)
    config = pretraining_config()
    config.data.records, config.model.dtype = ("no such folder",), "bfloat16"
    with pytest.raises(UserError) as caught:
        run_module.set_up(resolve(config, PretrainingSettings))
    assert str(caught.value) == REFUSAL
