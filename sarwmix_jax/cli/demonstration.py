"""The work of `sarwmix demo`: synthetic scenes, a small model, some minutes, and what it learned.

The scenes are of the landscape `large_parcels`: made so that structures go on from visible cells into hidden ones.
"""

import contextlib
import json
import os
import shutil
import time
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sarwmix_jax.checkpoints.integrity import FOLDER
from sarwmix_jax.cli.demonstration_labels import (
    FINETUNED,
    FROM_SCRATCH,
    HEAD,
    FewLabels,
    check_finished,
    compare_labels,
)
from sarwmix_jax.data.sources import open_records
from sarwmix_jax.errors import UserError
from sarwmix_jax.evaluation.held_out import HeldOut, best_constant, evaluate_held_out
from sarwmix_jax.evaluation.pictures import draw_correlation, draw_loss
from sarwmix_jax.evaluation.reconstruction import cells_lines, draw_samples, figures_of, load_pretrained
from sarwmix_jax.facts.bands import BANDS
from sarwmix_jax.preparation.synthetic import write_synthetic_records
from sarwmix_jax.preparation.writer import write_file
from sarwmix_jax.progress import show
from sarwmix_jax.settings.config import as_json, resolve
from sarwmix_jax.settings.sections import PretrainingSettings
from sarwmix_jax.tasks.gradients import use_cpu_devices
from sarwmix_jax.training.history import read_log, training_curve
from sarwmix_jax.training.logs import FILE_NAME
from sarwmix_jax.training.loop import train
from sarwmix_jax.version import __version__

LANDSCAPE = "large_parcels"
SHOWN = 3
"""Scenes in the picture."""

NEEDED_MARGIN = 0.1
"""The demo fails unless the held-out loss lies this share below the constant prediction's."""
NEEDED_INSIDE = 0.4
"""It also fails unless the correlation inside hidden cells is this large in every band, the squared error there below
that of harmonic in-painting."""

DESCRIPTION, RESULT = "demo.json", "result.json"
PICTURES = ("loss_curve", "reconstruction", "correlation")
WRITTEN = (
    *("records", "records.partial", FOLDER, FILE_NAME, "tensorboard", "wandb", "wandb.json", "settings.json"),
    *(HEAD, FINETUNED, FROM_SCRATCH),
    *(RESULT, *(f"{name}.png" for name in PICTURES), DESCRIPTION),
)
"""All files of a demo in its folder; the description is removed last, as it marks the folder as that of a demo."""


@dataclass(frozen=True)
class DemoResult:
    """What the demo found and where it lies; `losses` are those of the first and of the last steps.

    `minutes` are by what they were spent on.
    """

    steps: int
    losses: tuple[float, float]
    held_out: HeldOut
    labels: FewLabels
    pictures: dict[str, Path]
    checkpoint: Path
    minutes: Mapping[str, float]

    @property
    def failures(self) -> list[str]:
        """What the model should have reached and has not."""
        found, cells = self.held_out, self.held_out.cells
        lines = []
        if found.margin < NEEDED_MARGIN:
            lines.append(f"the margin is below {NEEDED_MARGIN:.0%}")
        if min(errors.inside_correlation for errors in cells["model"]) < NEEDED_INSIDE:
            lines.append(f"the correlation inside hidden cells is below {NEEDED_INSIDE}")
        pairs = zip(cells["model"], cells.get("harmonic", ()), strict=False)
        if any(model.mean_squared_error >= harmonic.mean_squared_error for model, harmonic in pairs):
            lines.append("the squared error in hidden cells is not below that of harmonic in-painting")
        return lines


class Minutes(dict[str, float]):
    """Minutes by what they were spent on."""

    @contextlib.contextmanager
    def spent_on(self, what: str) -> Iterator[None]:
        """Counts the minutes inside."""
        started = time.perf_counter()
        yield
        self[what] = (time.perf_counter() - started) / 60


def use_two_devices() -> None:
    """Two CPU devices for two cores: products as small as the demo's do not fill both; 1.6 times as fast."""
    use_cpu_devices(min(os.cpu_count() or 1, 2))


