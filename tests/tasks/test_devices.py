"""Data parallelism on eight fake devices."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest


def on_eight_devices(what: str) -> dict:
    # Nothing heavy is computed: machine code is left unoptimised, the program itself is not.
    flags = "--xla_force_host_platform_device_count=8 --xla_backend_optimization_level=0"
    environment = os.environ | {"XLA_FLAGS": f"{os.environ.get('XLA_FLAGS', '')} {flags}", "JAX_PLATFORMS": "cpu"}
    command = [sys.executable, "-m", "tests.tasks.eight_devices", what]
    root = Path(__file__).parents[2]
    done = subprocess.run(command, cwd=root, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@pytest.fixture(scope="module")
def eight_devices() -> dict:
    return on_eight_devices("quick")


def test_one_all_reduce_and_no_other_collective(eight_devices):
    assert eight_devices["devices"] == 8
    assert eight_devices["collectives"] == {"all-reduce": 1}


@pytest.mark.slow
def test_same_gradients_and_losses_on_any_devices():
    found = on_eight_devices("thorough")
    assert found["alone"] == {}  # one device reduces nothing
    exact, rounded = found["gradient_errors"]
    assert exact[0] < 1e-6
    # eight numbers are rounded to eight bits, and so is their sum at most seven times
    assert 2**-12 < rounded[1] < 8 * 2**-9
    np.testing.assert_allclose(found["one"], found["eight"], rtol=0, atol=1e-6)
    assert len(set(found["eight"])) == 3
    np.testing.assert_allclose(found["accumulated"], found["eight"], rtol=0, atol=1e-6)
    assert len(set(found["finetuned"][0])) == 3
    for other in found["finetuned"][1:]:
        np.testing.assert_allclose(other, found["finetuned"][0], rtol=0, atol=1e-5)
    for other in found["evaluated"][1:]:
        np.testing.assert_allclose(other, found["evaluated"][0], rtol=1e-6)


def test_rows_that_do_not_divide_are_refused(eight_devices):
    assert eight_devices["refusal"] == "3 rows of 'image' do not divide by 8 devices; change the batch"
