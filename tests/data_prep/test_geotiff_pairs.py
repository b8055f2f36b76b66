"""Hundreds of drawn pairs of GeoTIFFs: sufficient statements are read correctly, contradictory ones are refused."""

import re
from collections import Counter

import numpy as np
import pytest

from sarwmix_jax.data.sources import open_records
from tests.data_prep.geotiff_pair_files import draw_pair
from tests.data_prep.geotiff_pairs import FAULTS, SIDE, Pair

SCRIPT = "geotiff.py"
WITHIN_DB = 0.02
REASONS = {
    "unit of the values": r"taken as (dB, but .*: linear power, not dB|linear, but .*% of the values are negative)",
    "unit stated twice": r"declared as (dB|linear) \(.*\) and (dB|linear) \(.*\); .*--unit",
    "quantity stated twice": r"declared as (gamma0|sigma0) \(.*\) and (gamma0|sigma0) \(.*\); .*--quantity",
    "unit option": r"declared as (dB|linear) \(.*\), expected (dB|linear)",
    "quantity option": r"declared as (gamma0|sigma0) \(.*\), expected (gamma0|sigma0)",
    "amplitude": "declared as amplitude",
    "swapped": "the bands are swapped",
    "undeclared fill": r"-\d.* at row 10, column 0 .*give --nodata=-\d",
    "polarisation stated twice": "is named V[HV], but its band states V[HV]",
    "side-car link": "is a link",
    "side-car damaged": r"aux.xml cannot be read \(",
    "side-car nodata": "nodatavals -8888.0 contradicts -7777.0",
    "world file elsewhere": "places the raster elsewhere",
    "odd mask": "is called a mask, but holds other values",
    "unapplied scale": "tag scale_factor=0.5 is not applied",
    "no quantity": "does not state whether it is sigma0 or gamma0; give --quantity",
    "no polarisation": "no VH is found",
    "infinite": "inf at row 10, column 0 ",
}


def check_read(pair: Pair, out) -> None:
    source = open_records(out, "train")
    assert len(source) == 1 and source.contract.quantity == pair.quantity
    record = source[0]
    np.testing.assert_array_equal(record["valid_pixels"], pair.valid)
    image_db, expected_db = record["image"].astype(np.float64)[:, pair.valid], pair.values_db[:, pair.valid]
    # Below -60 dB float16 is coarser: half a step there.
    step = np.spacing(np.abs(expected_db).astype(np.float16)).astype(np.float64)
    within = np.where(expected_db > -60, WITHIN_DB, step / 2 + 1e-5)
    wrong = np.abs(image_db - expected_db) > within
    assert not wrong.any(), (image_db[wrong][:4], expected_db[wrong][:4])


def check_pairs(run_here, tmp_path, seeds) -> Counter:
    counts: Counter = Counter()
    for seed in seeds:
        pair = draw_pair(seed, tmp_path / f"{seed}" / "in")
        out = tmp_path / f"{seed}" / "out"
        done = run_here(SCRIPT, "--inputs", pair.folder, "--out", out, f"--tile={SIDE}", *pair.options)
        about = f"seed {seed}: {pair.fault}, {pair.quantity}, {pair.unit}, {pair.options}, {pair.drawn}\n{done.stderr}"
        if pair.fault is None:
            assert done.returncode == 0, about
            try:
                check_read(pair, out)
            except AssertionError as error:
                raise AssertionError(f"{about}{error}") from None
        else:
            assert done.returncode == 2 and done.stderr.startswith("error: "), about
            assert done.stderr.count("\n") == 1 and str(pair.folder) in done.stderr, about
            assert re.search(REASONS[pair.fault], done.stderr), about
            assert not out.exists(), about
        counts[pair.fault] += 1
    return counts


def test_sixty_pairs(run_here, tmp_path):
    counts = check_pairs(run_here, tmp_path, range(60))
    assert counts[None] >= 0.6 * 60


@pytest.mark.slow
def test_five_hundred_pairs(run_here, tmp_path):
    counts = check_pairs(run_here, tmp_path, range(60, 660))
    assert counts[None] >= 0.6 * 600
    assert set(counts) == {None, *FAULTS}
    print(dict(counts))
