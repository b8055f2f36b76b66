import runpy
from pathlib import Path

import pytest

from sarwmix_jax.settings.config import as_json, to_dataclass
from sarwmix_jax.settings.sections import PretrainingSettings

CONFIGS = Path(__file__).parents[2] / "configs"


def settings(data: str, size: str) -> PretrainingSettings:
    config = runpy.run_path(str(CONFIGS / f"pretrain_bigearthnet_{data}.py"))["get_config"](size)
    return to_dataclass(config, PretrainingSettings)


@pytest.mark.parametrize("size", ["base", "large", "huge"])
def test_v1_differs_from_v2_in_its_statistics_alone(size):
    v1, v2 = as_json(settings("v1", size)), as_json(settings("v2", size))
    assert v1["data"].pop("statistics") == "bigearthnet_v1"
    assert v2["data"].pop("statistics") == "bigearthnet_v2"
    assert v1 == v2
