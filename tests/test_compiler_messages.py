"""XLA's own messages: not on the standard error of a command, unless the user asks for them."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]

# A sum over windows of constants, which the compiler computes itself: for seconds, of which it complains in the same
# way, by the same code (slow_operation_alarm) and as severely as of a program that takes it two minutes.
PROGRAM = """
import sys
from sarwmix_jax.cli.main import guarded

def work():
    import jax
    assert "jax" in sys.modules
    ones = lambda: jax.lax.reduce_window(
        jax.numpy.ones((20,) * 3), 0.0, jax.lax.add, (9,) * 3, (1,) * 3, "SAME")
    jax.jit(lambda: ones().sum())().block_until_ready()

assert "jax" not in sys.modules
sys.exit(guarded(work))
"""


def standard_error(**environment):
    plain = {name: value for name, value in os.environ.items() if not name.startswith(("JAX_", "TF_CPP"))}
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM],
        cwd=ROOT,
        env=plain | {"JAX_PLATFORMS": "cpu"} | environment,
        capture_output=True,
        text=True,
        check=True,
    )
    return done.stderr


@pytest.mark.slow
def test_a_slow_compilation_is_no_block_of_text():
    assert standard_error() == ""
    assert "slow_operation_alarm" in standard_error(TF_CPP_MIN_LOG_LEVEL="1")  # the user's own choice stays


def test_commands_ask_for_it_before_jax_is_imported():
    program = """
import os, sys
from sarwmix_jax.cli.main import main
main(["--help"])
assert "jax" not in sys.modules
from sarwmix_jax.cli.main import guarded
guarded(lambda: sys.stderr.write(os.environ["TF_CPP_MIN_LOG_LEVEL"]) and 0)
"""
    plain = {name: value for name, value in os.environ.items() if not name.startswith("TF_CPP")}
    for environment, level in ({}, "3"), ({"TF_CPP_MIN_LOG_LEVEL": "0"}, "0"):
        command, options = [sys.executable, "-c", program], {"cwd": ROOT, "env": plain | environment}
        done = subprocess.run(command, capture_output=True, text=True, check=True, **options)
        assert done.stderr == level
