"""The optimiser's state divided over the devices: the same losses, less memory, and restored either way."""

import json
import os
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AbstractMesh, AxisType, PartitionSpec

from sarwmix_jax.preparation.synthetic import write_synthetic_records
from sarwmix_jax.tasks.sharding import DATA_AXIS, SMALL, divided

ROOT = Path(__file__).parents[2]


def test_large_arrays_are_cut_on_the_first_axis_that_divides():
    mesh = AbstractMesh((4,), (DATA_AXIS,), axis_types=(AxisType.Auto,))
    shapes = {"first": (512, 513), "second": (513, 512), "none": (513, 515), "small": (SMALL // 4, 4), "scalar": ()}
    found = divided({name: jax.ShapeDtypeStruct(shape, jnp.float32) for name, shape in shapes.items()}, mesh)
    assert {name: leaf.sharding.spec for name, leaf in found.items()} == {
        "first": PartitionSpec(DATA_AXIS),
        "second": PartitionSpec(None, DATA_AXIS),
        **dict.fromkeys(("none", "small", "scalar"), PartitionSpec()),
    }
    assert {name: leaf.shape for name, leaf in found.items()} == shapes


@pytest.mark.slow
def test_a_divided_state_trains_as_a_whole_one_and_is_restored_either_way(tmp_path):
    write_synthetic_records(tmp_path / "records", train=20, side=64)
    environment = os.environ | {
        "XLA_FLAGS": f"{os.environ.get('XLA_FLAGS', '')} --xla_force_host_platform_device_count=4",
        "JAX_PLATFORMS": "cpu",
        "PYTHONPATH": str(ROOT),
    }
    command = [sys.executable, "-m", "tests.training.sharded_devices", str(tmp_path)]
    done = subprocess.run(command, cwd=ROOT, env=environment, text=True, capture_output=True, check=False)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout.splitlines()[-1])
    expected = found["whole"]["losses"]
    assert len(expected) == 4
    for name in ("whole then divided", "divided by 2", "then by 4", "then whole"):
        losses = found[name]["losses"]
        assert len(losses) == {"divided by 2": 2, "then by 4": 3}.get(name, 4)
        np.testing.assert_allclose(losses, expected[: len(losses)], rtol=1e-5, err_msg=name)
    shares = {name: run["bytes"][0] / run["bytes"][1] for name, run in found.items() if name != "step"}
    assert shares["whole"] == shares["then whole"] == 1
    large = 2 * (1 - shares["divided by 2"])  # share of the large arrays
    assert large > 0.3
    assert shares["then by 4"] == shares["whole then divided"] == pytest.approx(1 - 0.75 * large)
    whole, cut = found["step"]
    assert whole["collectives"].keys() == {"all-reduce"} and cut["collectives"].keys() == {"all-reduce", "all-gather"}
    assert whole["collectives"]["all-reduce"] == cut["collectives"]["all-reduce"]
    saved = found["divided by 2"]["bytes"][1] - found["divided by 2"]["bytes"][0]
    assert whole["bytes"] - cut["bytes"] == pytest.approx(saved, rel=1e-3)
    line = f"optimizer.shard_state: each of 2 devices holds {shares['divided by 2']:.1%} of the optimiser's state"
    assert line in cut["notes"] and not any("shard_state" in note for note in whole["notes"])
