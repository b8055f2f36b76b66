"""The work of `sarwmix demo`: synthetic scenes, a small model, some minutes, and pictures of what it learned."""

import json
import shutil
import time
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sarwmix_jax.checkpoints.store import FOLDER
from sarwmix_jax.data.sources import open_records
from sarwmix_jax.errors import UserError
from sarwmix_jax.evaluation.held_out import HeldOut, best_constant, evaluate_held_out
from sarwmix_jax.evaluation.pictures import draw_correlation, draw_loss, draw_reconstructions
from sarwmix_jax.evaluation.reconstruction import figures_of, load_pretrained, reconstruct_samples
from sarwmix_jax.facts.bands import BANDS
from sarwmix_jax.preparation.synthetic import write_synthetic_records
from sarwmix_jax.preparation.writer import write_file
from sarwmix_jax.progress import show
from sarwmix_jax.settings.config import as_json, resolve
from sarwmix_jax.settings.sections import PretrainingSettings
from sarwmix_jax.training.logs import FILE_NAME, read_log, training_curve
from sarwmix_jax.training.loop import train
from sarwmix_jax.version import __version__

SCENES = {"train": 1024, "validation": 128}

NEEDED_MARGIN = 0.1
"""The demo fails unless the held-out loss lies this share below the constant prediction's."""


DESCRIPTION, RESULT = "demo.json", "result.json"
PICTURES = ("loss_curve", "reconstruction", "correlation")
WRITTEN = (
    *("records", "records.partial", FOLDER, FILE_NAME, "tensorboard", "settings.json"),
    *(RESULT, *(f"{name}.png" for name in PICTURES), DESCRIPTION),
)
"""All files of a demo in its folder; the description is removed last, as it marks the folder as that of a demo."""


@dataclass(frozen=True)
class DemoResult:
    """Results of the demo and their files; `losses` are those of the first and of the last steps."""

    steps: int
    losses: tuple[float, float]
    held_out: HeldOut
    pictures: dict[str, Path]
    checkpoint: Path
    minutes: float


def demo(workdir: Path, config: Any, scenes: dict[str, int] | None = None) -> DemoResult:
    """Write scenes, pretrain, evaluate on held-out ones and draw; see `take_folder` for what may lie there already.

    Args:
        workdir: Folder for everything.
        config: Settings without the records.
        scenes: Number of scenes of `train` and `validation`.

    Raises:
        UserError: The folder holds something else, a setting is wrong, or SIGTERM stopped the run.
        KeyboardInterrupt: Ctrl-C stopped it.
    """
    started = time.perf_counter()
    scenes, records = scenes or SCENES, workdir / "records"
    config.data.records = (str(records),)
    settings = resolve(config, PretrainingSettings)
    take_folder(workdir, {"version": __version__, "scenes": scenes, "settings": as_json(settings)})
    write_synthetic_records(records, **scenes)
    progress = train(settings, workdir)
    if progress.interrupted:
        message = f"the demo was stopped by {progress.interrupted}; the same command continues it"
        raise (KeyboardInterrupt if progress.interrupted == "SIGINT" else UserError)(message)
    held_out, losses, pictures = evaluate(settings, workdir)
    minutes = (time.perf_counter() - started) / 60
    return DemoResult(progress.step, losses, held_out, pictures, workdir / FOLDER / str(progress.saved), minutes)


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
    """Evaluate the last parameters on the held-out scenes and draw; also returns first and last training loss."""
    training, validation = (open_records(settings.data.records[0], split) for split in ("train", "validation"))
    model = load_pretrained(workdir)
    borrowed = settings.loss.norm_pix
    result = evaluate_held_out(model, validation, best_constant(model.task, training))
    pictures = {name: workdir / f"{name}.png" for name in PICTURES}
    log = read_log(workdir)
    curve = training_curve(log)
    draw_loss(pictures["loss_curve"], curve, training_curve(log, "validation"), result.constant_loss)
    samples = reconstruct_samples({"model": model}, validation, 4)
    draw_reconstructions(pictures["reconstruction"], samples, borrowed=borrowed)
    draw_correlation(pictures["correlation"], result, standardised_per_cell=borrowed)
    losses = (curve[0]["loss"], curve[-1]["loss"])
    figures = {"first_loss": losses[0], "last_loss": losses[1]} | figures_of(result)
    write_file(workdir / RESULT, json.dumps(figures, indent=2) + "\n")
    return result, losses, pictures


def report(result: DemoResult) -> str:
    """Text that the demo prints at its end."""
    held_out, places = result.held_out, {"checkpoint": result.checkpoint} | result.pictures
    correlations = ", ".join(f"{name} {value:.3f}" for name, value in zip(BANDS, held_out.correlations, strict=True))
    lines = [
        f"finished in {result.minutes:.1f} minutes, {result.steps} steps",
        f"training loss: {result.losses[0]:.4f} (first step) -> {result.losses[1]:.4f} (last steps)",
        f"loss on {held_out.records} held-out scenes: {held_out.loss:.4f}",
        f"loss of the best constant prediction there: {held_out.constant_loss:.4f}, so {held_out.margin:.1%} below it",
        f"correlation of reconstruction and truth on masked cells: {correlations}",
        *(f"{name.replace('_', ' ') + ':':15} {place}" for name, place in places.items()),
    ]
    return "\n".join(lines)
