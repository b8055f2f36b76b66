import jax
import pytest

from sarwmix_jax.settings.model import published
from sarwmix_jax.training.resources import PEAK_FLOPS, parts_of, peak_flops, table, training_flops
from tests.support import pretraining_task


@pytest.mark.parametrize(
    ("size", "forward", "trainable"),
    [
        ("base", 11.83e9, 113_547_000),
        pytest.param("large", 24.30e9, None, marks=pytest.mark.slow),
        pytest.param("huge", 77.06e9, None, marks=pytest.mark.slow),
    ],
)
def test_published_sizes(size, forward, trainable):
    parts = parts_of(pretraining_task(published(size)))
    assert sum(part.flops for part in parts) == pytest.approx(forward, rel=1e-3)
    assert training_flops(parts) == pytest.approx(3 * forward, rel=1e-3)
    if trainable:
        assert sum(part.parameters for part in parts) == trainable
    assert all(part.parameters > 0 for part in parts)


def test_stage_three_is_most_of_base():
    parts = {part.name: part.flops for part in parts_of(pretraining_task(published("base")))}
    assert parts["stage 3"] / sum(parts.values()) == pytest.approx(0.63, abs=0.01)


def test_table_ends_with_the_sum():
    assert table(parts_of(pretraining_task(published("base")))).splitlines()[-1].split() == [
        "all",
        "113,547,000",
        "11.830",
    ]


def test_no_peak_is_made_up_for_an_unknown_device():
    assert peak_flops(jax.devices("cpu")[0]) is None
    assert PEAK_FLOPS["NVIDIA H200"] == 989e12
