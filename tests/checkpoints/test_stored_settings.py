from dataclasses import replace

import pytest

from sarwmix_jax.errors import UserError
from sarwmix_jax.settings.config import as_json, stored_settings
from sarwmix_jax.settings.sections import LossSettings, PretrainingSettings


def test_a_setting_younger_than_the_checkpoint_has_its_default():
    settings = replace(PretrainingSettings(), seed=3, loss=LossSettings(norm_pix=False))
    known = as_json(settings)
    assert stored_settings(known, PretrainingSettings) == settings
    del known["data"]["resident"], known["init_from"], known["log"]
    assert stored_settings(known, PretrainingSettings) == settings


@pytest.mark.parametrize(("written", "now"), [(False, "none"), (True, "block")])
def test_recomputation_was_yes_or_no_in_the_first_checkpoints(written, now):
    known = as_json(PretrainingSettings())
    known["model"]["recompute"] = written
    assert stored_settings(known, PretrainingSettings).model.recompute == now


@pytest.mark.parametrize("change", [{"new": {"name": 1}}, {"loss": {"new": 1}}, {"new": 1}])
def test_a_setting_that_this_version_does_not_know_is_refused(change):
    with pytest.raises(UserError, match=r"unknown setting .*new"):
        stored_settings(as_json(PretrainingSettings()) | change, PretrainingSettings)
