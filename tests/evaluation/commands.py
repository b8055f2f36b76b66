"""Commands as a user types them, and labelled records and pairs for them."""

import csv
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy.special import expit, log_softmax
from sklearn.metrics import average_precision_score, f1_score, log_loss, precision_score, recall_score

from convert_torch_ckpt import main as convert_main
from sarwmix_jax.cli.main import main
from sarwmix_jax.data.pairs import FILE_NAME, open_pairs
from sarwmix_jax.data.records import Contract, Record
from sarwmix_jax.data.sources import open_records
from sarwmix_jax.facts.labels import CLASSES
from sarwmix_jax.inference.model import load
from tests.data_prep.conftest import run_script
from tests.data_prep.flood_miniature import write_miniature
from tests.record_sets import write_records
from tests.support import GOLDEN

ROOT = Path(__file__).parents[2]
FINETUNE = f"--config={ROOT}/configs/finetune_demo.py"
SIZES = {"embed_dim": 8, "depths": (1, 1, 2, 1), "num_heads": (1, 2, 4, 8), "decoder_dim": 16}
STEPS = {
    **{f"model.{name}": value for name, value in SIZES.items()},
    "model.windows": "",
    "model.mlp_ratio": 4,
    "batch.global_batch": 8,
    "data.threads": 1,
    "optimizer.base_lr": 1e-3,
    "optimizer.stop_after_steps": 3,
    "log.every_steps": 1,
}
"""Settings of a run of three steps with the sizes of the golden files."""

PICTURES = {"precision_recall.png", "reliability.png", "confusion.png", "mistakes.png"}
FILES = {"result.json", "classes.csv", "result.md", *PICTURES}
SCORES = {"f1": f1_score, "precision": precision_score, "recall": recall_score}

OPTIONS = {
    "pretrain": ("--statistics=bigearthnet_v2", "--decoder-heads=4", "--norm-pix=yes"),
    "finetune": ("--statistics=bigearthnet_v2",),
    "flood": ("--statistics=bigearthnet_v1", "--kind=flood", "--tiling=released"),
}
"""Options that the golden files need in the conversion."""


def convert(name: str, out: Path) -> Path:
    """A golden file `NAME_tiny.pth` as a checkpoint folder."""
    assert convert_main([str(GOLDEN / f"{name}_tiny.pth"), str(out), *OPTIONS[name]]) == 0
    return out


def finetune_arguments(records: Path, workdir: Path, **changes: Any) -> list[str]:
    """Arguments of `sarwmix finetune`; in `changes` two underscores stand for a dot."""
    given = STEPS | {"data.records": records} | {name.replace("__", "."): value for name, value in changes.items()}
    settings = [f"--config.{name}={value}" for name, value in given.items()]
    return ["finetune", FINETUNE, *settings, f"--workdir={workdir}"]


def finetune(records: Path, workdir: Path, **changes: Any) -> Path:
    """Run `sarwmix finetune` for three steps; gives the work directory."""
    assert main(finetune_arguments(records, workdir, **changes)) == 0
    return workdir


def evaluate_arguments(checkpoints: list[Path] | Path, records: Path, out: Path, *more: str) -> list[str]:
    """Arguments of `sarwmix evaluate`, which are none that has a default."""
    first, *others = checkpoints if isinstance(checkpoints, list) else [checkpoints]
    return ["evaluate", "--checkpoint", str(first), *map(str, others), f"--records={records}", f"--out={out}", *more]


def evaluate(checkpoints: list[Path] | Path, records: Path, out: Path, *more: str) -> str:
    """Run `sarwmix evaluate`; gives the table of the test split."""
    assert main(evaluate_arguments(checkpoints, records, out, *more)) == 0
    return (out / "test.md").read_text()


def result(out: Path, checkpoint: Path) -> dict[str, Any]:
    """The JSON file of one checkpoint's result on the test split."""
    return json.loads((out / "test" / checkpoint.name / "result.json").read_text())


def class_rows(out: Path, checkpoint: Path) -> list[dict[str, str]]:
    """The lines of its CSV file."""
    with (out / "test" / checkpoint.name / "classes.csv").open() as file:
        return list(csv.DictReader(file))


def rows_of(table: str) -> dict[str, list[str]]:
    """Cells of the lines of a Markdown table by name."""
    lines = [line.strip("| ").split(" | ") for line in table.splitlines() if line.startswith("|")]
    return {name: cells for name, *cells in lines[2:]}


def log_of(workdir: Path) -> list[dict[str, Any]]:
    """The lines of a run's log."""
    return [json.loads(line) for line in (workdir / "log.jsonl").read_text().splitlines()]


def labelled_record(split: str, number: int, classes: tuple[str, ...], side: int) -> Record:
    """Speckle of random classes, of which the first and the last show; no sample of the test split has 3 or 7."""
    rng = np.random.default_rng([number, *split.encode()])
    has = rng.random(len(classes)) < 0.3
    has[:1] |= not has.any()
    has[[k for k in (3, 7) if split == "test" and k < len(classes)]] = False
    level = np.array([-19.0, -12.0])[:, None, None] + 4 * has[:1].any() - 3 * has[-1:].any()
    name = f"S1A_IW_GRDH_1SDV_20170613T{number % 9:06d}_33UUP_{number}_1"
    image = (level + 3 * rng.standard_normal((2, side, side))).astype(np.float32)
    labels = tuple(np.array(classes)[has])
    return Record(image, f"{split}_{number}", s1_name=name, labels=labels)


