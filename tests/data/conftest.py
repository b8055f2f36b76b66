from pathlib import Path

import numpy as np
import pytest

from sarwmix_jax.data.records import Contract, Record
from sarwmix_jax.data.sources import RecordSource, open_records
from tests.record_sets import write_records

CLASSES = ("arable", "forest", "water")


def toy_contract(**changes) -> Contract:
    return Contract(
        **{
            "name": "toy",
            "version": "1.2.3",
            "source": "numbers",
            "quantity": "sigma0",
            "height": 4,
            "width": 4,
            "classes": CLASSES,
        }
        | changes
    )


def toy_records(count: int, first: int = 0, side: int = 4) -> list[Record]:
    """Records that encode their number: VH is -20 - n/8, VV is 7 dB above."""
    shift = np.array([0.0, 7.0], np.float32)[:, None, None]
    return [
        Record(
            image=np.broadcast_to(shift - 20 - n / 8, (2, side, side)).astype(np.float32),
            patch_id=f"patch_{n}",
            s1_name=f"s1_{n}",
            country="Austria",
            labels=(CLASSES[n % 3],),
        )
        for n in range(first, first + count)
    ]


@pytest.fixture
def make_source(tmp_path: Path):
    """Write `count` toy records (and as many validation records) and open them."""

    def make(count: int, name: str = "toy", split: str = "train", shard: int = 7) -> RecordSource:
        out = tmp_path / name
        splits = {"train": toy_records(count), "validation": toy_records(count, first=count)}
        write_records(out, toy_contract(name=name), splits, records_per_shard=shard)
        return open_records(out, split)

    return make
