"""Mistakes with finetuning, evaluation and features: one line with the remedy, exit code 2, nothing written."""

import shutil

import pytest

from sarwmix_jax.cli.main import main
from sarwmix_jax.facts.labels import CLASSES
from tests.evaluation.commands import evaluate_arguments, finetune_arguments, write_labelled


@pytest.fixture(scope="module")
def others(place, labelled):
    """Record sets that do not fit the released checkpoints, by what is wrong with them."""
    kinds = {"five": CLASSES[:5], "renamed": (*CLASSES[:18], "Glaciers"), "unlabelled": ()}
    sets = {
        name: write_labelled(place / name, "others", classes, train=4, validation=2, test=3)
        for name, classes in kinds.items()
    }
    untested = shutil.copytree(labelled, place / "damaged")
    for file in untested.glob("*test*"):
        file.write_bytes(b"nothing of the kind" * 1000)
    return sets | {"damaged": untested}


@pytest.fixture
def refusal(capsys):
    """The one line of a command that refuses."""

    def run(arguments: list[str]) -> str:
        capsys.readouterr()
        assert main(arguments) == 2
        printed = capsys.readouterr()
        assert "Traceback" not in printed.err and not printed.out
        (line,) = [line for line in printed.err.splitlines() if line.startswith("error: ")]
        assert printed.err.endswith(line + "\n")
        return line

    return run


@pytest.mark.parametrize(
    ("checkpoint", "kind", "more", "words"),
    [
        (
            "finetune",
            "five",
            [],
            ("predicts 19 classes", "has 5 classes; use records with the classes of its training"),
        ),
        ("finetune", "renamed", [], ("has 19 classes with other names; use records with the classes",)),
        ("finetune", "unlabelled", [], ("carries no labels; evaluate on records with labels",)),
        ("finetune", "pairs", [], ("carries no labels; evaluate on records with labels",)),
        (
            "finetune",
            "damaged",
            [],
            ("is not the file that the preparation wrote", "prepare or copy the records again"),
        ),
        ("flood", "labelled", [], ("needs pairs of dates", "holds single images; give the records that sarwmix prep")),
        ("pretrain", "labelled", [], ("has no head to evaluate; finetune it", "or use sarwmix probe")),
        ("finetune", "labelled", ["--split=tset"], ("no split 'tset'", "test (13 records)")),
        ("finetune", "labelled", ["--fit=trian"], ("no split 'trian'", "train (24 records)")),
        (
            "finetune",
            "labelled",
            ["--best=weighted"],
            ("no best checkpoint by the rule 'weighted'", "not selected by any"),
        ),
        ("finetune", "labelled", ["--patch-op=sum"], ("--patch-op", "'sum'", "avg", "max")),
        (
            "finetune",
            "labelled",
            ["--tune-thresholds", "--calibrate=val"],
            ("no split 'val'", "validation (10 records)"),
        ),
        (
            "finetune",
            "labelled",
            ["--tune-thresholds", "--calibrate=none"],
            ("tuned on a split; name it with --calibrate",),
        ),
        ("flood", "pairs", ["--tune-thresholds"], ("thresholds are of multi-label classifiers; leave",)),
    ],
)
def test_evaluate_refuses(checkpoint, kind, more, words, converted, labelled, pairs, others, tmp_path, refusal):
    records = {"labelled": labelled, "pairs": pairs, **others}[kind]
    line = refusal(evaluate_arguments(converted[checkpoint], records, tmp_path / "out", *more))
    assert all(word in line for word in words), line
    assert not (tmp_path / "out").exists()


def test_evaluate_refuses_checkpoints_that_cannot_be_compared(converted, labelled, tmp_path, refusal):
    out, both = tmp_path / "out", [converted["finetune"], converted["flood"]]
    line = refusal(evaluate_arguments(both, labelled, out))
    assert "of different tasks (released_finetune multilabel, released_flood flood); evaluate them separately" in line
    line = refusal(evaluate_arguments([both[0], both[0]], labelled, out))
    assert "the same checkpoint twice" in line and "name each once" in line
    assert "no checkpoint in" in refusal(evaluate_arguments(tmp_path / "nowhere", labelled, out))
    assert "no record set at" in refusal(evaluate_arguments(both[0], tmp_path / "nowhere", out))
    assert not out.exists()


