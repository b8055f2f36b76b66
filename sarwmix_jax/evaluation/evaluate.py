"""Evaluation of classifiers and flood models: scores with intervals, calibration, baselines, tables and pictures."""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np

from sarwmix_jax.errors import UserError
from sarwmix_jax.evaluation import figures
from sarwmix_jax.evaluation.predict import (
    Candidate,
    Predictions,
    clusters_of,
    load_candidate,
    open_split,
    predict,
    probabilities,
)
from sarwmix_jax.evaluation.reconstruction import short_names
from sarwmix_jax.evaluation.results import Published, Result, markdown_table, write_files, write_result
from sarwmix_jax.evaluation.scoring import baseline_predictions, scores_of, statistic_of, unit_of
from sarwmix_jax.facts.published import PUBLISHED
from sarwmix_jax.metrics import calibration
from sarwmix_jax.metrics.intervals import REPLICATES, difference_intervals, score_intervals
from sarwmix_jax.metrics.scores import Scores
from sarwmix_jax.settings.sections import PatchOp

MISTAKES = 12
NO_FLOOD_SCORE = "no score of the released flood checkpoint is known"


@dataclass(frozen=True)
class EvaluationRequest:
    """What to evaluate.

    Attributes:
        checkpoints: Work directories, checkpoint folders or converted folders.
        records: Folder of the record set.
        splits: Splits to score.
        fit: Split on which baselines are fitted.
        calibrate: Split on which temperature (and thresholds) are fitted; None for no calibration.
        tune_thresholds: Whether each class's threshold is chosen on the `calibrate` split.
        best: Selection rule whose best checkpoint of a run is used; by default the newest checkpoint.
        patch_op: How flood tiles are pooled; by default as trained.
        batch: Samples per device at a time.
        replicates: Bootstrap replicates of the intervals.
    """

    checkpoints: Sequence[str]
    records: str
    splits: Sequence[str] = ("test",)
    fit: str = "train"
    calibrate: str | None = "validation"
    tune_thresholds: bool = False
    best: str | None = None
    patch_op: PatchOp | None = None
    batch: int = 32
    replicates: int = REPLICATES


@dataclass
class Fitted:
    """Temperature and thresholds of one candidate, fitted on the calibration split."""

    temperature: float | None = None
    thresholds: np.ndarray | float = 0.5
    notes: list[str] = field(default_factory=list)


def evaluate(request: EvaluationRequest, out: Path) -> dict[str, str]:
    """Evaluate checkpoints on splits and write tables, JSON, CSV and pictures.

    Returns:
        The Markdown table of every split.

    Raises:
        UserError: A checkpoint, the records or a split cannot be used, or checkpoints are of different tasks.
    """
    names = short_names(request.checkpoints)
    options: dict[str, Any] = {"best": request.best, "patch_op": request.patch_op, "batch": request.batch}
    candidates = [load_candidate(p, n, **options) for p, n in zip(request.checkpoints, names, strict=True)]
    if len({candidate.task.name for candidate in candidates}) > 1:
        kinds = ", ".join(f"{candidate.name} {candidate.task.name}" for candidate in candidates)
        raise UserError(f"the checkpoints are of different tasks ({kinds}); evaluate them separately")
    for candidate in candidates:  # mistakes are found before the long work
        opened = {split: open_split(candidate, request.records, split) for split in request.splits}
    fit_source = open_split(candidates[0], request.records, request.fit)
    if request.tune_thresholds:
        if candidates[0].task.name != "multilabel":
            raise UserError("thresholds are of multi-label classifiers; leave --tune-thresholds out")
        if request.calibrate is None:
            raise UserError("thresholds are tuned on a split; name it with --calibrate")
        open_split(candidates[0], request.records, request.calibrate)
    write_files(out, {})  # refuses a folder that cannot be written to
    fitted = {candidate.name: _fit(candidate, request) for candidate in candidates}
    tables = {}
    for split, source in opened.items():
        results, differences = _evaluate_split(candidates, fitted, source, split, fit_source, request, out)
        published = _published(source.contract.name, candidates[0].task.name)
        tables[split] = markdown_table(results, published) + _differences_text(differences)
        write_files(out, {f"{_slug(split)}.md": tables[split]})
    return tables


