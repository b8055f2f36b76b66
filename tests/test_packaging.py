"""What a wheel has: every package of the tree, and the recipes."""

import configparser
from pathlib import Path

from sarwmix_jax.settings.recipes import recipes

ROOT = Path(__file__).parents[1]


def test_setup_lists_every_package_and_the_recipes():
    setup = configparser.ConfigParser()
    setup.read(ROOT / "setup.cfg")
    listed = setup["options"]["packages"].split()
    found = {".".join(path.parent.relative_to(ROOT).parts) for path in (ROOT / "sarwmix_jax").rglob("__init__.py")}
    assert listed == sorted(found | {"sarwmix_jax.configs"})
    assert setup["options"]["package_dir"].split() == ["sarwmix_jax.configs", "=", "configs"]


def test_recipes_of_a_checkout_are_the_files_of_configs():
    assert list(recipes().values()) == sorted((ROOT / "configs").glob("*.py"))
