"""Which scenes are one place, and which places are held out: numbers written down by hand."""

import pytest

from sarwmix_jax.errors import UserError
from sarwmix_jax.geotiff.places import held_out_places, places_of
from sarwmix_jax.geotiff.scenes import Scene
from sarwmix_jax.geotiff.statements import Statements


def scene(left: float, top: float, side: int = 100, crs: str = "EPSG:32633", metres: float = 10) -> Scene:
    transform = (metres, 0.0, left, 0.0, -metres, top)
    return Scene(f"{crs} {left} {top}", (), side, side, crs, transform, Statements())


def test_scenes_that_overlap_or_touch_are_one_place_also_through_others():
    scenes = [
        scene(600_000, 5_400_000),
        scene(600_000, 5_400_000),  # another date of it
        scene(600_990, 5_400_000),  # overlaps by ten metres
        scene(601_990, 5_400_000),  # touches the one before
        scene(603_000, 5_400_000),  # ten metres away
        scene(600_000, 5_398_000),  # a kilometre south of the first
        scene(600_500, 5_396_990, side=20),  # ten metres south of that one
        scene(600_100, 5_397_500, side=20),  # inside of it
    ]
    assert places_of(scenes).tolist() == [0, 0, 0, 0, 1, 2, 3, 2]


def test_coordinate_systems_are_brought_together():
    """Where UTM zones meet at the equator, 12 degrees east, the easting is 833,978.6 m in one and 166,021.4 m in the
    other; both are a kilometre wide here, and a degree has some 111 km."""
    zone_32, zone_33 = scene(833_479, 500, crs="EPSG:32632"), scene(165_521, 500)
    degrees, beside = (scene(left, 0.005, 10, "EPSG:4326", 1e-3) for left in (11.995, 12.006))
    inland, unknown = scene(167_021, 500), scene(165_521, 500, crs="")
    assert places_of([zone_32, zone_33, degrees, beside, inland, unknown, unknown]).tolist() == [0, 0, 0, 1, 1, 2, 2]


@pytest.mark.parametrize(
    ("count", "share", "held_out"),
    [
        (2, None, 1),
        (5, None, 1),
        (14, None, 1),
        (16, None, 2),
        (40, None, 4),
        (40, 0.5, 20),
        (40, 0.999, 39),
        (3, 0, 0),
    ],
)
def test_the_number_of_places_held_out_is_exact(count, share, held_out):
    places = [number for number in range(count) for _ in range(3)]
    names = [f"grid {number}" for number in places]
    assert len(held_out_places(places, names, [7] * len(places), share)) == held_out


def test_most_places_stay_held_out_when_scenes_are_added():
    """The order is that of hashes of the grids, whatever else is there: taken one by one."""
    names = [f"grid {number}" for number in range(100)]
    before = {names[n] for n in held_out_places(range(50), names[:50], [1] * 50, 0.2)}
    after = {names[n] for n in held_out_places(range(100), names, [1] * 100, 0.1)}
    assert len(before) == len(after) == 10
    fresh = after - before
    assert all(int(name.split()[1]) >= 50 for name in fresh)  # none goes over from training
    again = held_out_places([7, 3, 3, 9], ["b", "c", "a", "d"], [1] * 4, None)
    assert again == held_out_places([9, 3, 7, 3], ["d", "a", "b", "c"], [1] * 4, None)


def test_a_place_with_most_of_the_tiles_is_trained_on():
    for names in (["a", "b", "c"], ["c", "a", "b"], ["b", "c", "a"]):
        assert 1 not in held_out_places([0, 1, 2], names, [10, 90, 10], 0.5)
    assert held_out_places([0, 1], ["a", "b"], [60, 40], None) == {1}
    assert held_out_places([0, 1], ["b", "a"], [60, 40], None) == {1}


def test_one_place_and_wrong_shares():
    assert held_out_places([0, 0], ["a", "b"], [5, 5], None) == set()
    assert held_out_places([0, 0], ["a", "b"], [5, 5], 0) == set()
    with pytest.raises(UserError, match=r"--validation=0\.1: all scenes lie in one place"):
        held_out_places([0, 0], ["a", "b"], [5, 5], 0.1)
    for share in (1, -0.1, float("nan")):
        with pytest.raises(UserError, match="give a share of the places from 0 to below 1"):
            held_out_places([0, 1], ["a", "b"], [5, 5], share)
