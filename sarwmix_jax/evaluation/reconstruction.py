"""Reconstructions by one or several pretraining checkpoints on held-out records: pictures and scores."""

import dataclasses
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np

from sarwmix_jax.checkpoints.loading import load_parameters
from sarwmix_jax.data.sources import RecordSource, check_contract, open_records
from sarwmix_jax.errors import UserError
from sarwmix_jax.evaluation.held_out import (
    EvaluatedGroup,
    HeldOut,
    Pretrained,
    best_constant,
    evaluate_held_out,
    groups,
)
from sarwmix_jax.evaluation.inpainting import harmonic_inpainting
from sarwmix_jax.evaluation.pictures import Sample, draw_correlation, draw_reconstructions
from sarwmix_jax.facts.bands import BANDS
from sarwmix_jax.settings.config import stored_settings
from sarwmix_jax.settings.model import CELL
from sarwmix_jax.settings.sections import LossSettings, MixedBatchSettings, PretrainingSettings
from sarwmix_jax.tasks.pretraining import EVALUATION_GROUP, Pretraining

PREDICTIONS = {"model": "model", "harmonic": "harmonic in-painting", "constant": "best constant"}
"""What predicts hidden cells, in words."""


def load_pretrained(path: str | Path) -> Pretrained:
    """The pretraining model of a checkpoint, with its own settings or, where it has none, the published ones.

    Args:
        path: A work directory, its `checkpoints` folder, or one checkpoint's folder.

    Raises:
        UserError: There is no such checkpoint, it holds another kind of model, or does not state what it predicts.
    """
    loaded = load_parameters(path)
    if loaded.kind != "pretraining":
        raise UserError(f"{path} holds a {loaded.kind}, not a pretraining model; use another checkpoint")
    known = loaded.description.get("settings")
    settings = PretrainingSettings() if known is None else stored_settings(known, PretrainingSettings)
    norm_pix = loaded.description.get("norm_pix")
    if known is None and norm_pix is None:
        raise UserError(
            f"{path} does not state whether its targets were standardised per cell; convert its file again with "
            "--norm-pix yes|no"
        )
    settings = dataclasses.replace(
        settings,
        model=loaded.settings,
        loss=settings.loss if norm_pix is None else LossSettings(norm_pix),
        batch=MixedBatchSettings(EVALUATION_GROUP, EVALUATION_GROUP, EVALUATION_GROUP),
    )
    params, fixed = jax.device_put((loaded.params, loaded.fixed))
    return Pretrained(Pretraining(settings, loaded.statistics), loaded.computed, params, fixed, loaded.step)


