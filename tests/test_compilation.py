"""Programs kept on disk between starts."""

import os
import subprocess
import sys
import warnings
from pathlib import Path

import jax
import pytest

from sarwmix_jax.errors import UserError
from sarwmix_jax.training.resources import OFF, default_place, keep_compiled


@pytest.fixture
def own_settings():
    names = ("jax_compilation_cache_dir", "jax_persistent_cache_min_compile_time_secs")
    before = {name: jax.config.values[name] for name in names}
    show = warnings.showwarning
    jax.config.update("jax_compilation_cache_dir", None)
    yield
    for name, value in before.items():
        jax.config.update(name, value)
    warnings.showwarning = show


def test_the_default_lies_in_the_users_cache(own_settings, monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert keep_compiled() == default_place() == tmp_path / "sarwmix_jax" / "compiled"
    assert jax.config.jax_compilation_cache_dir == str(tmp_path / "sarwmix_jax" / "compiled")


def test_the_folder_set_for_jax_and_the_one_given_come_first(own_settings, tmp_path):
    jax.config.update("jax_compilation_cache_dir", str(tmp_path / "set"))
    assert keep_compiled() == tmp_path / "set"
    assert keep_compiled(str(tmp_path / "asked")) == tmp_path / "asked"
    assert keep_compiled(OFF) is None


def test_a_folder_that_cannot_be_made_is_an_error_only_when_asked_for(own_settings, monkeypatch, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match=r"compiled programs cannot be kept in .*file/inside; choose another folder"):
        keep_compiled(str(tmp_path / "file" / "inside"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    assert keep_compiled() is None


def test_a_user_without_a_home_goes_on_without(own_settings, monkeypatch):
    def nobody(_):
        raise KeyError("no such user")

    for name in ("HOME", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr("pwd.getpwuid", nobody)
    assert default_place() is None and keep_compiled() is None
    assert jax.config.jax_compilation_cache_dir is None


PROGRAM = """
import sys, jax, jax.numpy as jnp
from sarwmix_jax.training.resources import keep_compiled
keep_compiled(sys.argv[1])
jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
hits = []
jax.monitoring.register_event_listener(lambda name, **_: hits.append(name))
jax.jit(lambda x: jnp.sin(x) @ x)(jnp.ones((8, 8))).block_until_ready()
print(sum(name == "/jax/compilation_cache/cache_hits" for name in hits))
"""


def start(folder):
    """Programs that a new process takes from disk, and what it prints for the reader."""
    environment = {name: value for name, value in os.environ.items() if name != "JAX_COMPILATION_CACHE_MAX_SIZE"}
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, str(folder)],
        capture_output=True,
        text=True,
        check=True,
        cwd=Path(__file__).parents[1],
        env=environment | {"JAX_PLATFORMS": "cpu"},
    )
    return int(done.stdout), done.stderr.splitlines()


def test_a_second_start_takes_the_program_from_disk(tmp_path):
    assert start(tmp_path) == (0, [])
    loaded, lines = start(tmp_path)
    assert loaded > 0 and lines == []


def cut(content):
    return content[: len(content) // 2]


def garbled(content):
    place = len(content) // 2
    return content[:place] + bytes([content[place] ^ 1]) + content[place + 1 :]


@pytest.mark.parametrize(
    "damage",
    [
        cut,
        pytest.param(garbled, marks=pytest.mark.slow),
        pytest.param(lambda _: b"", marks=pytest.mark.slow),
        pytest.param(lambda content: b"\0" * len(content), marks=pytest.mark.slow),
    ],
    ids=["cut", "garbled", "emptied", "zeroed"],
)
def test_a_damaged_program_is_compiled_and_kept_again_with_one_line_once(tmp_path, damage):
    start(tmp_path)
    kept = {path: path.read_bytes() for path in tmp_path.glob("jit__lambda*-cache")}
    for path, content in kept.items():
        path.write_bytes(damage(content))
    loaded = start(tmp_path)
    assert len(loaded[1]) == len(kept) == 1
    assert loaded[1][0].startswith(f"the compiled program jit__lambda in {tmp_path} is damaged, as by a kill (")
    assert loaded[1][0].endswith("): it is compiled again")
    again, lines = start(tmp_path)
    assert again == loaded[0] + 1 and lines == []
