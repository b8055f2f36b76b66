"""Synthetic scenes (`landscapes`) as records."""

from collections.abc import Mapping
from functools import partial
from pathlib import Path

import numpy as np
import pyarrow as pa

from sarwmix_jax.data.records import Contract, Record, read_contract
from sarwmix_jax.errors import UserError
from sarwmix_jax.facts.labels import CLASSES
from sarwmix_jax.preparation.landscapes import LOOKS, SIDE, find_landscape, make_scene
from sarwmix_jax.preparation.plan import Plan, Row
from sarwmix_jax.preparation.shards import Read, prepare
from sarwmix_jax.preparation.writer import RECORDS_PER_SHARD


def draw_record(seed: int, side: int, landscape: str, row: Row) -> Record:
    """The record of a row of the plan, from a separate random stream: the same in every process and order."""
    scene = make_scene(np.random.default_rng([seed, *row["split"].encode(), row["number"]]), side, landscape)
    return Record(scene.image_db, row["patch_id"], labels=scene.labels)


def synthetic_plan(
    counts: Mapping[str, int],
    *,
    seed: int = 0,
    side: int = SIDE,
    landscape: str = "small_parcels",
    records_per_shard: int = RECORDS_PER_SHARD,
) -> tuple[Plan, Read]:
    """The plan of a set of scenes, and the function that draws a scene.

    Args:
        counts: Scenes by split.
        seed: The same seed gives the same records.
        side: Rows and columns of a scene.
        landscape: One of `landscapes.LANDSCAPES`.
        records_per_shard: Largest number of records in a file.

    Raises:
        UserError: A count or the seed is negative, all counts are 0, the side is below 1, or there is no such
            landscape.
    """
    find_landscape(landscape)
    for name, value in {**counts, "seed": seed}.items():
        if value < 0:
            raise UserError(f"{name} {value}: give 0 or more")
    if side < 1:
        raise UserError(f"side {side}: give 1 or more")
    if not any(counts.values()):
        raise UserError(f"no scenes: {', '.join(counts)} are all 0; give one of them above 0")
    contract = Contract(
        name="synthetic_scenes",
        version="1.0.0",
        source=f"synthetic land-cover scenes, {landscape}, seed {seed}, {LOOKS} looks",
        quantity="sigma0",
        height=side,
        width=side,
        classes=CLASSES,
    )
    rows = [
        {"patch_id": f"synthetic_{split}_{number:06d}", "split": split, "number": number}
        for split, count in counts.items()
        for number in range(count)
    ]
    plan = Plan(contract, pa.Table.from_pylist(rows), records_per_shard, keep_order=True)
    return plan, partial(draw_record, seed, side, landscape)


def write_synthetic_records(
    out: str | Path,
    *,
    train: int,
    validation: int = 0,
    test: int = 0,
    seed: int = 0,
    side: int = SIDE,
    landscape: str = "small_parcels",
    workers: int = 1,
) -> Contract:
    """Write synthetic scenes as a record set; the same bytes for any number of workers.

    Args:
        out: Folder to create; if the same call has created it before, it stays as it is.
        train: Scenes of the training split.
        validation: Scenes of the validation split.
        test: Scenes of the test split.
        seed: The same seed gives the same records.
        side: Rows and columns of a scene.
        landscape: One of `landscapes.LANDSCAPES`.
        workers: Number of processes that draw and write.

    Returns:
        The contract of the records.

    Raises:
        UserError: The folder holds something else or cannot be written, or a number is invalid.
    """
    counts = {"train": train, "validation": validation, "test": test}
    plan, draw = synthetic_plan(counts, seed=seed, side=side, landscape=landscape)
    prepare(plan, draw, Path(out), workers=workers)
    return read_contract(Path(out))