def _slug(text: str) -> str:
    return "".join(letter if letter.isalnum() or letter in "-_." else "_" for letter in text)


def _fit(candidate: Candidate, request: EvaluationRequest) -> Fitted:
    """Temperature and thresholds, where the calibration split exists."""
    if request.calibrate is None:
        return Fitted()
    try:
        source = open_split(candidate, request.records, request.calibrate)
    except UserError as error:
        if "no split" not in str(error):
            raise
        return Fitted(notes=[f"no temperature fitted: the records have no split {request.calibrate}"])
    found = predict(candidate, source, f"predicting {request.calibrate} with {candidate.name}")
    multilabel = candidate.task.name == "multilabel"
    fit = calibration.multilabel_temperature if multilabel else calibration.single_label_temperature
    fitted = Fitted()
    try:
        fitted.temperature = fit(found.logits, found.truth).value
    except UserError as error:  # the scores do not need a temperature
        fitted.notes.append(f"no temperature fitted on {request.calibrate}: {error}")
    if request.tune_thresholds:
        fitted.thresholds = calibration.best_thresholds(found.probabilities, found.truth)
        fitted.notes.append(f"thresholds tuned per class on {request.calibrate}")
    return fitted


def _evaluate_split(
    candidates: Sequence[Candidate],
    fitted: dict[str, Fitted],
    source: Any,
    split: str,
    fit_source: Any,
    request: EvaluationRequest,
    out: Path,
) -> tuple[list[Result], dict[str, Any]]:
    """Results of all candidates and baselines on one split, each written at once, and differences of candidates."""
    clusters, folder = clusters_of(source), out / _slug(split)
    task, results, statistics = candidates[0].task, [], {}
    for candidate in candidates:
        found = predict(candidate, source, f"predicting {split} with {candidate.name}")
        own = fitted[candidate.name]
        statistics[candidate.name] = statistic_of(task.name, found.probabilities, found.truth, clusters, own.thresholds)
        result = _result(candidate, found, own, source, split, statistics[candidate.name], request)
        write_result(folder / candidate.name, result)
        _draw(folder / candidate.name, candidate, found, own, source, result.scores)
        results.append(result)
    differences = _differences(statistics, request.replicates)
    if differences:
        write_files(folder, {"differences.json": json.dumps(differences, indent=2) + "\n"})
    true = found.truth
    for name, guess in baseline_predictions(task.name, fit_source, source, len(task.classes)).items():
        scores = scores_of(task.name, guess, true, task.classes, 0.5)
        statistic = statistic_of(task.name, guess, true, clusters, 0.5)
        intervals = score_intervals(statistic, replicates=request.replicates)
        results.append(Result(name, source.contract.name, split, scores, intervals, unit_of(task.name, clusters)))
    return results, differences


def _result(
    candidate: Candidate,
    found: Predictions,
    own: Fitted,
    source: Any,
    split: str,
    statistic: Any,
    request: EvaluationRequest,
) -> Result:
    task = candidate.task
    scores = scores_of(task.name, found.probabilities, found.truth, task.classes, own.thresholds)
    reliable = calibration.multilabel_reliability if task.name == "multilabel" else calibration.top_class_reliability
    details: dict[str, Any] = {
        "step": candidate.loaded.step,
        "loss": float(task.losses(jnp.asarray(found.logits), jnp.asarray(found.stored)).mean()),
        "ece": reliable(found.probabilities, found.truth).error,
        "replicates": request.replicates,
    }
    notes = list(own.notes)
    if own.temperature is not None:
        scaled = probabilities(task, found.logits / own.temperature)
        details |= {"temperature": own.temperature, "ece_after_temperature": reliable(scaled, found.truth).error}
        notes.append(
            f"loss {details['loss']:.4f}; expected calibration error {details['ece']:.4f}, after a temperature of "
            f"{own.temperature:.3g} fitted on {request.calibrate} {details['ece_after_temperature']:.4f}"
        )
    else:
        notes.append(f"loss {details['loss']:.4f}; expected calibration error {details['ece']:.4f}")
    if candidate.selected_on == split:
        notes.append(f"selected on this split, so its scores are optimistic; {split} is not an independent test")
    if task.name == "flood":
        flood = task.settings.flood
        notes.append(f"tiling {flood.tiling}, tiles pooled by {flood.patch_op}; {NO_FLOOD_SCORE}")
    return Result(
        candidate.name,
        source.contract.name,
        split,
        scores,
        score_intervals(statistic, replicates=request.replicates),
        unit_of(task.name, statistic.clusters),
        candidate.selection,
        details,
        notes,
    )


