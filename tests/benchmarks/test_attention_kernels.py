import importlib

import jax
import pytest

from sarwmix_jax.errors import UserError

benchmark = importlib.import_module("benchmarks.attention_kernels")


def test_check_compares_the_interpreted_kernel():
    assert benchmark.check() < 1e-5


def test_difference_sees_one_wrong_value():
    right = {"a": jax.numpy.ones((2, 3)), "b": 4 * jax.numpy.ones(2)}
    assert benchmark.difference(right | {"b": right["b"].at[1].add(1.0)}, right) == 0.25


@pytest.mark.skipif(jax.default_backend() == "gpu", reason="there is a GPU")
def test_no_times_without_a_gpu():
    with pytest.raises(UserError, match="needs a GPU and this machine has none; use --check"):
        benchmark.run()


@pytest.mark.gpu
@pytest.mark.skipif(jax.default_backend() != "gpu", reason="needs a GPU")
def test_a_table_on_a_gpu():
    table = benchmark.run(batch=8, repeats=2)
    assert {row["kernel"] for row in table["rows"]} == {"xla", "cudnn", "fused"}
    assert all(row["ms"] > 0 for row in table["rows"] if row["kernel"] != "cudnn")
