import numpy as np
import pytest
from matplotlib.image import imread
from matplotlib.text import Text

from sarwmix_jax.errors import UserError
from sarwmix_jax.evaluation import figures
from sarwmix_jax.evaluation.figures import (
    confident_mistakes,
    draw_confusion,
    draw_mistakes,
    draw_precision_recall,
    draw_reliability,
    draw_substitutions,
    mistake,
    short_name,
    substitutions,
)
from sarwmix_jax.facts.labels import CLASSES
from sarwmix_jax.metrics.calibration import multilabel_reliability
from sarwmix_jax.metrics.scores import multilabel_scores, sigmoid


@pytest.fixture
def drawn(monkeypatch):
    """The figures that are written, besides the files themselves."""
    kept, write = [], figures._write

    def keep(figure, path):
        kept.append(figure)
        write(figure, path)

    monkeypatch.setattr(figures, "_write", keep)
    return kept


def texts(figure):
    return [text.get_text() for text in figure.findobj(Text) if text.get_text()]


def nineteen_classes():
    rng = np.random.default_rng(0)
    targets = (rng.random((400, 19)) < 0.3).astype(np.int8)
    targets[:, 16] = 0
    return sigmoid(rng.normal(size=targets.shape) + 2 * targets - 1.5), targets


def test_precision_recall_states_each_figure(tmp_path, drawn):
    probabilities, targets = nineteen_classes()
    draw_precision_recall(tmp_path / "new" / "a.png", probabilities, targets, CLASSES)
    scores = multilabel_scores(probabilities, targets, CLASSES)
    words = texts(drawn[0])
    macro = f"macro AP {scores.summary['ap_macro']:.3f} (1 of 19 classes without positives: AP 0), 400 samples"
    assert macro in words
    assert f"all sample-class pairs (micro): AP {scores.summary['ap_micro']:.3f}" in words
    ranked = sorted((row for row in scores.per_class if row.support), key=lambda row: -row.ap)
    for row in ranked[:3] + ranked[-3:]:
        assert f"{short_name(row.name)}: AP {row.ap:.3f}" in words
    assert "the other 12 classes" in words
    assert min(imread(tmp_path / "new" / "a.png").shape[:2]) > 800
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["a.png"]


def test_curves_are_thinned_and_keep_their_ends():
    scores = np.random.default_rng(0).random(50_000)
    recall, precision = figures._curve(scores > np.random.default_rng(1).random(50_000), scores)
    assert len(recall) < 2 * figures.CURVE_POINTS
    assert (recall[0], recall[-1], precision[-1]) == (1, 0, 1)


def test_reliability_states_the_errors(tmp_path, drawn):
    probabilities, targets = nineteen_classes()
    before = multilabel_reliability(probabilities, targets)
    draw_reliability(tmp_path / "a.png", [("before", before), ("after", before)])
    assert f"before: calibration error {100 * before.error:.2f} %" in texts(drawn[0])
    upper = drawn[0].axes[0]
    assert upper.lines[1].get_ydata() == pytest.approx(before.observed[before.counts > 0])
    assert {"observed frequency", "predicted probability", "predictions"} <= set(texts(drawn[0]))


def test_confusion_is_percent_of_rows(tmp_path, drawn):
    draw_confusion(tmp_path / "a.png", ((30, 10, 0), (5, 15, 0), (0, 0, 0)), ("a", "b", "c"))
    shown = drawn[0].axes[0].images[0].get_array()
    assert np.asarray(shown[:2]) == pytest.approx(np.array([[75, 25, 0], [25, 75, 0]]))
    assert np.isnan(np.asarray(shown[2])).all()
    assert {"a (40)", "c (0)", "75", "25"} <= set(texts(drawn[0]))


@pytest.mark.slow
def test_substitutions(tmp_path, drawn):
    missed = np.array([[1, 0, 0], [1, 0, 0], [1, 1, 0], [0, 0, 0]], bool)
    false = np.array([[0, 1, 0], [0, 1, 1], [0, 0, 1], [0, 1, 0]], bool)
    found = substitutions(missed, false)
    assert found[:2] == pytest.approx(np.array([[0, 2 / 3, 2 / 3], [0, 0, 1]]))
    assert np.isnan(found[2]).all()
    probabilities, targets = nineteen_classes()
    draw_substitutions(tmp_path / "a.png", probabilities, targets, CLASSES, np.full(19, 0.4))
    row = multilabel_scores(probabilities, targets, CLASSES, 0.4).per_class[0]
    misses = row.support - round(row.recall * row.support)
    assert f"Urban fabric ({misses:,} of {row.support:,})" in texts(drawn[0])


def test_mistakes_are_the_largest_errors_one_a_sample():
    probabilities = np.float32([[0.1, 0.8, 0.9], [0.4, 0.6, 0.3], [0.99, 0.2, 0.05]])
    targets = np.array([[0, 1, 0], [0, 1, 0], [0, 1, 0]])
    assert confident_mistakes(probabilities, targets, 5).tolist() == [[2, 0], [0, 2]]
    assert confident_mistakes(probabilities, targets, 1).tolist() == [[2, 0]]
    single = np.float32([[0.1, 0.9], [0.7, 0.3]])
    assert confident_mistakes(single, np.array([0, 0]), 5)[:, 0].tolist() == [0]


def test_mistake_sheet(tmp_path, drawn):
    rng = np.random.default_rng(0)
    images = rng.normal((-18, -11), 3, (3, 60, 60, 2)).transpose(0, 3, 1, 2)
    images[0, 0, 0, 0] = np.nan
    probabilities = np.linspace(0.02, 0.98, 19)
    shown = [
        mistake(
            f"S1A_IW_GRDH_1SDV_20170613T165043_33UUP_{k}",
            image,
            probabilities,
            np.arange(19) < 5,
            probabilities > 0.5,
            CLASSES,
        )
        for k, image in enumerate(images)
    ]
    assert shown[0].missed[0] == ("Urban fabric", pytest.approx(0.02))
    assert shown[0].wrong[0] == ("Marine waters", pytest.approx(0.98))
    assert (len(shown[0].missed), len(shown[0].wrong), shown[0].right) == (5, 9, ())
    draw_mistakes(tmp_path / "a.png", shown)
    words = texts(drawn[0])
    assert {"VH backscatter, dB", "VV backscatter, dB", "missed: Urban fabric, 0.02", "and 4 more"} <= set(words)
    limits = [image.get_clim() for axes in drawn[0].axes for image in axes.images][:6]
    for band in (0, 1):
        expected = tuple(np.nanpercentile(images[:, band], (1, 99)))
        assert limits[band::2] == [pytest.approx(expected)] * 3
    with pytest.raises(UserError, match="no mistake to draw"):
        draw_mistakes(tmp_path / "b.png", [])


def test_names_lose_their_middle():
    long = "Land principally occupied by agriculture, with significant areas of natural vegetation"
    assert short_name(long) == "Land principally…tural vegetation"
    assert all(len(short_name(name)) <= 34 for name in CLASSES)
    assert len({short_name(name) for name in CLASSES}) == 19
    assert short_name("Pastures") == "Pastures"


@pytest.mark.usefixtures("unchecked")
def test_faults(tmp_path):
    probabilities, targets = nineteen_classes()
    with pytest.raises(UserError, match="no class has a positive"):
        draw_precision_recall(tmp_path / "a.png", probabilities, 0 * targets, CLASSES)
    with pytest.raises(UserError, match="targets have shape"):
        draw_substitutions(tmp_path / "a.png", probabilities, targets[1:], CLASSES)
    assert not list(tmp_path.iterdir())
