"""The README's three commands for one's own data, as they stand but for the size of the model and of the tiles."""

import re

import pytest

from sarwmix_jax.cli.main import main
from sarwmix_jax.data.sources import open_records
from sarwmix_jax.settings.recipes import load_config
from sarwmix_jax.training.history import read_log
from tests.data_prep.conftest import REPOSITORY
from tests.data_prep.test_geotiff import scene_db, write_raster
from tests.training.conftest import TINY_RUN

KEPT = ("validation.split", "data.statistics", "batch.global_batch", "optimizer.base_lr")
TINY = [f"--config.{name}={value}" for name, value in TINY_RUN.items() if name not in KEPT]


def commands() -> list[list[str]]:
    """The three commands of the README, split at blanks."""
    section = (REPOSITORY / "README.md").read_text().partition("**Your own data in minutes**")[2]
    lines = re.search(r"```sh\n(.*?)```", section, re.DOTALL)[1].replace("\\\n", " ").splitlines()
    assert len(lines) == 3
    return [line.split() for line in lines]


SCENES = {
    "five places": [(630 + number, 128, 256) for number in range(5)],
    "two places": [(630, 64, 640), (630, 64, 640), (631, 128, 640)],
    "one place": [(633, 320, 512)],
}
"""UTM zone (after 32), rows and columns of every scene: 40 tiles of 64 pixels."""


@pytest.mark.slow
@pytest.mark.parametrize(("scenes", "held_out"), [("five places", 8), ("two places", 20), ("one place", 0)])
def test_forty_tiles(scenes, held_out, tmp_path, monkeypatch, capsys):
    for number, (zone, rows, columns) in enumerate(SCENES[scenes]):
        values = 10 ** (scene_db(640, number)[:, :rows, :columns] / 10)
        path = tmp_path / "FOLDER" / f"gamma0_{number}.tif"
        write_raster(path, values, descriptions=["VH", "VV"], crs=f"EPSG:32{zone}")
    monkeypatch.chdir(tmp_path)
    prepare, inspect, pretrain = commands()
    assert prepare[:3] == ["sarwmix", "prepare", "geotiff"] and prepare[-2:] == ["--workers", "8"]
    assert main([{"128": "64", "8": "1"}.get(word, word) for word in prepare[1:]]) == 0
    counts = open_records("records/own", "train").contract.records
    assert counts == {"train": 40 - held_out} | ({"validation": held_out} if held_out else {})
    if scenes == "two places":  # as five are trained on, once the batch of the settings is there
        assert counts["train"] >= load_config(f"{REPOSITORY}/configs/own_data.py").batch.global_batch
        return
    assert main(inspect[1:]) == 0 and (tmp_path / "own.png").is_file()
    assert main([*pretrain[1:], *TINY, "--config.model.dtype=float32", "--config.optimizer.stop_after_steps=1"]) == 0
    events = [entry["event"] for entry in read_log(tmp_path / "runs" / "own")]
    assert ("validation" in events) == bool(held_out)
    assert ("no validation: records/own has no split 'validation'" in capsys.readouterr().err) == (not held_out)
