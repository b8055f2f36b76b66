"""The configs hold the recipes of the specification."""

import ast
import re
import runpy
from pathlib import Path

import pytest

from sarwmix_jax.errors import UserError
from sarwmix_jax.settings.config import as_json, finetuning_config, pretraining_config, to_dataclass
from sarwmix_jax.settings.recipes import recipes
from sarwmix_jax.settings.sections import FinetuningSettings, PretrainingSettings
from sarwmix_jax.settings.study import study_config

CONFIGS = Path(__file__).parents[1] / "configs"


def config(name: str, *arguments: str):
    return runpy.run_path(str(CONFIGS / f"{name}.py"))["get_config"](*arguments)


@pytest.mark.parametrize(("task", "kind"), [("pretrain", PretrainingSettings), ("finetune", FinetuningSettings)])
@pytest.mark.parametrize("size", ["base", "large", "huge"])
def test_v1_differs_from_v2_in_its_statistics_alone(task, kind, size):
    v1, v2 = (as_json(to_dataclass(config(f"{task}_bigearthnet_{data}", size), kind)) for data in ("v1", "v2"))
    assert v1["data"].pop("statistics") == "bigearthnet_v1"
    assert v2["data"].pop("statistics") == "bigearthnet_v2"
    assert v1 == v2


def values(recipe, *names: str):
    """Settings by their dotted names."""
    found = []
    for name in names:
        part = recipe
        for step in name.split("."):
            part = part[step]
        found.append(part)
    return found


def test_published_finetuning_recipe():
    recipe = config("finetune_bigearthnet_v1", "base")
    assert values(recipe, "task", "data.split", "validation.split") == ["multilabel", "train", "validation"]
    assert values(recipe, "batch.global_batch", "optimizer.base_lr", "optimizer.min_lr") == [1024, 5e-4, 1e-6]
    assert values(recipe, "optimizer.beta1", "optimizer.beta2", "optimizer.eps") == [0.9, 0.999, 1e-8]
    assert values(recipe, "optimizer.weight_decay", "optimizer.layer_decay", "model.drop_path") == [0.05, 0.7, 0.1]
    assert values(recipe, "optimizer.warmup_epochs", "optimizer.schedule_epochs") == [5.0, 50.0]
    assert values(recipe, "augment.horizontal_flip", "augment.vertical_flip") == [0.5, 0.5]
    assert values(recipe, "data.label_fraction", "head.frozen_encoder", "head.class_weights") == [1.0, False, "none"]


def test_flood_recipes_differ_in_tiling_selection_and_flips():
    new, published = config("finetune_sen12flood"), config("finetune_sen12flood", "published")
    assert values(new, "task", "flood.tiling", "validation.split") == ["flood", "two_band", "held_out"]
    assert values(published, "flood.tiling", "validation.split") == ["released", "test"]
    assert values(published, "augment.horizontal_flip", "augment.vertical_flip") == [0.0, 0.0]
    assert values(new, "data.statistics", "model.recompute") == ["bigearthnet_v1", "block"]
    with pytest.raises(UserError, match="recipe 'old' is unknown; use new or published"):
        config("finetune_sen12flood", "old")


@pytest.mark.parametrize("name", recipes())
def test_a_recipe_holds_what_differs_from_the_defaults_and_nothing_else(name):
    """Every assignment, for every size of the model; a value is a literal, so that a recipe has no logic."""
    source = recipes()[name].read_text()
    sizes = ("base", "large", "huge") if "get_config(size: str" in source else ("base",)
    makers = {"finetune": finetuning_config, "study": lambda size: study_config()}
    default_config = makers.get(name.partition("_")[0], pretraining_config)
    made, *lines = (node for node in ast.walk(ast.parse(source)) if isinstance(node, ast.Assign))
    assert ast.unparse(made.targets[0]) == "config" and lines
    for line in lines:
        setting, value = ast.unparse(line.targets[0]).removeprefix("config."), ast.literal_eval(line.value)
        for size in sizes:
            assert values(default_config(size), setting) != [value], ast.unparse(line)


@pytest.mark.parametrize("name", recipes())
def test_a_recipe_opens_with_its_command_hardware_and_result(name):
    opening = recipes()[name].read_text().split('"""')[1]
    assert re.search(rf"^    sarwmix (demo |(pretrain|finetune|study) --config={name}[ :])", opening, re.MULTILINE)
    assert re.search(r"^Hardware: \S", opening, re.MULTILINE)
    assert re.search(r"^Measured(: not yet measured\.$| on )", opening, re.MULTILINE)
    assert ".py" not in opening
