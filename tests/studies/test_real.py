"""A study on real labelled patches, from random parameters and from a converted `.pth` file."""

import csv

import pytest

from sarwmix_jax.cli.main import main
from tests.data_prep.conftest import run_script
from tests.studies.studies import config_file
from tests.support import GOLDEN, SHARED_DATA

PATCHES = SHARED_DATA / "bigearthnet_v2_more"
MODEL = (
    "model.embed_dim=8 model.depths=(1,1,2,1) model.num_heads=(1,2,4,8) model.decoder_dim=16 model.decoder_depth=2 "
    "model.decoder_heads=4 model.dtype=float32 batch.global_batch=4"
)


@pytest.mark.slow
@pytest.mark.skipif(not PATCHES.is_dir(), reason=f"no labelled patches at {PATCHES}")
def test_fractions_of_real_patches_from_a_converted_file(tmp_path, capsys):
    records, released = tmp_path / "records", tmp_path / "released"
    metadata = PATCHES / "metadata_subset.parquet"
    done = run_script("bigearthnet_v2.py", "--root", PATCHES, "--metadata", metadata, "--out", records)
    assert done.returncode == 0, done.stderr
    options = ("--statistics=bigearthnet_v2", "--decoder-heads=4", "--norm-pix=yes", "--verify")
    assert main(["convert", str(GOLDEN / "pretrain_tiny.pth"), str(released), *options]) == 0
    changes = {
        "records": str(records),
        "checkpoints": (f"released {released}",),
        "finetuning": f"finetune_bigearthnet_v2:base {MODEL} optimizer.stop_after_epochs=2",
        "best": "weighted",
        "fractions": (1.0, 0.5),
        "seeds": (0,),
        "measured": ("finetuned", "probe", "baseline", "reconstruction"),
    }
    config = config_file(tmp_path / "real.py", **changes)
    assert main(["study", f"--config={config}", f"--workdir={tmp_path / 'out'}"]) == 0
    table = capsys.readouterr().out
    with (tmp_path / "out" / "results.csv").open() as file:
        rows = list(csv.DictReader(file))
    finetuned = [row for row in rows if (row["measured"], row["score"]) == ("finetuned", "ap_macro")]
    assert len(finetuned) == 2 * 2 * 2  # starts, fractions, splits
    assert all(0 < float(row["value"]) < 1 for row in finetuned)
    assert {row["step"] for row in rows if row["measured"] == "reconstruction"} == {"reconstruct/released/seed0"}
    assert "| published: ResNet-50 | - | 0.6284 |" in table
    assert "published on bigearthnet_v2: Sentinel-1 alone, test split" in table
