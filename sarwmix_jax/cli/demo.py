"""The work of `sarwmix demo`: synthetic scenes, a small model, some minutes, and pictures of what it learned."""

import json
import time
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
from sarwmix_jax.settings.config import resolve
from sarwmix_jax.settings.sections import PretrainingSettings
from sarwmix_jax.training.logs import read_log, training_curve
from sarwmix_jax.training.loop import Progress, train

SCENES = {"train": 1024, "validation": 128}

NEEDED_MARGIN = 0.1
"""The demo fails unless the held-out loss lies this share below the constant prediction's."""


@dataclass(frozen=True)
class Result:
    """What the demo found and where it lies."""

    progress: Progress
    held_out: HeldOut
    pictures: dict[str, Path]
    checkpoint: Path
    minutes: float


def demo(workdir: Path, config: Any, scenes: dict[str, int] | None = None) -> Result:
    """Write scenes, pretrain, evaluate on held-out ones and draw.

    Args:
        workdir: Folder for everything; an earlier demo's scenes are used again, its results are not touched.
        config: Settings without the records.
        scenes: Number of scenes of `train` and `validation`.

    Raises:
        UserError: The folder holds results, a setting is wrong, or SIGTERM stopped the run.
        KeyboardInterrupt: Ctrl-C stopped it.
    """
    started = time.perf_counter()
    if (workdir / FOLDER).exists():
        raise UserError(f"{workdir} holds the results of a demo; remove it (rm -r {workdir}) or name another --workdir")
    records = workdir / "records"
    if not records.exists():
        print(f"writing synthetic scenes to {records}", flush=True)
        write_synthetic_records(records, **(SCENES if scenes is None else scenes))
    config.data.records = (str(records),)
    settings = resolve(config, PretrainingSettings)
    progress = train(settings, workdir)
    if progress.interrupted:
        told = f"the demo was stopped by {progress.interrupted}; remove {workdir} and start again"
        raise (KeyboardInterrupt if progress.interrupted == "SIGINT" else UserError)(told)
    held_out, pictures = evaluate(settings, workdir, progress)
    minutes = (time.perf_counter() - started) / 60
    return Result(progress, held_out, pictures, workdir / FOLDER / str(progress.saved), minutes)


def evaluate(settings: PretrainingSettings, workdir: Path, progress: Progress) -> tuple[HeldOut, dict[str, Path]]:
    """Evaluate the last parameters on the held-out scenes and draw the pictures."""
    training, validation = (open_records(settings.data.records[0], split) for split in ("train", "validation"))
    model = load_pretrained(workdir)
    borrowed = settings.loss.norm_pix
    result = evaluate_held_out(model, validation, best_constant(model.task, training))
    pictures = {name: workdir / f"{name}.png" for name in ("loss_curve", "reconstruction", "correlation")}
    log = read_log(workdir)
    draw_loss(pictures["loss_curve"], training_curve(log), training_curve(log, "validation"), result.constant_loss)
    samples = reconstruct_samples({"model": model}, validation, 4)
    draw_reconstructions(pictures["reconstruction"], samples, borrowed=borrowed)
    draw_correlation(pictures["correlation"], result, standardised_per_cell=borrowed)
    figures = {"first_loss": progress.first_loss, "last_loss": progress.last_loss} | figures_of(result)
    (workdir / "result.json").write_text(json.dumps(figures, indent=2) + "\n")
    return result, pictures


def report(result: Result) -> str:
    """What the demo prints at its end."""
    held_out, places = result.held_out, {"checkpoint": result.checkpoint} | result.pictures
    correlations = ", ".join(f"{name} {value:.3f}" for name, value in zip(BANDS, held_out.correlations, strict=True))
    lines = [
        f"finished in {result.minutes:.1f} minutes, {result.progress.step} steps",
        f"training loss: {result.progress.first_loss:.4f} (first step) -> {result.progress.last_loss:.4f} (last steps)",
        f"loss on {held_out.records} held-out scenes: {held_out.loss:.4f}",
        f"loss of the best constant prediction there: {held_out.constant_loss:.4f}, so {held_out.margin:.1%} below it",
        f"correlation of reconstruction and truth on masked cells: {correlations}",
        *(f"{name.replace('_', ' ') + ':':15} {place}" for name, place in places.items()),
    ]
    return "\n".join(lines)
