import json
import subprocess
import sys

import pytest

from sarwmix_jax.checkpoints.loading import load_parameters
from sarwmix_jax.cli.demo import demo, report
from sarwmix_jax.cli.main import main
from sarwmix_jax.errors import UserError
from sarwmix_jax.settings.recipes import load_config
from tests.test_cli import ROOT
from tests.training.conftest import TINY_RUN

CONFIG = f"{ROOT}/configs/demo.py"


def tiny_demo(workdir):
    config = load_config(CONFIG)
    config.update_from_flattened_dict(TINY_RUN | {"optimizer.stop_after_steps": 3})
    return demo(workdir, config, scenes={"train": 16, "validation": 6})


@pytest.mark.slow
def test_demo_leaves_checkpoint_pictures_and_figures(tmp_path):
    result = tiny_demo(tmp_path / "demo")
    told = report(result)
    for words in ("training loss", "held-out scenes", "best constant prediction", "below it", "VH", "VV"):
        assert words in told
    assert set(result.pictures) == {"loss_curve", "reconstruction", "correlation"}
    for path in (*result.pictures.values(), result.checkpoint):
        assert path.exists()
        assert str(path) in told
    assert load_parameters(result.checkpoint).step == 3
    figures = json.loads((tmp_path / "demo/result.json").read_text())
    assert figures["margin"] == pytest.approx(1 - figures["held_out_loss"] / figures["constant_prediction_loss"])
    with pytest.raises(UserError, match="holds the results of a demo; remove it"):
        tiny_demo(tmp_path / "demo")


@pytest.mark.slow
def test_demo_that_learns_nothing_fails(tmp_path, capsys):
    changes = [f"--config.{name}={value}" for name, value in (TINY_RUN | {"optimizer.stop_after_steps": 1}).items()]
    code = main(
        ["demo", f"--config={CONFIG}", f"--workdir={tmp_path}/demo", *changes, "--config.batch.global_batch=64"]
    )
    assert code == 1
    assert "error: the margin is below 10%" in capsys.readouterr().err


@pytest.mark.slow
def test_demo_beats_the_best_constant_prediction(tmp_path, optimised):
    command = [sys.executable, "-m", "sarwmix_jax.cli.main", "demo", f"--config={CONFIG}"]
    command.append(f"--workdir={tmp_path}/demo")
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    figures = json.loads((tmp_path / "demo/result.json").read_text())
    assert figures["margin"] > 0.15
    assert min(figures["correlation"].values()) > 0.4