def scenes_of(training: int) -> dict[str, int]:
    """Number of scenes of each split, by that of the training scenes."""
    held_out = -(-training // 24)
    return {"train": training, "validation": held_out, "test": 2 * held_out}


def demo(workdir: Path, config: Any, scenes: dict[str, int]) -> DemoResult:
    """Write scenes, pretrain, evaluate on held-out ones and draw; see `take_folder` for what may lie there already.

    Args:
        workdir: Folder for everything.
        config: Settings without the records.
        scenes: Number of scenes of `train`, `validation` and `test`.

    Raises:
        UserError: The folder holds something else, or a setting is wrong.
        KeyboardInterrupt: Ctrl-C stopped the run.
        Terminated: Another signal stopped it.
    """
    records, minutes = workdir / "records", Minutes()
    config.data.records = (str(records),)
    settings = resolve(config, PretrainingSettings)
    take_folder(workdir, {"version": __version__, "scenes": scenes, "settings": as_json(settings)})
    with minutes.spent_on("scenes"):
        write_synthetic_records(records, **scenes, seed=settings.seed, landscape=LANDSCAPE, workers=2)
    with minutes.spent_on("pretraining"):
        progress = check_finished(train(settings, workdir))
    with minutes.spent_on("evaluation and pictures"):
        held_out, losses, pictures = evaluate(settings, workdir)
    with minutes.spent_on("few labels"):
        labels = compare_labels(settings, workdir)
    checkpoint = workdir / FOLDER / str(progress.saved)
    result = DemoResult(progress.step, losses, held_out, labels, pictures, checkpoint, minutes)
    write_file(workdir / RESULT, json.dumps(figures(result), indent=2) + "\n")  # last: it marks a finished demo
    return result


def take_folder(workdir: Path, wanted: dict[str, Any]) -> None:
    """Create the folder, or check its content: an unfinished demo is continued, any other demo is replaced.

    Only what a demo wrote is ever removed.

    Args:
        workdir: Folder of the demo.
        wanted: Version, scenes and settings of this demo, as in its `DESCRIPTION`.

    Raises:
        UserError: The folder holds something else or a run with other settings, or cannot be written.
    """
    found, settings = (_read(workdir / name) for name in (DESCRIPTION, "settings.json"))
    foreign = found is None and workdir.exists() and (not workdir.is_dir() or any(workdir.iterdir()))
    if foreign or (found is not None and settings not in (None, found.get("settings"))):
        raise UserError(f"{workdir} holds something other than a demo; name another --workdir")
    if found is not None:
        same, finished = found == wanted, (workdir / RESULT).exists()
        if same and not finished:
            show(f"{workdir} holds an unfinished demo, which is continued")
            return
        which = "a finished demo" if same else "a demo of another version or with other settings"
        show(f"{workdir} holds {which}, which is replaced")
    try:
        if found is not None:
            _remove(workdir / name for name in WRITTEN if name != "records" or not same)
        workdir.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"cannot write in {workdir}: {error.strerror}; choose another --workdir") from error
    write_file(workdir / DESCRIPTION, json.dumps(wanted, indent=2) + "\n")


def _remove(paths: Iterable[Path]) -> None:
    for path in paths:
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)


def _read(path: Path) -> dict[str, Any] | None:
    """Object in a JSON file; None where there is none."""
    try:
        found = json.loads(path.read_bytes())
    except (OSError, ValueError):
        return None
    return found if isinstance(found, dict) else None


def evaluate(settings: PretrainingSettings, workdir: Path) -> tuple[HeldOut, tuple[float, float], dict[str, Path]]:
    """Evaluate the last parameters on the held-out scenes and draw; gives the first and last training loss too."""
    training, validation = (open_records(settings.data.records[0], split) for split in ("train", "validation"))
    model = load_pretrained(workdir)
    result = evaluate_held_out(model, validation, best_constant(model.task, training))
    pictures = {name: workdir / f"{name}.png" for name in PICTURES}
    log = read_log(workdir)
    curve = training_curve(log)
    draw_loss(pictures["loss_curve"], curve, training_curve(log, "validation"), result.constant_loss)
    draw_samples(pictures["reconstruction"], {"model": model}, validation, {"model": result}, SHOWN)
    draw_correlation(pictures["correlation"], result, None if settings.loss.norm_pix else model.task.statistics)
    return result, (curve[0]["loss"], curve[-1]["loss"]), pictures


def figures(result: DemoResult) -> dict[str, Any]:
    """Everything that was measured, for JSON."""
    losses = dict(zip(("first_loss", "last_loss"), result.losses, strict=True))
    parts = {"labels": result.labels.figures, "minutes": dict(result.minutes)}
    return losses | figures_of(result.held_out) | parts


def report(result: DemoResult) -> str:
    """What the demo prints at its end."""
    held_out, places = result.held_out, {"checkpoint": result.checkpoint} | result.pictures
    correlations = ", ".join(f"{name} {value:.3f}" for name, value in zip(BANDS, held_out.correlations, strict=True))
    spent = ", ".join(f"{what} {minutes:.1f}" for what, minutes in result.minutes.items())
    lines = [
        f"finished in {sum(result.minutes.values()):.1f} minutes ({spent}), {result.steps} steps",
        f"training loss: {result.losses[0]:.4f} (first step) -> {result.losses[1]:.4f} (last steps)",
        f"loss on {held_out.records} held-out scenes: {held_out.loss:.4f}",
        f"loss of the best constant prediction there: {held_out.constant_loss:.4f}, so {held_out.margin:.1%} below it",
        f"correlation of reconstruction and truth on masked cells: {correlations}",
        "the scenes are made so that structures go on from visible cells into hidden ones",
        *cells_lines(figures(result)),
        *result.labels.lines,
        *(f"{name.replace('_', ' ') + ':':15} {place}" for name, place in places.items()),
    ]
    return "\n".join(lines)
