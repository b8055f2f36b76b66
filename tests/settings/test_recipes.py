"""The command line of settings: recipes by name, every form of a flag, and what a mistake is answered with."""

import itertools
import operator
import subprocess
import sys

import pytest

from sarwmix_jax.errors import UserError
from sarwmix_jax.settings.config import resolve
from sarwmix_jax.settings.declarations import setting_types
from sarwmix_jax.settings.listing import declared
from sarwmix_jax.settings.recipes import load_config, read_config, recipes, split_arguments, suggestion
from sarwmix_jax.settings.sections import TASKS, PretrainingSettings
from tests.test_configs import CONFIGS, values

BASE = {"pretraining": "--config=pretrain_bigearthnet_v2:base", "finetuning": "--config=finetune_bigearthnet_v2:base"}
EVERY = [(task, name) for task, kind in TASKS.items() for name in setting_types(kind)]
OPTIONAL = [(task, name) for task, name in EVERY if setting_types(TASKS[task])[name].optional]


def given(task, *changes):
    return read_config([BASE[task], *(f"--config.{change}" for change in changes)])


def refused(*arguments, default=None):
    with pytest.raises(UserError) as caught:
        read_config(arguments, default)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_config_arguments_in_every_form():
    arguments = [
        *(
            "one",
            "--config",
            "demo",
            "-config.seed",
            "-3",
            "--workdir",
            "x",
            "--config.model.scan",
            "--noconfig.loss.norm_pix",
        ),
        *("--config.data.records", "a b", "--config.optimizer.clip_grad=", "--no-config", "--", "--config.seed=1"),
    ]
    assert split_arguments(arguments) == (
        [
            *("--config=demo", "--config.seed=-3", "--config.model.scan=true", "--config.loss.norm_pix=false"),
            *("--config.data.records=a b", "--config.optimizer.clip_grad="),
        ],
        ["one", "--workdir", "x", "--no-config", "--", "--config.seed=1"],
    )
    config = read_config(["--config", "demo", "--config.seed", "3", "--config.model.scan", "--noconfig.loss.norm_pix"])
    assert values(config, "seed", "model.scan", "loss.norm_pix", "model.embed_dim") == [3, True, False, 8]
    assert config.is_locked


def test_values_of_every_type():
    config = given(
        "pretraining",
        *("optimizer.base_lr=1", "model.depths=1,1,2,1", "model.num_heads=(1, 2, 4, 8)", "data.quantity=2020"),
        *("data.records=a,b", "data.records='c', 'd'", "checkpoint.at_epochs=5", "data.mix_weights=0.5,0.5"),
    )
    assert values(config, "optimizer.base_lr", "model.depths", "model.num_heads") == [1.0, (1, 1, 2, 1), (1, 2, 4, 8)]
    assert values(config, "data.records", "data.quantity") == [("a,b", "c", "d"), "2020"]
    assert values(config, "checkpoint.at_epochs", "data.mix_weights") == [(5.0,), (0.5, 0.5)]
    assert values(given("pretraining", "seed=1", "seed=2"), "seed") == [2]


@pytest.mark.parametrize(
    "change",
    [
        *("model.depths=1e999", "model.depths={[]: 1}", "model.depths=(1, None, 1, 1)", "model.depths=1,1,1.5,1"),
        *("data.mix_weights=" + "9" * 400, "seed=" + "9" * 5000, "model.depths=" + "(" * 5000, "loss.norm_pix=maybe"),
    ],
    ids=lambda change: change[:24],
)
def test_a_text_that_is_no_value_is_one_line(change):
    name = change.split("=")[0]
    words = setting_types(PretrainingSettings)[name].words
    assert refused(BASE["pretraining"], f"--config.{change}").endswith(f"; give {words}, --config.{name}=VALUE")


@pytest.mark.parametrize("folder", ["{[]: 1}", "(" * 5000, "1e999", "('a', 1)", "None"])
def test_a_folder_may_have_any_name(folder):
    assert values(given("pretraining", f"data.records={folder}"), "data.records") == [(folder,)]


@pytest.mark.parametrize(("task", "name"), OPTIONAL)
@pytest.mark.parametrize("nothing", ["", "none", "None"])
def test_every_optional_setting_can_be_unset(task, name, nothing):
    kind = setting_types(TASKS[task])[name]
    value = {int: "4", float: "0.5", bool: "true", str: "x", tuple: "4,4,4,4"}[kind.kind]
    assert values(given(task, f"{name}={value}"), name) != [None]
    config = given(task, f"{name}={value}", f"{name}={nothing}", "data.records=folder")
    assert values(config, name) == [None]
    assert operator.attrgetter(name)(resolve(config, TASKS[task])) is None
    (again,) = values(given(task, f"{name}=", f"{name}={value}"), name)
    assert again is not None


def test_a_recipe_that_sets_an_optional_setting_is_unset():
    assert read_config(["--config=finetune_sen12flood:new"]).batch.micro_batch == 4
    assert read_config(["--config=finetune_sen12flood:new", "--config.batch.micro_batch="]).batch.micro_batch is None


