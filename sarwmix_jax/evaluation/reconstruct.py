"""Pictures and figures of one or several pretraining checkpoints on held-out records."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from sarwmix_jax.data.sources import check_contract, open_records
from sarwmix_jax.errors import UserError
from sarwmix_jax.evaluation.constant import best_constant
from sarwmix_jax.evaluation.from_checkpoint import load_pretrained
from sarwmix_jax.evaluation.held_out import HeldOut, evaluate_held_out
from sarwmix_jax.evaluation.pictures import draw_correlation, draw_reconstructions
from sarwmix_jax.evaluation.samples import reconstruct_samples
from sarwmix_jax.facts.bands import BANDS

MIX_GROUP = 8
"""Images that mix with each other here, for every checkpoint alike, so that all see the same masks and partners."""


def reconstruct(
    checkpoints: Sequence[str], records: str, split: str, out: Path, *, samples: int, fit: str | None
) -> dict[str, Any]:
    """Draw reconstructions of several checkpoints side by side, and evaluate each.

    Args:
        checkpoints: Work directories or checkpoint folders.
        records: Folder of the record set.
        split: Held-out records.
        out: Folder for the pictures; made when missing.
        samples: Images to draw.
        fit: Split on which the best constant prediction is fitted; none when not given.

    Returns:
        Figures by checkpoint, also written to `reconstruction.json`.

    Raises:
        UserError: A checkpoint, the records or the split cannot be used, or `samples` is below 1.
    """
    if samples < 1:
        raise UserError(f"--samples is {samples}; give 1 or more")
    source = open_records(records, split)
    check_contract(source)
    names = short_names(checkpoints)
    models = {name: load_pretrained(path, MIX_GROUP) for name, path in zip(names, checkpoints, strict=True)}
    out.mkdir(parents=True, exist_ok=True)
    borrowed = any(model.steps.norm_pix for model in models.values())
    draw_reconstructions(out / "reconstruction.png", reconstruct_samples(models, source, samples), borrowed=borrowed)
    figures = {}
    for name, model in models.items():
        constant = None if fit is None else best_constant(open_records(records, fit), model.steps)
        result = evaluate_held_out(model, source, constant)
        per_cell = model.steps.norm_pix
        draw_correlation(out / f"correlation_{name.replace('/', '_')}.png", result, standardised_per_cell=per_cell)
        figures[name] = figures_of(result)
    (out / "reconstruction.json").write_text(json.dumps(figures, indent=2) + "\n")
    return figures


def short_names(paths: Sequence[str]) -> list[str]:
    """The last parts of paths that tell them apart."""
    for length in range(1, 8):
        names = ["/".join(Path(path).parts[-length:]).strip("/") for path in paths]
        if len(set(names)) == len(names):
            return names
    raise UserError(f"the same checkpoint twice: {paths[0]}; name each once")


def figures_of(result: HeldOut) -> dict[str, Any]:
    """Figures of an evaluation for JSON."""
    figures: dict[str, Any] = {
        "held_out_records": result.records,
        "held_out_loss": result.loss,
        "loss_per_band": dict(zip(BANDS, result.loss_per_band, strict=True)),
        "correlation": dict(zip(BANDS, result.correlations, strict=True)),
    }
    if result.constant_loss is not None:
        figures |= {"constant_prediction_loss": result.constant_loss, "margin": result.margin}
    return figures
