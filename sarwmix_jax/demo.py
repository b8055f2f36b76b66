"""The demo: synthetic scenes, a small model, some minutes, and pictures of what it learned."""

import json
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sarwmix_jax.data.sources import open_records
from sarwmix_jax.errors import UserError
from sarwmix_jax.evaluation.constant import best_constant
from sarwmix_jax.evaluation.forward import Pretrained
from sarwmix_jax.evaluation.held_out import HeldOut, evaluate_held_out
from sarwmix_jax.evaluation.pictures import draw_correlation, draw_loss, draw_reconstructions
from sarwmix_jax.evaluation.reconstruct import figures_of
from sarwmix_jax.evaluation.samples import reconstruct_samples
from sarwmix_jax.facts.bands import BANDS
from sarwmix_jax.preparation.synthetic import write_synthetic_records
from sarwmix_jax.settings import PretrainingSettings
from sarwmix_jax.training.checkpoints import FOLDER
from sarwmix_jax.training.logs import read_log, training_curve
from sarwmix_jax.training.loop import Progress, pretrain
from sarwmix_jax.training.parallel import make_mesh
from sarwmix_jax.training.plan import resolve
from sarwmix_jax.training.setup import model_structure, step_settings

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
        UserError: The folder holds results, a setting is wrong, or a signal stopped the run.
    """
    started = time.perf_counter()
    if (workdir / FOLDER).exists():
        raise UserError(f"{workdir} holds the results of a demo; remove it (rm -r {workdir}) or name another --workdir")
    records = workdir / "records"
    if not records.exists():
        print(f"writing synthetic scenes to {records}", flush=True)
        write_synthetic_records(records, **(SCENES if scenes is None else scenes))
    config.data.records = (str(records),)
    settings = resolve(config)
    progress = pretrain(settings, workdir)
    if progress.interrupted:
        raise UserError(f"the demo was stopped by {progress.interrupted}; remove {workdir} and start again")
    held_out, pictures = look(settings, workdir, progress)
    minutes = (time.perf_counter() - started) / 60
    return Result(progress, held_out, pictures, workdir / FOLDER / str(progress.saved), minutes)


def look(settings: PretrainingSettings, workdir: Path, progress: Progress) -> tuple[HeldOut, dict[str, Path]]:
    """Evaluate the last parameters on the held-out scenes and draw the pictures."""
    train, validation = (open_records(settings.data.records[0], split) for split in ("train", "validation"))
    steps = step_settings(settings, (train,), make_mesh(), None)
    model = Pretrained(model_structure(steps), progress.state.params, progress.state.fixed, steps)
    result = evaluate_held_out(model, validation, best_constant(train, steps))
    pictures = {name: workdir / f"{name}.png" for name in ("loss_curve", "reconstruction", "correlation")}
    log = read_log(workdir)
    draw_loss(pictures["loss_curve"], training_curve(log), training_curve(log, "validation"), result.constant_loss)
    samples = reconstruct_samples({"model": model}, validation, 4)
    draw_reconstructions(pictures["reconstruction"], samples, borrowed=steps.norm_pix)
    draw_correlation(pictures["correlation"], result, standardised_per_cell=steps.norm_pix)
    figures = {"first_loss": progress.first_loss, "last_loss": progress.last_loss} | figures_of(result)
    (workdir / "result.json").write_text(json.dumps(figures, indent=2) + "\n")
    return result, pictures


def tell(result: Result) -> str:
    """What the demo prints at its end."""
    held_out, pictures = result.held_out, result.pictures
    correlations = ", ".join(f"{name} {value:.3f}" for name, value in zip(BANDS, held_out.correlations, strict=True))
    lines = [
        f"finished in {result.minutes:.1f} minutes, {result.progress.step} steps",
        f"training loss: {result.progress.first_loss:.4f} (first step) -> {result.progress.last_loss:.4f} (last steps)",
        f"loss on {held_out.records} held-out scenes: {held_out.loss:.4f}",
        f"loss of the best constant prediction there: {held_out.constant_loss:.4f}, so {held_out.margin:.1%} below it",
        f"correlation of reconstruction and truth on masked cells: {correlations}",
        f"checkpoint:     {result.checkpoint}",
        f"loss curve:     {pictures['loss_curve']}",
        f"reconstruction: {pictures['reconstruction']}",
        f"correlation:    {pictures['correlation']}",
    ]
    return "\n".join(lines)
