import dataclasses

import pytest

from sarwmix_jax.errors import UserError
from sarwmix_jax.settings.config import as_json, differences, pretraining_config, to_dataclass
from sarwmix_jax.settings.sections import PretrainingSettings


def test_config_round_trips_to_the_defaults():
    assert to_dataclass(pretraining_config(), PretrainingSettings) == PretrainingSettings()


def test_json_round_trips():
    settings = PretrainingSettings()
    assert to_dataclass(as_json(settings), PretrainingSettings) == settings


def test_config_refuses_unknown_names():
    config = pretraining_config()
    with pytest.raises(AttributeError, match="image_sise"):
        config.model.image_sise = 128


def test_config_refuses_wrong_types():
    config = pretraining_config()
    with pytest.raises(TypeError):
        config.model.image_size = "128"


def test_optional_settings_can_be_set():
    config = pretraining_config()
    config.optimizer.clip_grad = 1.0
    config.model.windows = (4, 4, 4, 4)
    settings = to_dataclass(config, PretrainingSettings)
    assert settings.optimizer.clip_grad == 1.0
    assert settings.model.windows == (4, 4, 4, 4)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"modle": {}}, "unknown setting modle"),
        ({"seed": "zero"}, "--config.seed is 'zero'; give a whole number of 0 or more"),
        ({"seed": True}, "--config.seed is True"),
    ],
)
def test_mapping_is_checked(change, message):
    with pytest.raises(UserError, match=message):
        to_dataclass(as_json(PretrainingSettings()) | change, PretrainingSettings)


def test_missing_name_is_named_with_its_place():
    values = as_json(PretrainingSettings())
    del values["model"]["depths"]
    with pytest.raises(UserError, match=r"missing setting model\.depths"):
        to_dataclass(values, PretrainingSettings)


def test_differences_name_the_setting():
    old = PretrainingSettings()
    new = dataclasses.replace(old, batch=dataclasses.replace(old.batch, global_batch=64))
    assert differences(as_json(old), as_json(new)) == ["batch.global_batch: 2048 -> 64"]