@pytest.mark.parametrize(("task", "name"), EVERY)
def test_a_wrong_value_is_answered_with_the_flag(task, name):
    kind = setting_types(TASKS[task])[name]
    if not kind.optional:
        line = refused(BASE[task], f"--config.{name}=")
        assert line == f"--config.{name} cannot be unset; give {kind.words}, --config.{name}=VALUE"
    if kind.kind is not str and kind.part is not str:
        line = refused(BASE[task], f"--config.{name}=many")
        assert line == f"--config.{name} is 'many'; give {kind.words}, --config.{name}=VALUE"
    if kind.range is not None or kind.choices:
        config = given(task, f"{name}={'many' if kind.choices else '-1'}", "data.records=folder")
        with pytest.raises(UserError, match=rf"^--config\.{name} is .*(give|use one of) "):
            resolve(config, TASKS[task])


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ([], "--config is not given; give an own file, --config=FILE.py, or a recipe, --config=demo, "),
        (["--config"], "--config has no value"),
        (["--config=demo", "--config.seed"], "--config.seed has no value; give --config.seed=VALUE"),
        (["--config=dem"], "no recipe 'dem'; did you mean --config=demo; there are demo, finetune_bigearthnet_v1, "),
        (["--config=pretrain_bigearthnet:large"], "did you mean --config=pretrain_bigearthnet_v2:large"),
        (["--config=nonesuch"], "no recipe 'nonesuch'; there are demo"),
        (["--config=clone/configs/demo.py"], "no file clone/configs/demo.py; it comes with the package, --config=demo"),
        (
            ["--config=x/pretrain_bigearthnet_v2.py:huge"],
            "comes with the package, --config=pretrain_bigearthnet_v2:huge",
        ),
        (["--config=own.py"], "no file own.py; the recipes that come with the package are demo, "),
        (["--config=own/"], "no file own/; the recipes"),
        (["--config=demo:base"], "--config=demo:base: get_config('base'): too many positional arguments"),
        (["--config=pretrain_bigearthnet_v2:bse"], "model size 'bse' is unknown; use one of base, large, huge"),
        (["--config=demo", "--config.modl.image_size=64"], "did you mean --config.model.image_size"),
        (["--config=demo", "--config.model=64"], "unknown setting --config.model; there are --config.model.bands, "),
        (
            ["--config=demo", "--config.data.recods=x"],
            "unknown setting --config.data.recods; did you mean --config.data.records",
        ),
        (["--config=demo", "--config.zzz=1"], "unknown setting --config.zzz; see sarwmix settings"),
        (
            ["--config=demo", "--config.flood.tiling=released"],
            "pretraining has no setting --config.flood.tiling; finetuning has",
        ),
    ],
)
def test_mistakes_name_what_to_give(arguments, words, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert words in refused(*arguments)


OWN = "from sarwmix_jax.settings.config import pretraining_config\n\n\ndef get_config(size='base'):\n"


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (
            f"{OWN}    config = pretraining_config(size)\n    config.model.image_sise = 1\n    return config\n",
            "line 6: Attr",
        ),
        (f"{OWN}    return sise\n", "own.py, line 5: NameError: name 'sise' is not defined"),
        (f"{OWN}    return {{'seed': 1}}\n", "returns a dict; return pretraining_config(), changed"),
        (
            f"{OWN}    from ml_collections import ConfigDict\n    return ConfigDict()\n",
            "start from pretraining_config()",
        ),
        ("seed = 1\n", "own.py has no function get_config"),
        ("def get_config(:\n", "own.py: SyntaxError"),
        ("def get_config(size):\n    return size\n", "get_config(): missing a required argument: 'size'"),
        ("import nonesuch\n", "own.py, line 1: ModuleNotFoundError: No module named 'nonesuch'"),
    ],
)
def test_own_file_that_cannot_be_used(text, words, tmp_path):
    (tmp_path / "own.py").write_text(text)
    assert words in refused(f"--config={tmp_path}/own.py", "--config.seed=1").replace("\n", " ")


def test_own_file_by_its_path_with_an_argument(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "own.py").write_text(f"{OWN}    return pretraining_config(size)\n")
    for place in ("own.py", "./own.py", f"{tmp_path}/own.py"):
        assert load_config(place).model.embed_dim == 128
        assert load_config(f"{place}:large").model.embed_dim == 192
    assert read_config([], default="own.py:huge").model.embed_dim == 352
    assert read_config(["--config=own.py"], default="demo").model.embed_dim == 128


def test_recipes_are_found_by_name_in_any_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert list(recipes()) == sorted(path.stem for path in CONFIGS.glob("*.py"))
    assert load_config("pretrain_bigearthnet_v2:large").model.num_heads == (6, 12, 24, 48)


@pytest.mark.parametrize(
    ("flag", "meant"),
    [
        ("--records", "data.records"),
        ("--config.record", "data.records"),
        ("--global_batch", "batch.global_batch"),
        ("--global-batch=64", "batch.global_batch"),
        ("--config.modle.image_size=1", "model.image_size"),
        ("--config.optimizer.base_rl", "optimizer.base_lr"),
        ("--seed", "seed"),
        ("--workdr", None),
        ("--config", None),
        ("--", None),
    ],
)
def test_suggestion_for_a_mistyped_or_shortened_flag(flag, meant):
    assert suggestion(flag) == (meant and f"--config.{meant}")


def test_suggestion_of_one_task():
    assert suggestion("--layer_decay", "pretraining") is None
    assert suggestion("--layer_decay", "finetuning") == "--config.optimizer.layer_decay"


def test_every_setting_is_suggested_for_its_own_last_word():
    for name in itertools.chain.from_iterable(declared(kind()) for kind in TASKS.values()):
        assert suggestion(f"--{name}") == f"--config.{name}"
        assert suggestion(f"--config.{name}x") == f"--config.{name}"


def test_settings_are_read_without_jax_or_flags():
    code = (
        "import sys\nfrom sarwmix_jax.settings.recipes import read_config, suggestion\n"
        "from sarwmix_jax.settings.listing import settings_table\nsettings_table()\nsuggestion('--records')\n"
        "assert not {'jax', 'absl', 'ml_collections', 'numpy'} & set(sys.modules), sorted(sys.modules)\n"
        "read_config(['--config=demo'])\nassert 'jax' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