def write_labelled(
    out: Path, name: str = "labelled", classes: tuple[str, ...] = CLASSES, side: int = 128, **counts: int
) -> Path:
    """Records with random labels."""
    contract = Contract(name, "1.0.0", "test", "sigma0", side, side, classes=classes)
    splits = {
        split: [labelled_record(split, number, classes, side) for number in range(count)]
        for split, count in counts.items()
    }
    write_records(out, contract, splits)
    return out


def write_pairs(out: Path, name: str = "pairs", side: int = 256, **counts: int) -> Path:
    """Pairs of dates, two sequences to every three of them; where it is flooded the later date is darker."""
    rng, rows, splits = np.random.default_rng(0), [], {}
    for split, count in counts.items():
        records = splits[split] = []
        for number in range(count):
            label = int(rng.random() < 0.5)
            before = np.array([-19.0, -12.0])[:, None, None] + 3 * rng.standard_normal((2, side, side))
            after = before + rng.standard_normal((2, side, side)) - 4 * label * (rng.random() < 0.8)
            for date, image in (("a", before), ("b", after)):
                valid = np.ones((side, side), bool)
                valid[: side // 8, : 3 * number] = date == "a"
                image = np.where(valid, image, -60.0).astype(np.float32)
                records.append(Record(image, f"{split}_{number}{date}", valid_pixels=valid))
            title = f"{split}{2 * number // 3}__{number}a__{number}b__{label}"
            rows.append((title, split, 2 * number, 2 * number + 1, label))
    write_records(out, Contract(name, "1.0.0", "test", "sigma0", side, side, has_valid_pixels=True), splits)
    with (out / FILE_NAME).open("w", newline="") as file:
        csv.writer(file).writerows([("name", "split", "first", "second", "label"), *rows])
    return out


def prepare_flood_miniature(folder: Path) -> Path:
    """The raw miniature of SEN12-FLOOD as `data_prep/sen12flood.py` writes it: three pairs a split."""
    raw, out = write_miniature(folder / "raw"), folder / "flood"
    done = run_script("sen12flood.py", "--raw-root", raw, "--out", out, "--on-error=skip")
    assert done.returncode == 0, done.stderr
    return out


def check_written(out: Path, checkpoint: Path) -> None:
    """All files of a result are there, and the pictures are pictures."""
    folder = out / "test" / checkpoint.name
    assert {path.name for path in folder.iterdir()} == FILES
    for name in PICTURES:
        content = (folder / name).read_bytes()
        assert content.startswith(b"\x89PNG") and len(content) > 5000, name


def expected_scores(images_db: np.ndarray, truth: np.ndarray, checkpoint: Path) -> tuple[dict[str, float], np.ndarray]:
    """Scores by scikit-learn of logits by the interface for inference, and the probabilities."""
    guess = expit(load(checkpoint).classify(images_db))
    predicted = guess > 0.5
    scores = {"accuracy_micro": float((predicted == truth).mean())}
    for average in ("macro", "micro"):
        scores[f"ap_{average}"] = average_precision_score(truth, guess, average=average)
        scores |= {f"{n}_{average}": s(truth, predicted, average=average, zero_division=0) for n, s in SCORES.items()}
    return scores, guess


def check_classifier(out: Path, checkpoint: Path, records: Path, count: int) -> None:
    """Files, scores, counts, intervals and loss of a classifier's result on images of its own size."""
    check_written(out, checkpoint)
    source = open_records(records, "test")
    batch = source.read_batch(range(len(source)))
    truth = batch["labels"]
    scores, guess = expected_scores(batch["image"].astype(np.float32), truth, checkpoint)
    found = result(out, checkpoint)
    assert found["scores"]["samples"] == len(truth) == count
    for name, value in scores.items():
        assert found["scores"]["summary"][name] == pytest.approx(value, abs=1e-6), name
    losses = [log_loss(truth[:, k], guess[:, k].astype(np.float64), labels=[0, 1]) for k in range(truth.shape[1])]
    assert found["details"]["loss"] == pytest.approx(np.mean(losses), abs=1e-5)
    rows = class_rows(out, checkpoint)
    assert [row["name"] for row in rows] == list(source.contract.classes)
    assert [int(row["support"]) for row in rows] == truth.sum(axis=0).tolist()
    assert [int(row["predicted"]) for row in rows] == (guess > 0.5).sum(axis=0).tolist()
    for name in ("ap_macro", "ap_micro", "f1_macro", "f1_micro"):
        interval = found["intervals"][name]
        assert interval["low"] <= interval["estimate"] <= interval["high"]
        assert interval["estimate"] == pytest.approx(scores[name], abs=1e-6)


def check_flood(out: Path, checkpoint: Path, records: Path, patch_op: Any = "avg") -> None:
    """Files, scores, counts and loss of a flood model's result."""
    check_written(out, checkpoint)
    source = open_pairs(records, "test")
    batch = source.read_batch(range(len(source)))
    logits = load(checkpoint).flood(*np.moveaxis(batch["image"].astype(np.float32), 1, 0), patch_op=patch_op)
    predicted, truth = logits.argmax(axis=1), batch["label"]
    scores = {"accuracy_percent": 100 * (predicted == truth).mean()}
    scores |= {name: score(truth, predicted, zero_division=0) for name, score in SCORES.items()}
    found = result(out, checkpoint)
    assert found["scores"]["samples"] == len(truth) == len(source)
    assert found["scores"]["summary"] == pytest.approx(scores, abs=1e-6)
    losses = -log_softmax(logits.astype(np.float64), axis=1)[np.arange(len(truth)), truth]
    assert found["details"]["loss"] == pytest.approx(losses.mean(), abs=1e-5)
    assert [int(row["support"]) for row in class_rows(out, checkpoint)] == np.bincount(truth, minlength=2).tolist()
