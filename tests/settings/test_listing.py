"""The table of settings: complete, with a meaning each, and narrow enough for a terminal."""

import re

import pytest

from sarwmix_jax.errors import UserError
from sarwmix_jax.settings.declarations import setting_types
from sarwmix_jax.settings.listing import declared, settings_table
from sarwmix_jax.settings.sections import TASKS
from sarwmix_jax.settings.study import StudySettings

PLAIN = "|".join(("name", "seed", "task", "init_from", *setting_types(StudySettings)))
ROW = rf"^({PLAIN}|[a-z_]+\.[a-z_0-9]+) +\S"


KINDS = TASKS | {"study": StudySettings}


@pytest.mark.parametrize("task", KINDS)
def test_every_setting_has_a_meaning_and_a_row(task):
    found = declared(KINDS[task]())
    assert list(found) == list(setting_types(KINDS[task]))
    assert [name for name, setting in found.items() if len(setting.meaning.split()) < 2] == []
    rows = re.findall(ROW, settings_table(task), re.MULTILINE)
    assert sorted(rows) == sorted(["name", *found])


def test_both_tasks_in_one_table_without_repetition():
    rows = re.findall(ROW, settings_table(), re.MULTILINE)
    assert sorted(set(rows) - {"name"}) == sorted({name for kind in TASKS.values() for name in setting_types(kind)})
    assert len(rows) == len(set(rows)) + 2  # the heads of three blocks


def test_table_fits_a_terminal_and_shows_defaults_as_the_command_line_takes_them():
    for task in (None, *KINDS):
        lines = settings_table(task).splitlines()
        assert max(map(len, lines)) <= 120
        assert "unset one with an empty value or none: --config.batch.micro_batch=" in " ".join(lines[-2:])
    table = settings_table("pretraining")
    assert re.search(r"model\.depths +whole numbers separated +2,2,18,2 +blocks", table)
    assert re.search(r"weighting\.mode +one of per_channel, +per_channel +per_channel: each band", table)
    assert re.search(r"optimizer\.base_lr +number above 0 +0\.00015 +largest", table)
    assert re.search(r"batch\.micro_batch +whole number above 0, or +unset +images", table)
    assert re.search(r"optimizer\.base_lr +number above 0 +0\.0005 +largest", settings_table("finetuning"))
    assert re.search(r"optimizer\.beta1 +number from 0 to below 1 +0\.9 ", settings_table())


def test_unknown_task():
    with pytest.raises(
        UserError, match="no settings of 'pretrain'; give one of pretraining, finetuning, study, or none"
    ):
        settings_table("pretrain")