@pytest.mark.slow
def test_a_run_knows_the_rules_of_its_bests(finetuned, labelled, tmp_path, refusal):
    line = refusal(evaluate_arguments(finetuned, labelled, tmp_path / "out", "--best=weighed"))
    assert "no best checkpoint by the rule 'weighed'; it has weighted, sum, most_best, lowest_loss" in line


@pytest.mark.parametrize("command", ["evaluate", "probe", "embed", "finetune"])
def test_places_that_cannot_be_written_are_refused_before_anything_is_computed(
    command, converted, labelled, tmp_path, refusal, monkeypatch
):
    def computed(*_):
        raise AssertionError("computed first")

    # from top to bottom: a module that is imported here takes the function from those not yet patched
    monkeypatch.setattr("sarwmix_jax.evaluation.features.over_devices", computed)
    monkeypatch.setattr("sarwmix_jax.tasks.labelled.over_devices", computed)
    monkeypatch.setattr("sarwmix_jax.tasks.gradients.over_devices", computed)
    (tmp_path / "file").write_text("kept")
    if command == "finetune":
        monkeypatch.undo()
        arguments = finetune_arguments(labelled, tmp_path / "file" / "out")
    else:
        arguments = [command, *evaluate_arguments(converted["finetune"], labelled, tmp_path / "file" / "out")[1:]]
    line = refusal(arguments)
    assert "cannot write" in line and "choose another" in line
    assert (tmp_path / "file").read_text() == "kept"


@pytest.mark.parametrize(
    ("kind", "changes", "words"),
    [
        ("labelled", {"task": "flood"}, ("holds no pairs.csv: no record set of pairs",)),
        ("unlabelled", {}, ("the records carry no labels; prepare them with labels, or pretrain on them",)),
        ("labelled", {"task": "multilable"}, ("task", "'multilable'", "multilabel, single_label, flood")),
        ("labelled", {"task": "single_label"}, ("but single_label needs exactly one each; use multilabel",)),
        ("labelled", {"init_from": "nowhere"}, ("no checkpoint in nowhere; give a work directory")),
        ("labelled", {"validation__split": "held"}, ("no split 'held'", "validation (10 records)")),
        ("labelled", {"data__label_fraction": 0.001}, ("label fraction 0.001 of 24 samples leaves none",)),
        ("labelled", {"head__class_weights": "some"}, ("head.class_weights", "'some'", "none, balanced")),
        (
            "five",
            {"head__class_weights": "balanced", "data__split": "train[:1]"},
            ("use --config.head.class_weights=none",),
        ),
        ("pairs", {}, ("the records carry no labels",)),
    ],
)
def test_finetune_refuses(kind, changes, words, labelled, pairs, others, tmp_path, refusal, monkeypatch):
    monkeypatch.chdir(tmp_path)
    records = {"labelled": labelled, "pairs": pairs, **others}[kind]
    line = refusal(finetune_arguments(records, tmp_path / "run", **changes))
    assert all(word in line for word in words), line
    assert not (tmp_path / "run").exists()


def test_probe_refuses(converted, labelled, others, tmp_path, refusal):
    def probe(records, *more):
        return ["probe", *evaluate_arguments(converted["pretrain"], records, tmp_path / "out", *more)[1:]]

    assert "carry no labels; probe on records with labels" in refusal(probe(others["unlabelled"]))
    assert "no split 'tset'" in refusal(probe(labelled, "--split=tset"))
    assert "exactly one each" in refusal(probe(labelled, "--task=single_label"))
    assert "label fraction 0.0: it must be above 0" in refusal(probe(labelled, "--fraction=0"))
    assert not (tmp_path / "out").exists()
