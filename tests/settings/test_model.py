"""What the settings of a model refuse on a device."""

from types import SimpleNamespace

import numpy as np
import pytest

from sarwmix_jax.errors import UserError
from sarwmix_jax.settings.config import pretraining_config, resolve
from sarwmix_jax.settings.model import published
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


def test_a_run_asks_before_it_reads_records(monkeypatch):
    device = SimpleNamespace(platform="gpu", device_kind="Tesla T4", compute_capability="7.5")
    mesh = SimpleNamespace(devices=np.array([device], dtype=object), size=1)
    monkeypatch.setattr(run_module, "make_mesh", lambda: mesh)
    config = pretraining_config()
    config.data.records, config.model.dtype = ("no such folder",), "bfloat16"
    with pytest.raises(UserError) as caught:
        run_module.set_up(resolve(config, PretrainingSettings))
    assert str(caught.value) == REFUSAL
