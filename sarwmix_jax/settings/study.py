"""Settings of a study: a grid of pretraining and finetuning runs, as data.

Lines such as `off weighting.mode=off` are a name and settings as on the command line, without `--config.` before them.
"""

import math
import re
import shlex
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

from sarwmix_jax.errors import UserError
from sarwmix_jax.settings.config import to_config, to_dataclass
from sarwmix_jax.settings.declarations import Positive, setting

if TYPE_CHECKING:
    from ml_collections import ConfigDict

RANDOM = "random"
"""This initialisation is no checkpoint: the parameters are drawn."""
MEASURED = ("finetuned", "probe", "baseline", "reconstruction")
"""What a study can measure."""


@dataclass(frozen=True)
class StudySettings:
    """All settings of a study."""

    records: str | None = setting(None, "folder of a record set; unset: synthetic scenes are written")
    scenes: tuple[int, ...] = setting((3072, 256, 256), "synthetic scenes for training, validation and test")
    landscape: str = setting("large_parcels", "landscape of the synthetic scenes")
    train: str = setting("train", "split for finetuning and probes, of which fractions are taken")
    validation: str = setting("validation", "split on which recipes and probes are selected")
    test: str = setting("test", "split that is scored")
    pretraining: str = setting("demo", "recipe of pretraining, and settings that all variants change")
    variants: tuple[str, ...] = setting((), "pretraining variants: name and changed settings")
    finetuning: str = setting("finetune_demo", "recipe of finetuning, and settings that all runs change")
    tries: tuple[str, ...] = setting(
        ("recipe",), "finetuning recipes, of which validation selects: name and changed settings; `then`: a second run"
    )
    best: str | None = setting(None, "selection rule whose best checkpoint is scored; unset: the last one")
    finetuning_steps: Positive[int] | None = setting(
        None, "optimiser steps of the finetuning recipe's schedule for any label fraction; unset: its epochs"
    )
    random: bool = setting(True, "whether random parameters are one of the initialisations")
    checkpoints: tuple[str, ...] = setting((), "existing checkpoints to start from as well: name and folder")
    fractions: tuple[float, ...] = setting((1.0,), "label fractions")
    seeds: tuple[int, ...] = setting((0, 1, 2), "seeds; each one also chooses its labels")
    measured: tuple[str, ...] = setting(("finetuned", "probe", "baseline"), f"some of {', '.join(MEASURED)}")
    score: str = setting("ap_macro", "score in tables and figures, and by which validation selects")
    minutes: tuple[str, ...] = setting((), "expected minutes of a step before any is done: its kind and a number")
    examined: Positive[int] = setting(1024, "records, from the first, on which reconstructions are compared")


class Line(NamedTuple):
    """A name and what stands behind it."""

    name: str
    words: tuple[str, ...]

    @classmethod
    def of(cls, text: str) -> "Line":
        """From a text such as `off weighting.mode=off`.

        Raises:
            UserError: The name is missing or cannot be the name of a folder.
        """
        try:
            words = shlex.split(text)
        except ValueError as error:
            raise UserError(f"the study's line {text!r} cannot be read: {error}") from error
        if not words or not words[0].replace("_", "").replace("-", "").replace(".", "").isalnum():
            raise UserError(f"the study's line {text!r} needs a name of letters, digits, - and _ first")
        return cls(words[0], tuple(words[1:]))

    @property
    def stages(self) -> list[list[str]]:
        """The words in the parts that `then` separates."""
        parts: list[list[str]] = [[]]
        for word in self.words:
            parts.append([]) if word == "then" else parts[-1].append(word)
        return parts


def study_config() -> "ConfigDict":
    """Defaults of a study: a `ConfigDict` that refuses unknown names and types."""
    return to_config(StudySettings()).lock()


def resolve_study(config: Any) -> StudySettings:
    """Settings of a study from a config, checked.

    Raises:
        UserError: A name, type or range is wrong, or values do not fit together.
    """
    if "variants" not in config:
        raise UserError("the config is not that of a study; give a study's, such as --config=study_labels")
    study = to_dataclass(config, StudySettings)
    if unknown := sorted(set(study.measured) - set(MEASURED)):
        raise UserError(f"--config.measured names {unknown[0]!r}; known are {', '.join(MEASURED)}")
    if len(study.scenes) != 3 or min(study.scenes) < 1:
        raise UserError("--config.scenes needs three numbers above 0: training, validation, test")
    if bad := [each for each in study.fractions if not 0 < each <= 1 or not math.isfinite(each)]:
        raise UserError(f"--config.fractions has {bad[0]}; give numbers above 0, up to 1")
    if not study.seeds or min(study.seeds) < 0 or not study.fractions or not study.tries:
        raise UserError("a study needs one or more seeds from 0, fractions and tries")
    for text in study.minutes:
        if not re.fullmatch(r"\w+ \d+(\.\d+)?", text):
            raise UserError(f"--config.minutes has {text!r}; give a kind of step and a number, such as 'pretrain 4'")
    for what in ("variants", "checkpoints", "tries", "fractions", "seeds"):
        values = getattr(study, what)
        names = [Line.of(value).name if isinstance(value, str) else value for value in values]
        if twice := [name for number, name in enumerate(names) if name in names[:number]]:
            raise UserError(f"--config.{what} names {twice[0]} twice; name each once")
    starts = initialisations(study)
    if not starts or len(set(starts)) < len(starts):
        raise UserError(
            "a study needs one or more initialisations (variants, checkpoints, random), each with its own name"
        )
    return study


def initialisations(study: StudySettings) -> list[str]:
    """Names of all initialisations, in order."""
    named = [Line.of(text).name for text in (*study.variants, *study.checkpoints)]
    return [*named, *([RANDOM] if study.random else [])]
