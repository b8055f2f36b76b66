"""Pretraining models from checkpoints, with the arithmetic that the checkpoint describes."""

from pathlib import Path
from typing import Any

import jax

from sarwmix_jax.errors import UserError
from sarwmix_jax.evaluation.forward import Pretrained
from sarwmix_jax.facts.bands import BANDS, BandStatistics
from sarwmix_jax.settings.model import described_model
from sarwmix_jax.settings import PretrainingSettings, as_json, to_dataclass
from sarwmix_jax.training.checkpoints import Parameters, load_parameters
from sarwmix_jax.training.plan import weight_settings
from sarwmix_jax.training.setup import model_structure
from sarwmix_jax.training.steps import StepSettings


def load_pretrained(path: str | Path, mix_group: int | None = None) -> Pretrained:
    """The pretraining model of a checkpoint.

    Args:
        path: A work directory, its `checkpoints` folder, or one checkpoint's folder.
        mix_group: Images that mix with each other; those of its training when not given.

    Raises:
        UserError: There is no such checkpoint, or it holds something else.
    """
    loaded = load_parameters(path)
    if loaded.description["kind"] != "pretraining":
        raise UserError(f"{path} holds a {loaded.description['kind']}, not a pretraining model; use another checkpoint")
    if tuple(loaded.description["bands"]) != BANDS:
        raise UserError(
            f"{path} takes the bands {loaded.description['bands']}, not {', '.join(BANDS)}; convert it again"
        )
    steps = step_settings(loaded, mix_group)
    params, fixed = jax.device_put((loaded.params, loaded.fixed))
    return Pretrained(model_structure(steps), params, fixed, steps)


def step_settings(loaded: Parameters, mix_group: int | None) -> StepSettings:
    """Settings of the steps by a checkpoint's description; where it says nothing, those of the published recipe."""
    described: dict[str, Any] = loaded.description
    known = described.get("settings")
    settings = PretrainingSettings() if known is None else stored_settings(known)
    group = mix_group or described.get("progress", {}).get("mix_group") or 8
    statistics = {name: tuple(described["statistics"][name]) for name in ("mean_db", "std_db")}
    norm_pix = described.get("norm_pix")
    return StepSettings(
        model=described_model(described["model"], dtype="float32"),
        statistics=BandStatistics(**statistics),
        weighting=weight_settings(settings),
        mask_ratio=settings.mask.ratio,
        range_mask_ratio=settings.mask.range_mask_ratio,
        norm_pix=settings.loss.norm_pix if norm_pix is None else norm_pix,
        horizontal_flip=0.0,
        vertical_flip=0.0,
        mix_group=group,
        micro_batch=group,
        seed=settings.seed,
    )


def stored_settings(known: dict[str, Any]) -> PretrainingSettings:
    """Settings as a checkpoint has them; one that is younger than the checkpoint has its default."""
    values = as_json(PretrainingSettings())
    filled = {name: values.get(name, {}) | part if isinstance(part, dict) else part for name, part in known.items()}
    recompute = filled.get("model", values["model"])["recompute"]
    if isinstance(recompute, bool):  # as the first checkpoints have it
        filled["model"]["recompute"] = "block" if recompute else "none"
    return to_dataclass(values | filled, PretrainingSettings)
