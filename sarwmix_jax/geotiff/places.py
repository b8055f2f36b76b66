"""Places: groups of scenes that overlap or touch, and which of them are held out of training."""

import hashlib
from collections.abc import Mapping, Sequence

import numpy as np
from affine import Affine
from jaxtyping import Float, Int
from rasterio.errors import RasterioError
from rasterio.transform import array_bounds
from rasterio.warp import transform_bounds

from sarwmix_jax.errors import UserError
from sarwmix_jax.geotiff.scenes import Scene

_DEGREES = "EPSG:4326"
_TOUCHING = 1e-6
"""In metres or degrees: adjacent scenes share an edge up to rounding."""


def held_out_places(places: Sequence[int], names: Sequence[str], tiles: Sequence[int], share: float | None) -> set[int]:
    """The places whose scenes become the validation split.

    They are chosen in the order of a hash of their scenes' grids, so that most of them stay when scenes are added. A
    place with more than half of all tiles is always used for training.

    Args:
        places: Number of each scene's place.
        names: Grid of each scene, as text.
        tiles: Number of tiles of each scene.
        share: Share of the places to hold out, at least one; None: a tenth where there are two or more, else none.

    Raises:
        UserError: The share is not from 0 to below 1, or is given although there is only one place.
    """
    if share is not None and not 0 <= share < 1:
        raise UserError(f"--validation={share:g}: give a share of the places from 0 to below 1")
    hashes: dict[int, bytes] = {}
    counts: dict[int, int] = {}
    for place, name, count in zip(places, names, tiles, strict=True):
        digest = hashlib.blake2b(name.encode(), digest_size=8).digest()
        hashes[place] = min(digest, hashes.get(place, digest))
        counts[place] = counts.get(place, 0) + count
    if len(hashes) < 2 and share:
        raise UserError(
            f"--validation={share:g}: all scenes lie in one place, and neighbouring tiles are too alike to validate "
            "on; add scenes of other places, or leave it out"
        )
    if len(hashes) < 2 or share == 0:
        return set()
    wanted = min(max(1, round((0.1 if share is None else share) * len(hashes))), len(hashes) - 1)
    able = [place for place in sorted(hashes, key=hashes.__getitem__) if 2 * counts[place] <= sum(counts.values())]
    return set(able[:wanted])


def places_of(scenes: Sequence[Scene]) -> Int[np.ndarray, " scenes"]:
    """Number of each scene's place: scenes whose bounding boxes meet, directly or through others, are one place.

    Scenes whose coordinate reference system is not known are compared in their own coordinates, within equal systems.
    """
    grids = {grid_name(scene): scene for scene in scenes}
    boxes: dict[str, list[tuple[float, ...]]] = {}
    rows: dict[str, tuple[str, int]] = {}
    several = len({scene.crs for scene in scenes}) > 1
    for name, scene in grids.items():
        system, box = _box(scene, in_degrees=several)
        rows[name] = (system, len(boxes.setdefault(system, [])))
        boxes[system].append(box)
    numbers: Mapping[str, np.ndarray] = {system: _connected(np.array(some)) for system, some in boxes.items()}
    labels = {name: (system, int(numbers[system][row])) for name, (system, row) in rows.items()}
    order = {label: number for number, label in enumerate(dict.fromkeys(labels.values()))}
    return np.array([order[labels[grid_name(scene)]] for scene in scenes])


def grid_name(scene: Scene) -> str:
    """The grid of a scene, as text."""
    return f"{scene.crs} {scene.transform} {scene.height} {scene.width}"


def _box(scene: Scene, *, in_degrees: bool) -> tuple[str, tuple[float, ...]]:
    """Coordinate system and left, bottom, right, top of a scene: in its own system, or in degrees if that is known."""
    left, bottom, right, top = array_bounds(scene.height, scene.width, Affine(*scene.transform))
    own = (min(left, right), min(bottom, top), max(left, right), max(bottom, top))
    if not in_degrees or not scene.crs:
        return scene.crs, own
    try:
        west, south, east, north = transform_bounds(scene.crs, _DEGREES, *own)
    except RasterioError:
        return scene.crs, own
    if not np.isfinite((west, south, east, north)).all():
        return scene.crs, own
    return _DEGREES, (west, south, east, north) if west <= east else (-180.0, south, 180.0, north)


def _connected(boxes: Float[np.ndarray, "box 4"]) -> Int[np.ndarray, " box"]:
    """Number of the group of each box; boxes that meet are in one group."""
    from scipy.sparse import coo_array  # here, as --help does not need it
    from scipy.sparse.csgraph import connected_components

    order = np.argsort(boxes[:, 0])
    left, bottom, right, top = boxes[order].T
    ends = np.searchsorted(left, right + _TOUCHING, side="right")
    pairs = [np.zeros((0, 2), np.int64)]
    for number, end in enumerate(ends):
        others = np.arange(number + 1, end)
        apart = np.maximum(bottom[others], bottom[number]) - np.minimum(top[others], top[number])
        others = others[apart <= _TOUCHING]
        pairs.append(np.stack([np.full_like(others, number), others], axis=1))
    first, second = order[np.concatenate(pairs)].T
    graph = coo_array((np.ones(len(first)), (first, second)), shape=(len(boxes), len(boxes)))
    return connected_components(graph, directed=False)[1]