def reconstruct_samples(
    models: Mapping[str, Pretrained], source: RecordSource, numbers: Sequence[int], *, inpainted: bool = False
) -> list[Sample]:
    """Some records of `source` as each model reconstructs them; weights and mask are those of the first model.

    Args:
        models: By name.
        source: Held-out records.
        numbers: Which records; their partners and masks are those of the evaluation.
        inpainted: Whether to add what harmonic in-painting makes of the same visible cells.
    """
    chosen = {number // EVALUATION_GROUP for number in numbers}
    found: dict[str, dict[int, EvaluatedGroup]] = {
        name: dict(zip(sorted(chosen), (group for group, _ in groups(model, source, chosen=chosen)), strict=True))
        for name, model in models.items()
    }
    first = next(iter(found.values()))
    samples = []
    for number in numbers:
        place, row = divmod(number, EVALUATION_GROUP)
        group, side = first[place], round(first[place].mask.shape[1] ** 0.5)
        hidden = group.mask[row].reshape(side, side) == 1
        pixels = np.kron(hidden, np.ones((CELL, CELL))) == 1
        samples.append(
            Sample(
                source.name_of(number),
                group.original_db[row],
                group.mixed_db[row],
                hidden,
                group.weight_map[row],
                {name: own[place].prediction_db[row] for name, own in found.items()},
                harmonic_inpainting(group.original_db[row][None], pixels[None])[0] if inpainted else None,
            )
        )
    return samples


def reconstruct(
    checkpoints: Sequence[str], records: str, split: str, out: Path, *, samples: int, fit: str | None
) -> dict[str, Any]:
    """Draw reconstructions of several checkpoints side by side, and evaluate each.

    Args:
        checkpoints: Work directories or checkpoint folders.
        records: Folder of the record set.
        split: Held-out records.
        out: Folder for the pictures; created if missing.
        samples: Images to draw: those whose loss is nearest to the median loss of the first checkpoint.
        fit: Split on which the best constant prediction is fitted; by default none is fitted.

    Returns:
        Scores by checkpoint, also written to `reconstruction.json`.

    Raises:
        UserError: A checkpoint, the records or the split cannot be used, or `samples` is below 1.
    """
    if samples < 1:
        raise UserError(f"--samples is {samples}; give 1 or more")
    source = open_records(records, split)
    check_contract(source)
    names = short_names(checkpoints)
    models = {name: load_pretrained(path) for name, path in zip(names, checkpoints, strict=True)}
    out.mkdir(parents=True, exist_ok=True)
    results = {}
    for name, model in models.items():
        constant = None if fit is None else best_constant(model.task, open_records(records, fit))
        results[name] = evaluate_held_out(model, source, constant)
        statistics = None if model.task.settings.loss.norm_pix else model.task.statistics
        draw_correlation(out / f"correlation_{name.replace('/', '_')}.png", results[name], statistics)
    draw_samples(out / "reconstruction.png", models, source, results, samples)
    figures = {name: figures_of(result) for name, result in results.items()}
    (out / "reconstruction.json").write_text(json.dumps(figures, indent=2) + "\n")
    return figures


def draw_samples(
    path: Path, models: Mapping[str, Pretrained], source: RecordSource, results: Mapping[str, HeldOut], count: int
) -> None:
    """Draw the `count` records whose loss is nearest to the median loss of the first model, with steps and losses."""
    numbers = next(iter(results.values())).nearest_to_median(count)
    borrowed = any(model.task.settings.loss.norm_pix for model in models.values())
    captions = {name: f"step {models[name].step:,}, loss {result.loss:.3f}" for name, result in results.items()}
    samples = reconstruct_samples(models, source, numbers, inpainted=not borrowed)
    draw_reconstructions(path, samples, borrowed=borrowed, captions=captions)


def short_names(paths: Sequence[str]) -> list[str]:
    """The last parts of paths that distinguish them."""
    for length in range(1, 8):
        names = ["/".join(Path(path).parts[-length:]).strip("/") for path in paths]
        if len(set(names)) == len(names):
            return names
    raise UserError(f"the same checkpoint twice: {paths[0]}; name each once")


def figures_of(result: HeldOut) -> dict[str, Any]:
    """Scores of an evaluation for JSON."""
    figures: dict[str, Any] = {
        "held_out_records": result.records,
        "held_out_loss": result.loss,
        "loss_per_band": dict(zip(BANDS, result.loss_per_band, strict=True)),
        "correlation": dict(zip(BANDS, result.correlations, strict=True)),
    }
    figures["hidden_cells"] = {"records": result.compared} | {
        name: {
            "inside_correlation": {band: e.inside_correlation for band, e in zip(BANDS, errors, strict=True)},
            "squared_error": {band: e.mean_squared_error for band, e in zip(BANDS, errors, strict=True)},
        }
        for name, errors in result.cells.items()
    }
    if result.constant_loss is not None:
        figures |= {"constant_prediction_loss": result.constant_loss, "margin": result.margin}
    return figures


def cells_lines(figures: Mapping[str, Any]) -> list[str]:
    """Errors in hidden cells by what predicts, as lines to print; `figures` are those of `figures_of`."""
    cells = figures["hidden_cells"]
    lines = [f"hidden cells of {cells['records']:,} held-out records, correlation inside cells and squared error:"]
    for name in PREDICTIONS:
        if name in cells:
            inside, squared = (
                ", ".join(f"{band} {value:.{digits}f}" for band, value in cells[name][score].items())
                for score, digits in (("inside_correlation", 3), ("squared_error", 4))
            )
            lines.append(f"  {PREDICTIONS[name]:22} {inside}; {squared}")
    return lines
