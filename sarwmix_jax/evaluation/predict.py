"""From checkpoints to predictions of labelled samples."""

import dataclasses
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import numpy as np

from sarwmix_jax.checkpoints.loading import Loaded, load_parameters
from sarwmix_jax.data.sources import check_contract
from sarwmix_jax.errors import UserError
from sarwmix_jax.progress import progress
from sarwmix_jax.settings.sections import BatchSettings, FinetuningSettings, FloodSettings, PatchOp
from sarwmix_jax.tasks.flood import Flood
from sarwmix_jax.tasks.gradients import make_mesh, named_split, replicate
from sarwmix_jax.tasks.labelled import LabelledTask, make_predict
from sarwmix_jax.tasks.multilabel import Multilabel, SingleLabel, class_numbers

TASK_TYPES: dict[str, Any] = {kind.name: kind for kind in (Multilabel, SingleLabel, Flood)}


@dataclass(frozen=True)
class Candidate:
    """A checkpoint to evaluate.

    Attributes:
        name: Its name in tables.
        loaded: Its parameters and description.
        task: Its task.
    """

    name: str
    loaded: Loaded
    task: LabelledTask

    @property
    def rules(self) -> list[str]:
        """Selection rules whose best checkpoint this is."""
        return [rule for rule, best in _bests(self.loaded.description).items() if best["step"] == self.loaded.step]

    @property
    def selected_on(self) -> str | None:
        """Split on which it was selected; None where it was not selected or the split is not known."""
        validation = self.loaded.description.get("settings", {}).get("validation", {})
        return named_split(validation.get("split")) if self.rules else None

    @property
    def selection(self) -> str:
        """How the checkpoint was chosen, as far as it is known."""
        if self.rules:
            return f"selected by {', '.join(self.rules)} on split {self.selected_on}"
        settings = self.loaded.description.get("settings")
        return f"step {self.loaded.step} of a run" if settings else "chosen by its author; the file does not state how"


@dataclass(frozen=True)
class Predictions:
    """Predictions of a candidate on a split.

    Attributes:
        logits: (samples, classes) float32.
        probabilities: Sigmoid or softmax of the logits, float32.
        truth: Targets (samples, classes), or class numbers (samples).
        stored: Labels as in the records.
    """

    logits: np.ndarray
    probabilities: np.ndarray
    truth: np.ndarray
    stored: np.ndarray


def _bests(description: dict[str, Any]) -> dict[str, Any]:
    return (description.get("progress") or {}).get("best") or {}


def load_candidate(path: str, name: str, *, best: str | None, patch_op: PatchOp | None, batch: int) -> Candidate:
    """A checkpoint of a classifier or flood model, ready to predict.

    Args:
        path: A work directory, its `checkpoints` folder, one checkpoint's folder, or a converted folder.
        name: Its name in tables.
        best: Selection rule whose best checkpoint of a run is used; by default the newest checkpoint.
        patch_op: How flood tiles are pooled; by default as trained.
        batch: Samples per device at a time.

    Raises:
        UserError: There is no such checkpoint, or it has no head.
    """
    loaded = load_parameters(path)
    if best is not None:
        rules = _bests(loaded.description)
        if best not in rules:
            known = f"it has {', '.join(rules)}" if rules else "it was not selected by any"
            raise UserError(f"{path} has no best checkpoint by the rule {best!r}; {known}")
        loaded = load_parameters(path, rules[best]["step"])
    if loaded.kind == "pretraining":
        raise UserError(
            f"{path} holds a pretraining model, which has no head to evaluate; finetune it (sarwmix finetune "
            "--config.init_from=...), or use sarwmix probe"
        )
    _ = loaded.computed  # refuses a device before anything takes time
    described = loaded.description
    kind = TASK_TYPES[described.get("task") or ("flood" if loaded.kind == "flood" else "multilabel")]
    flood = FloodSettings(described.get("tiling") or "two_band", patch_op or described.get("patch_op") or "avg")
    data = dataclasses.replace(FinetuningSettings().data, **_reading(described))
    settings = FinetuningSettings(
        task=kind.name, model=loaded.settings, batch=BatchSettings(batch, batch), flood=flood, data=data
    )
    classes = tuple(described.get("class_names") or map(str, range(described["classes"])))
    return Candidate(name, loaded, kind(settings, loaded.statistics, classes))


def _reading(description: dict[str, Any]) -> dict[str, Any]:
    """How the model treated invalid pixels in training."""
    known = (description.get("settings") or {}).get("data", {})
    return {"nodata_aware": known.get("nodata_aware", False)}


def open_split(candidate: Candidate, records: str, split: str) -> Any:
    """A split of a record set, checked against what the checkpoint expects.

    Raises:
        UserError: It does not exist, is of another kind, or has other classes.
    """
    kind: Any = type(candidate.task)
    try:
        source = kind.open(Path(records), split)
    except UserError as error:
        if kind.name == "flood" and "no record set of pairs" in str(error):
            raise UserError(
                f"{candidate.name} is a flood model and needs pairs of dates, but {records} holds single images; give "
                "the records that sarwmix prepare sen12flood wrote"
            ) from None
        raise
    check_contract(source.records)
    classes, wanted = source.contract.classes, candidate.task.classes
    if kind.name != "flood" and classes != wanted:
        if not classes:
            raise UserError(f"{records} carries no labels; evaluate on records with labels")
        named = candidate.loaded.description.get("class_names") is not None
        if named or len(classes) != len(wanted):
            raise UserError(
                f"{candidate.name} predicts {len(wanted)} classes, {records} has {len(classes)} classes"
                + (" with other names" if len(classes) == len(wanted) else "")
                + "; use records with the classes of its training, or finetune it on these"
            )
    return source


def predict(candidate: Candidate, source: Any, title: str) -> Predictions:
    """Predictions of every sample of a source, in stored order."""
    task, mesh = candidate.task, make_mesh()
    run = make_predict(task, candidate.loaded.computed, mesh, [source], title)
    with jax.default_matmul_precision("highest"):
        found = run(*replicate((candidate.loaded.params, candidate.loaded.fixed), mesh))
    stored = found[task.target]
    return Predictions(found["logits"], probabilities(task, found["logits"]), truth(task, stored), stored)


def probabilities(task: LabelledTask, logits: np.ndarray) -> np.ndarray:
    """Probabilities of classes, float32: independent, or excluding each other."""
    from sarwmix_jax.metrics.scores import sigmoid, softmax

    return sigmoid(logits) if task.name == "multilabel" else softmax(logits)


def truth(task: LabelledTask, stored: np.ndarray) -> np.ndarray:
    """Labels as the scores need them: targets of classes, or class numbers."""
    return class_numbers(stored) if task.name == "single_label" else stored


def clusters_of(source: Any) -> np.ndarray:
    """Acquisition or sequence of every sample."""
    return np.array([source.cluster_of(number) for number in range(len(source))])


def read_in_chunks(
    source: Any, columns: Sequence[str], title: str, chunk: int = 256
) -> Iterator[dict[str, np.ndarray]]:
    """All samples of a source, some at a time."""
    with progress(title, len(source)) as advance:
        for first in range(0, len(source), chunk):
            rows = np.arange(first, min(first + chunk, len(source)))
            yield source.read_batch(rows, columns)
            advance(len(rows))
