"""The steps of a study, each with its name, what it needs first, and the settings of its runs."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sarwmix_jax.data.pipeline import steps_per_epoch
from sarwmix_jax.errors import UserError
from sarwmix_jax.settings.config import resolve
from sarwmix_jax.settings.recipes import read_config
from sarwmix_jax.settings.sections import FinetuningSettings, PretrainingSettings
from sarwmix_jax.settings.study import RANDOM, Line, StudySettings, initialisations

SCENES = "scenes"


@dataclass(frozen=True)
class Step:
    """One step of a study; its folder in the study's folder has the same name.

    Attributes:
        kind: What it does: scenes, pretrain, finetune, probe, baseline or reconstruct.
        needs: Names of the steps that must be done before.
        start: Initialisation: a variant, a checkpoint, or random.
        fraction: Label fraction of a finetuning run.
        seed: Seed of the runs, and of the choice of labels.
        recipe: Name of the finetuning recipe.
    """

    kind: str
    needs: tuple[str, ...] = ()
    start: str | None = None
    fraction: float | None = None
    seed: int | None = None
    recipe: str | None = None

    @property
    def name(self) -> str:
        """Such as `finetune/per_channel/0.01/gentle/seed0`."""
        share = None if self.fraction is None else f"{self.fraction:.10g}"
        seed = None if self.seed is None else f"seed{self.seed}"
        return "/".join(part for part in (self.kind, self.start, share, self.recipe, seed) if part is not None)


def plan(study: StudySettings) -> list[Step]:
    """All steps of a study, in an order in which every step comes after those that it needs.

    The first seed of everything comes first, so that a study that is stopped early has something of everything.
    """
    steps = [] if study.records else [Step(SCENES)]
    first = tuple(step.name for step in steps)
    variants = [Line.of(text).name for text in study.variants]
    for seed in study.seeds:
        steps += [Step("pretrain", first, start=variant, seed=seed) for variant in variants]
        if "baseline" in study.measured:
            steps.append(Step("baseline", first, seed=seed))
        for start in initialisations(study):
            needs = (*first, *((Step("pretrain", start=start, seed=seed).name,) if start in variants else ()))
            again = start not in variants and seed != study.seeds[0]  # the same checkpoint for all seeds
            if "reconstruction" in study.measured and start != RANDOM and not again:
                steps.append(Step("reconstruct", needs, start=start, seed=seed))
            if "probe" in study.measured:
                steps.append(Step("probe", needs, start=start, seed=seed))
        for start in initialisations(study) if "finetuned" in study.measured else ():
            needs = (*first, *((Step("pretrain", start=start, seed=seed).name,) if start in variants else ()))
            for fraction in study.fractions:
                names = [Line.of(text).name for text in study.tries]
                steps += [Step("finetune", needs, start, fraction, seed, recipe) for recipe in names]
    return steps


def recipe_config(words: str, changes: Sequence[str], values: Mapping[str, Any]) -> Any:
    """A recipe with changes, and with values that are the study's, as a config.

    Args:
        words: A recipe and changed settings, such as `demo optimizer.stop_after_epochs=2`.
        changes: Further changes, such as `weighting.mode=off`.
        values: Values by the dotted names of settings.

    Raises:
        UserError: The recipe is unknown or of another kind, or a change is.
    """
    place, *own = words.split()
    config = read_config([f"--config={place}", *(f"--config.{each}" for each in (*own, *changes))])
    for name, value in values.items():
        group, _, last = name.rpartition(".")
        try:
            setattr(config[group] if group else config, last, value)
        except (AttributeError, KeyError) as error:
            raise UserError(f"the study's recipe {place} has no setting {name}: it is for another task") from error
    return config


def records_of(study: StudySettings, out: Path) -> str:
    """Folder of the study's records."""
    return study.records or str(out / SCENES / "records")


def pretraining_settings(study: StudySettings, out: Path, start: str, seed: int) -> PretrainingSettings:
    """Settings of a pretraining run.

    Raises:
        UserError: See `recipe_config`; or values do not fit together.
    """
    changes = next(Line.of(text).words for text in study.variants if Line.of(text).name == start)
    values = {"seed": seed, "data.records": (records_of(study, out),)}
    return resolve(recipe_config(study.pretraining, changes, values), PretrainingSettings)


def start_of(study: StudySettings, out: Path, start: str, seed: int) -> str | None:
    """Checkpoint of an initialisation; None for random parameters.

    Raises:
        UserError: A checkpoint has no folder.
    """
    if start == RANDOM:
        return None
    for line in map(Line.of, study.checkpoints):
        if line.name == start:
            if len(line.words) != 1:
                raise UserError(f"the study's checkpoint {start} needs one folder after its name")
            return line.words[0]
    return str(out / Step("pretrain", start=start, seed=seed).name)


def finetuning_stages(
    study: StudySettings, out: Path, step: Step, samples: int | None = None
) -> list[FinetuningSettings]:
    """Settings of the finetuning runs of a step, one after the other; each starts from the one before.

    Args:
        study: The study.
        out: Its folder.
        step: Step of kind `finetune`, or another one for the settings of its model.
        samples: Labelled samples of the run, where the study fixes the number of optimiser steps.

    Raises:
        UserError: See `recipe_config`; or values do not fit together.
    """
    line = next(each for each in map(Line.of, study.tries) if step.recipe in (None, each.name))
    stages, start = [], start_of(study, out, step.start or RANDOM, step.seed or 0)
    for number, changes in enumerate(line.stages):
        values: dict[str, Any] = {"init_from": start, "seed": step.seed or 0, "data.split": study.train}
        values |= {"data.records": (records_of(study, out),), "data.fraction_seed": step.seed or 0}
        values |= {"data.label_fraction": step.fraction or 1.0}
        values |= {"validation.split": None if study.best is None else study.validation}
        config = recipe_config(study.finetuning, changes, values)
        if study.finetuning_steps is not None and samples is not None:
            usual = recipe_config(study.finetuning, (), {}).optimizer.schedule_epochs
            _take_steps(config, study.finetuning_steps / usual, samples)
        stages.append(resolve(config, FinetuningSettings))
        start = str(out / step.name / f"stage{number}")
    return stages


def _take_steps(config: Any, steps: float, samples: int) -> None:
    """Give every epoch of a recipe this number of optimiser steps, however few samples there are.

    Warm-up, checkpoints and validations keep their share of the run.
    """
    optimizer = config.optimizer
    factor = steps / steps_per_epoch(samples, config.batch.global_batch)
    for section, name in (
        *((optimizer, name) for name in ("warmup_epochs", "schedule_epochs", "stop_after_epochs")),
        *((config[group], "every_epochs") for group in ("checkpoint", "validation")),
    ):
        setattr(section, name, getattr(section, name) * factor)
