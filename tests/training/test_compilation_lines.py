"""What a run prints of its compilation."""

import re

import jax
import jax.numpy as jnp
import pytest

from sarwmix_jax.training.logs import RunLog
from sarwmix_jax.training.resources import announced


@pytest.fixture
def kept(tmp_path):
    """A folder for compiled programs of any duration."""
    from jax.experimental.compilation_cache.compilation_cache import reset_cache

    names = ("jax_compilation_cache_dir", "jax_persistent_cache_min_compile_time_secs")
    before = {name: jax.config.values[name] for name in names}
    for name, value in zip(names, (str(tmp_path / "compiled"), 0.0), strict=True):
        jax.config.update(name, value)
    reset_cache()
    yield
    for name, value in before.items():
        jax.config.update(name, value)
    reset_cache()


def lines(tmp_path, capsys):
    jax.clear_caches()
    with RunLog(tmp_path, 1) as log:
        step = announced(jax.jit(lambda x: jnp.cos(x) @ x + 41), log)
        for _ in range(3):
            step(jnp.ones((8, 8)))
    return capsys.readouterr().err.splitlines()


def test_a_program_that_an_earlier_start_kept_is_loaded(kept, tmp_path, capsys):
    first, second = lines(tmp_path, capsys), lines(tmp_path, capsys)
    assert first[0] == second[0]
    assert first[0].startswith("compiling the training step, unless an earlier start has kept it (base on two CPU")
    assert re.fullmatch(r"training step compiled in \d+\.\d s", first[1])
    assert re.fullmatch(r"training step loaded in \d+\.\d s", second[1])
    assert len(first) == len(second) == 2


def test_without_a_folder_for_programs_it_is_compiled(tmp_path, capsys):
    before = jax.config.values["jax_compilation_cache_dir"]
    jax.config.update("jax_compilation_cache_dir", None)
    try:
        found = lines(tmp_path, capsys)
    finally:
        jax.config.update("jax_compilation_cache_dir", before)
    assert found[0].startswith("compiling the training step (base on two CPU cores: ")
    assert found[1].startswith("training step compiled in ")
