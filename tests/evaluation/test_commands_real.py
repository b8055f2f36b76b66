"""Real labelled patches from their GeoTIFFs to the scores of a released-layout and a finetuned classifier."""

import warnings

import jax.numpy as jnp
import numpy as np
import pytest

from sarwmix_jax.data.sources import open_records
from sarwmix_jax.preprocessing import resize
from tests.data_prep.conftest import run_script
from tests.evaluation.commands import check_written, class_rows, evaluate, expected_scores, finetune, result, rows_of
from tests.support import SHARED_DATA

PATCHES = SHARED_DATA / "bigearthnet_v2_more"


@pytest.mark.slow
@pytest.mark.skipif(not PATCHES.is_dir(), reason=f"no labelled patches at {PATCHES}")
def test_real_patches_are_finetuned_on_and_evaluated(converted, tmp_path):
    records = tmp_path / "records"
    metadata = PATCHES / "metadata_subset.parquet"
    done = run_script("bigearthnet_v2.py", "--root", PATCHES, "--metadata", metadata, "--out", records)
    assert done.returncode == 0, done.stderr
    run = finetune(records, tmp_path / "run", init_from=converted["pretrain"], batch__global_batch=4)
    table = evaluate([converted["finetune"], run], records, tmp_path / "out")
    source = open_records(records, "test")
    assert len(source) == 6
    batch = source.read_batch(range(6))
    images = np.asarray(resize(jnp.asarray(batch["image"], jnp.float32), 128))
    for checkpoint in (converted["finetune"], run):
        check_written(tmp_path / "out", checkpoint)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # scikit-learn's, of classes without a positive
            scores, guess = expected_scores(images, batch["labels"], checkpoint)
        found = result(tmp_path / "out", checkpoint)["scores"]
        assert found["samples"] == 6
        for name, value in scores.items():
            assert found["summary"][name] == pytest.approx(value, abs=1e-6), name
        rows = class_rows(tmp_path / "out", checkpoint)
        assert [int(row["support"]) for row in rows] == batch["labels"].sum(axis=0).tolist()
        assert [int(row["predicted"]) for row in rows] == (guess > 0.5).sum(axis=0).tolist()
    absent = int((~batch["labels"].any(axis=0)).sum())
    assert f"{absent} of 19 classes without positives count as AP 0 in macro AP." in table
    assert "published: ResNet-50" in rows_of(table)
    acquisitions = len({source.cluster_of(number) for number in range(6)})
    assert acquisitions < 8 and f"resample {acquisitions} acquisitions" in table
    assert "no interval for some scores" in table and "too few clusters for intervals" in table