def _draw(folder: Path, candidate: Candidate, found: Predictions, own: Fitted, source: Any, scores: Scores) -> None:
    """Precision-recall curves, reliability, confusion, and the most confident mistakes."""
    task, guess, true = candidate.task, found.probabilities, found.truth
    targets = true if true.ndim == 2 else np.eye(len(task.classes), dtype=np.uint8)[true]
    figures.draw_precision_recall(folder / "precision_recall.png", guess, targets, task.classes)
    reliable = calibration.multilabel_reliability if task.name == "multilabel" else calibration.top_class_reliability
    curves = [("as trained", reliable(guess, true))]
    if own.temperature is not None:
        scaled = probabilities(task, found.logits / own.temperature)
        curves.append((f"temperature {own.temperature:.2f}", reliable(scaled, true)))
    figures.draw_reliability(folder / "reliability.png", curves)
    if scores.confusion is not None:
        figures.draw_confusion(folder / "confusion.png", scores.confusion, task.classes)
    else:
        figures.draw_substitutions(folder / "confusion.png", guess, true, task.classes, own.thresholds)
    likeliest = guess.argmax(axis=1)[:, None] == np.arange(len(task.classes))
    predicted = guess > own.thresholds if task.name == "multilabel" else likeliest
    worst = figures.confident_mistakes(guess, true, MISTAKES)
    if len(worst):
        shown = []
        for sample in worst[:, 0]:
            image = source[int(sample)]["image"].astype(np.float32)
            image_db = image[-1] if image.ndim == 4 else image  # the later date of a pair
            name, true_here = source.name_of(int(sample)), targets[sample] == 1
            shown.append(figures.mistake(name, image_db, guess[sample], true_here, predicted[sample], task.classes))
        figures.draw_mistakes(folder / "mistakes.png", shown)


def _differences(statistics: dict[str, Any], replicates: int) -> dict[str, Any]:
    """Paired differences of every candidate to the first one, by pair and score."""
    first, *others = statistics
    return {
        f"{other} - {first}": {
            name: asdict(interval)
            for name, interval in difference_intervals(
                statistics[other], statistics[first], replicates=replicates
            ).items()
        }
        for other in others
    }


def _differences_text(differences: dict[str, Any]) -> str:
    """Paired differences as lines below a table, where several checkpoints were compared."""
    if not differences:
        return ""
    lines = ["", "Paired differences, 95 % intervals over the same resamples:", ""]
    for pair, scores in differences.items():
        shown = [
            f"{name} {value['estimate']:+.4f} [{value['low']:+.4f}, {value['high']:+.4f}]"
            for name, value in scores.items()
            if value["low"] is not None and name.split("_")[0] in ("ap", "f1", "accuracy")
        ]
        lines.append(f"- {pair}: {', '.join(shown) or 'too few clusters for intervals'}")
    return "\n".join(lines) + "\n"


def _published(dataset: str, task: str) -> list[Published]:
    """Published scores on the same data set."""
    if task != "multilabel":
        return []
    return [Published(each.model, each.scores, each.note) for each in PUBLISHED if each.dataset == dataset]
