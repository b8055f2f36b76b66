"""Every setting that finetuning alone has changes something: alternative values and one observable for each."""

import jax
import numpy as np
import pytest

from sarwmix_jax.errors import UserError
from sarwmix_jax.models.state import abstract_model
from sarwmix_jax.settings.declarations import setting_types
from sarwmix_jax.settings.sections import FinetuningSettings, PretrainingSettings
from sarwmix_jax.training.loop import train
from sarwmix_jax.training.run import set_up
from tests.training.observables import Place, get


def labelled_run(settings, place):
    """Class weights, samples by name, description and selection rules of a finetuning run, or why there is none."""
    try:
        run = set_up(settings)
    except UserError as error:
        return str(error)
    samples = [[each.name_of(n) for n in range(len(each))] for each in (*run.sources, *run.held_out)]
    return run.task.class_weights, samples, run.task.description, run.task.rules


def last_step(settings, place):
    """Step at which a run ends that makes no progress."""
    return train(settings, place.folder).step


def updates(settings, place):
    """One update of all parameters by gradients of 1."""
    run = set_up(settings)
    params = jax.tree.map(lambda leaf: np.ones(leaf.shape, np.float32), abstract_model(*run.task.model)[1])
    changes = jax.jit(lambda tree: run.optimizer.update(tree, run.optimizer.init(tree), tree)[0])(params)
    return [float(np.abs(leaf).sum()) for leaf in jax.tree.leaves(changes)]


TABLE = {
    "task": (("single_label", "flood"), labelled_run),
    "data.label_fraction": ((0.5, 0.25), labelled_run),
    "data.fraction_seed": ((1, 2), labelled_run),
    "validation.split": (("held_out", "train"), labelled_run),
    "validation.share": ((0.3, 0.5), labelled_run),
    "validation.patience": ((2, 3), last_step),
    "head.frozen_encoder": ((True, False), updates),
    "head.class_weights": (("balanced", "none"), labelled_run),
    "optimizer.layer_decay": ((0.5, 1.0), updates),
    "flood.tiling": (("released", "two_band"), labelled_run),
    "flood.patch_op": (("max", "avg"), labelled_run),
}
"""Alternative values and the observable that must differ."""

CONTEXT = {
    "data.fraction_seed": {"data.label_fraction": 0.5},
    "validation.share": {"validation.split": "held_out"},
    "validation.patience": {
        "optimizer.base_lr": 1e-30,
        "optimizer.min_lr": 0.0,
        "head.frozen_encoder": True,
        "optimizer.stop_after_epochs": 4.0,
    },
    "flood.tiling": {"task": "flood"},
    "flood.patch_op": {"task": "flood"},
}


def test_the_table_of_finetuning_has_what_pretraining_lacks():
    own = set(setting_types(FinetuningSettings)) - set(setting_types(PretrainingSettings))
    assert own <= set(TABLE) <= set(setting_types(FinetuningSettings))


@pytest.mark.parametrize(
    "name",
    [pytest.param(name, marks=pytest.mark.slow if look is last_step else []) for name, (_, look) in TABLE.items()],
)
def test_finetuning_setting_changes_something(name, finetuning_settings, pairs, tmp_path):
    values, look = TABLE[name]
    context = CONTEXT.get(name, {})
    if context.get("task") == "flood":
        context = context | {"data.records": (str(pairs),)}
    before = finetuning_settings(**context)
    changed = next(value for value in values if value != get(before, name))
    after = finetuning_settings(**context | {name: changed})
    seen = [look(settings, Place(tmp_path / str(turn))) for turn, settings in enumerate((before, after))]
    assert seen[0] != seen[1]
