import contextlib
import io
import json
import os
import subprocess
import sys

import numpy as np
import pytest

from sarwmix_jax.checkpoints.loading import load_parameters
from sarwmix_jax.cli.demonstration import DemoResult, demo, report, take_folder
from sarwmix_jax.errors import UserError
from sarwmix_jax.evaluation.held_out import HeldOut
from sarwmix_jax.evaluation.hidden_cells import CellErrors
from sarwmix_jax.settings.recipes import load_config
from tests.test_cli import ROOT
from tests.training.conftest import TINY_RUN

CONFIG = f"{ROOT}/configs/demo.py"


def tiny_demo(workdir):
    config = load_config(CONFIG)
    config.update_from_flattened_dict(TINY_RUN | {"optimizer.stop_after_steps": 3})
    return demo(workdir, config, scenes={"train": 16, "validation": 6, "test": 12})


@pytest.fixture(scope="module")
def continued(tmp_path_factory):
    """Folder of a demo that was interrupted after pretraining and then went on, and what the second start gave."""
    place = tmp_path_factory.mktemp("continued") / "demo"
    with pytest.MonkeyPatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr("sarwmix_jax.cli.demonstration.evaluate", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        tiny_demo(place)
    (place / "notes.txt").write_text("mine")
    records = written(place)
    errors = io.StringIO()
    with contextlib.redirect_stderr(errors):
        result = tiny_demo(place)
    assert f"{place} holds an unfinished demo, which is continued" in errors.getvalue()
    assert "nothing to do: 3 of 3 steps are done" in errors.getvalue()
    assert written(place) == records
    return place, result


def written(place):
    """When each file of a demo's records was written."""
    return {path: path.stat().st_mtime_ns for path in (place / "records").iterdir()}


@pytest.mark.slow
def test_a_demo_that_went_on_leaves_checkpoint_pictures_and_figures(continued):
    place, result = continued
    text = report(result)
    for words in ("training loss", "held-out scenes", "best constant prediction", "below it", "VH", "VV"):
        assert words in text
    assert set(result.pictures) == {"loss_curve", "reconstruction", "correlation"}
    for path in (*result.pictures.values(), result.checkpoint):
        assert path.exists()
        assert str(path) in text
    assert load_parameters(result.checkpoint).step == 3
    figures = json.loads((place / "result.json").read_text())
    assert figures["margin"] == pytest.approx(1 - figures["held_out_loss"] / figures["constant_prediction_loss"])
    for name in ("model", "harmonic", "constant"):
        for band in ("VH", "VV"):
            assert f"{band} {figures['hidden_cells'][name]['squared_error'][band]:.4f}" in text
            assert f"{band} {figures['hidden_cells'][name]['inside_correlation'][band]:.3f}" in text
    assert set(figures["labels"]["differences"]) == {"probe of frozen features", "finetuning"}
    assert (figures["labels"]["labelled"], figures["labels"]["scored"]) == (16, 12)
    assert set(figures["minutes"]) == {"scenes", "pretraining", "evaluation and pictures", "few labels"}
    assert f"finished in {sum(figures['minutes'].values()):.1f} minutes (scenes " in text
    assert load_parameters(place / "finetuned").description["settings"]["init_from"]
    assert load_parameters(place / "from_scratch").description["settings"]["init_from"] is None


@pytest.mark.slow
def test_a_demo_after_a_finished_one_starts_again(continued, capsys):
    place, second = continued
    records = written(place)
    third = tiny_demo(place)
    errors = capsys.readouterr().err
    assert f"{place} holds a finished demo, which is replaced" in errors
    assert "step 1/3" in errors
    assert (second.losses, second.steps, second.held_out.loss) == (third.losses, 3, third.held_out.loss)
    assert (place / "notes.txt").read_text() == "mine"
    assert written(place) == records


WANTED = {"version": "1", "scenes": {"train": 16}, "settings": {"seed": 0}}


@pytest.fixture
def demo_folder(tmp_path):
    """The folder of a finished demo, with a file of the user in it."""
    take_folder(tmp_path / "demo", WANTED)
    for name in ("records", "checkpoints"):
        (tmp_path / "demo" / name).mkdir()
        (tmp_path / "demo" / name / "file").write_text("x")
    (tmp_path / "demo" / "settings.json").write_text(json.dumps(WANTED["settings"]))
    for name in ("result.json", "log.jsonl", "correlation.png", "notes.txt"):
        (tmp_path / "demo" / name).write_text("x")
    return tmp_path / "demo"


def names(folder):
    return {path.name for path in folder.iterdir()}


def test_a_finished_demo_is_replaced_and_nothing_else(demo_folder, capsys):
    take_folder(demo_folder, WANTED)
    assert names(demo_folder) == {"notes.txt", "records", "demo.json"}
    assert capsys.readouterr().err == f"{demo_folder} holds a finished demo, which is replaced\n"


@pytest.mark.parametrize("change", [{"version": "2"}, {"settings": {"seed": 1}}, {"scenes": {"train": 8}}])
def test_a_demo_of_another_version_or_settings_is_replaced_with_its_scenes(demo_folder, capsys, change):
    (demo_folder / "result.json").unlink()
    take_folder(demo_folder, WANTED | change)
    assert names(demo_folder) == {"notes.txt", "demo.json"}
    assert json.loads((demo_folder / "demo.json").read_text()) == WANTED | change
    assert "of another version or with other settings, which is replaced" in capsys.readouterr().err


def test_an_unfinished_demo_goes_on(demo_folder, capsys):
    (demo_folder / "result.json").unlink()
    before = names(demo_folder)
    take_folder(demo_folder, WANTED)
    assert names(demo_folder) == before
    assert capsys.readouterr().err == f"{demo_folder} holds an unfinished demo, which is continued\n"


@pytest.mark.parametrize("kind", ["a run", "a file in it", "a file", "a run of other settings in a demo's folder"])
def test_what_no_demo_wrote_is_refused_and_left_alone(demo_folder, tmp_path, kind):
    place = tmp_path / "place"
    if kind == "a run":
        (place / "checkpoints").mkdir(parents=True)
    elif kind == "a file in it":
        place.mkdir()
        (place / "notes.txt").write_text("mine")
    elif kind == "a file":
        place.write_text("mine")
    else:
        place = demo_folder
        (place / "settings.json").write_text('{"seed": 7}')
    before = names(place) if place.is_dir() else place.read_text()
    with pytest.raises(UserError, match=f"^{place} holds something other than a demo; name another --workdir$"):
        take_folder(place, WANTED)
    assert before == (names(place) if place.is_dir() else place.read_text())


@pytest.mark.soak
def test_demo_beats_the_best_constant_prediction(tmp_path, optimised):
    command = [sys.executable, "-m", "sarwmix_jax.cli.main", "demo", f"--config={CONFIG}"]
    command.append(f"--workdir={tmp_path}/demo")
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    figures = json.loads((tmp_path / "demo/result.json").read_text())
    assert figures["margin"] > 0.5
    model, harmonic = (figures["hidden_cells"][name] for name in ("model", "harmonic"))
    for band in ("VH", "VV"):
        assert model["inside_correlation"][band] >= 0.4
        assert model["squared_error"][band] < harmonic["squared_error"][band]
        assert figures["correlation"][band] > 0.7
    probe = figures["labels"]["differences"]["probe of frozen features"]
    assert probe["low"] > 0  # pretrained features hold more than those of the same encoder before training


def test_what_the_model_has_not_reached_is_named():
    def cells(inside, squared):
        found = CellErrors()
        found.count, found.squared, found.inside = 1.0, squared, np.array([1.0, 1.0, inside])
        return found

    def failures(constant_loss=2.0, inside=(0.5, 0.5), squared=(0.3, 0.3)):
        errors = {"model": tuple(map(cells, inside, squared)), "harmonic": (cells(0.6, 0.4), cells(0.6, 0.4))}
        held_out = HeldOut(4, 1.0, (1.0, 1.0), constant_loss, (), np.ones(4), 4, errors)
        return DemoResult(1, (1.0, 1.0), held_out, None, {}, None, {}).failures

    assert failures() == []
    assert failures(constant_loss=1.1) == ["the margin is below 10%"]
    assert failures(inside=(0.5, 0.39)) == ["the correlation inside hidden cells is below 0.4"]
    worse = "the squared error in hidden cells is not below that of harmonic in-painting"
    assert failures(squared=(0.4, 0.3)) == [worse]
    assert len(failures(1.0, (0.1, 0.1), (0.5, 0.5))) == 3


@pytest.mark.skipif((os.cpu_count() or 1) < 2, reason="one core")
@pytest.mark.parametrize(
    "given, devices", [pytest.param("", 2, marks=pytest.mark.slow), ("--xla_force_host_platform_device_count=3", 3)]
)
def test_two_devices_unless_the_environment_states_how_many(given, devices):
    code = (
        "from sarwmix_jax.cli.demonstration import use_two_devices\nimport jax\nuse_two_devices()\n"
        "print(len(jax.devices('cpu')))\nuse_two_devices()"
    )
    environment = os.environ | {"XLA_FLAGS": given}
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=True)
    assert done.stdout == f"{devices}\n"
