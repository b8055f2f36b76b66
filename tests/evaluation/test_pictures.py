import dataclasses

import numpy as np
import pytest
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.image import imread
from matplotlib.text import Text

from sarwmix_jax.errors import UserError
from sarwmix_jax.evaluation import pictures
from sarwmix_jax.evaluation.held_out import evaluate_held_out, groups
from sarwmix_jax.evaluation.pictures import _outline, draw_correlation, draw_loss, draw_reconstructions, draw_row
from sarwmix_jax.evaluation.reconstruction import reconstruct_samples, short_names
from tests.evaluation.conftest import small_model
from tests.support import V2


@pytest.fixture
def texts(monkeypatch):
    """All words of the pictures that are written, besides the files themselves."""
    found, write = [], pictures.write

    def keep(figure, path):
        for axes in figure.findobj(Axes):  # those inside others too
            found.extend((axes.get_title(), axes.get_xlabel(), axes.get_ylabel()))
        found.append(figure.get_suptitle())
        write(figure, path)

    monkeypatch.setattr(pictures, "write", keep)
    return found


def overlapping(figure):
    """Pairs of texts that share some place, and texts that leave the figure."""
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    beyond = set()  # labels of ticks outside the axis, which are not drawn
    for axis in (axis for axes in figure.findobj(Axes) for axis in (axes.xaxis, axes.yaxis)):
        low, high = sorted(axis.get_view_interval())
        beyond |= {
            t for tick in axis.get_major_ticks() if not low <= tick.get_loc() <= high for t in tick.findobj(Text)
        }
    drawn = [text for text in figure.findobj(Text) if text.get_visible() and text.get_text().strip()]
    drawn = [text for text in drawn if text not in beyond]
    boxes = [(text.get_text(), text.get_window_extent(canvas.get_renderer())) for text in drawn]
    pairs = [(a, b) for n, (a, one) in enumerate(boxes) for b, other in boxes[n + 1 :] if one.overlaps(other)]
    return pairs + [(a, "edge") for a, box in boxes if box.x0 < 0 or box.y0 < 0]


@pytest.mark.slow
def test_reconstructions_of_two_checkpoints_side_by_side(held_out_scenes, tmp_path, texts):
    models = {"one": small_model(), "two": small_model(seed=0, norm_pix=True)}
    samples = reconstruct_samples(models, held_out_scenes, [4, 0, 5])
    assert [sample.name for sample in samples] == [f"synthetic_validation_{n:06d}" for n in (4, 0, 5)]
    assert samples[0].original.shape == (2, 64, 64)
    assert set(samples[0].reconstructions) == {"one", "two"}
    captions = {"one": "step 3, loss 0.5", "two": "step 4, loss 0.6"}
    draw_reconstructions(tmp_path / "new" / "a.png", samples, borrowed=True, captions=captions)
    image = imread(tmp_path / "new" / "a.png")
    assert image.shape[0] > 800
    assert image[..., :3].std() > 0.1
    assert {"original", "mixed input", "visible", "weight in the loss", "error"} <= set(texts)
    assert {f"visible + reconstruction\n{name}\n{caption}" for name, caption in captions.items()} <= set(texts)
    assert {"VH backscatter, dB", "VV backscatter, dB", "reconstruction - original, dB", "weight"} <= set(texts)
    assert any("taken from the truth (norm_pix)" in text for text in texts)


def test_samples_are_those_of_the_evaluation(held_out_scenes):
    """Whichever are asked for, masks, partners and reconstructions are those of the whole pass."""
    model = small_model()
    (whole, _), *_ = groups(model, held_out_scenes)
    samples = reconstruct_samples({"m": model}, held_out_scenes, [5, 2], inpainted=True)
    for number, sample in zip((5, 2), samples, strict=True):
        np.testing.assert_array_equal(sample.reconstructions["m"], whole.prediction_db[number])
        np.testing.assert_array_equal(sample.mixed, whole.mixed_db[number])
        np.testing.assert_array_equal(sample.hidden.ravel(), whole.mask[number] == 1)
        hidden = np.kron(sample.hidden, np.ones((32, 32))) == 1
        np.testing.assert_array_equal(sample.mixed[:, ~hidden], sample.original[:, ~hidden])
        np.testing.assert_allclose(sample.inpainted[:, ~hidden], sample.original[:, ~hidden], rtol=1e-6)
        assert not np.isclose(sample.mixed[:, hidden], sample.original[:, hidden]).all(axis=0).any()


def test_records_to_show_are_the_nearest_to_the_median_loss(held_out_scenes):
    result = evaluate_held_out(small_model(), held_out_scenes, None)
    assert result.record_losses.mean() == pytest.approx(result.loss)
    distance = np.abs(result.record_losses - np.median(result.record_losses))
    shown = result.nearest_to_median(3)
    assert len(set(shown)) == 3
    assert distance[shown].max() <= np.delete(distance, shown).min()
    assert len(result.nearest_to_median(50)) == 6


def test_every_row_has_the_scale_of_its_original(held_out_scenes):
    sample = reconstruct_samples({"m": small_model()}, held_out_scenes, [0], inpainted=True)[0]
    row = Figure().subplots(1, 8)
    for band in range(2):
        drawn = draw_row(row, sample, band)
        low, high = np.percentile(sample.original[band], (1, 99))
        assert drawn["db"].get_clim() == (low, high)
        for column in range(1, 6):
            assert row[column].images[-1].get_clim() == (low, high)
        assert drawn["weight"].get_clim() == tuple(np.percentile(sample.weights[band], (1, 99)))


def test_only_hidden_cells_are_filled_and_the_error_has_its_sign(held_out_scenes):
    sample = reconstruct_samples({"m": small_model()}, held_out_scenes, [0], inpainted=True)[0]
    row = Figure().subplots(1, 8)
    draw_row(row, sample, 1)
    hidden = np.kron(sample.hidden, np.ones((32, 32))) == 1
    visible, harmonic, filled, whole, error = (np.ma.filled(row[n].images[-1].get_array(), np.nan) for n in range(2, 7))
    np.testing.assert_array_equal(np.isnan(visible), hidden)
    for image, source in ((harmonic, sample.inpainted[1]), (filled, sample.reconstructions["m"][1])):
        np.testing.assert_array_equal(image[hidden], source[hidden])
        np.testing.assert_array_equal(image[~hidden], sample.original[1][~hidden])
    np.testing.assert_array_equal(error, whole - sample.original[1])


def test_outline_surrounds_the_hidden_cells():
    axes = _outline(Figure().subplots(), np.array([[True, True], [False, False]]))
    segments = axes.collections[0].get_segments()
    assert len(segments) == 6  # the frame of a block of one by two cells, not the line between them
    ends = np.concatenate(segments) + 0.5
    assert ends.min(axis=0).tolist() == [0, 0] and ends.max(axis=0).tolist() == [64, 32]


@pytest.mark.slow
def test_long_names_are_shortened_and_never_overlap(held_out_scenes, tmp_path, monkeypatch):
    kept, long = [], "S1B_IW_GRDH_1SDV_20180524T164402_33UXP_12_34_a_patch_of_a_set_of_a_long_name"
    monkeypatch.setattr(pictures, "write", lambda figure, path: kept.append(figure))
    models = {f"{long}_{which}": small_model() for which in ("first", "second")}
    samples = reconstruct_samples(models, held_out_scenes, [0], inpainted=True)
    samples = [dataclasses.replace(sample, name=long) for sample in samples]
    captions = dict.fromkeys(models, "step 1,234,567, loss 0.123")
    draw_reconstructions(tmp_path / "a.png", samples, borrowed=False, captions=captions)
    assert not overlapping(kept[0])
    titles = [axes.get_title() for axes in kept[0].axes]
    assert sum("first" in title for title in titles) == sum("second" in title for title in titles) == 1
    assert not any(long in title for title in titles)


def test_no_note_on_the_truth_where_nothing_is_borrowed(held_out_scenes, tmp_path, texts):
    draw_reconstructions(
        tmp_path / "a.png", reconstruct_samples({"m": small_model()}, held_out_scenes, [0]), borrowed=False
    )
    assert not any("truth" in text for text in texts)


@pytest.mark.parametrize("norm_pix", [False, True])
def test_correlation_stands_in_the_titles_and_axes_are_in_decibels(held_out_scenes, tmp_path, texts, norm_pix):
    result = evaluate_held_out(small_model(norm_pix=norm_pix), held_out_scenes, None)
    draw_correlation(tmp_path / "a.png", result, None if norm_pix else V2)
    assert imread(tmp_path / "a.png").ndim == 3
    for name, value, cell in zip(("VH", "VV"), result.correlations, result.cells["model"], strict=True):
        assert f"{name}: correlation {value:.3f}, inside cells {cell.inside_correlation:.3f}" in texts
    unit = "standardised per cell" if norm_pix else "dB"
    assert {f"truth, {unit}", f"reconstruction, {unit}"} <= set(texts)


def test_decibels_of_the_correlation_axes(held_out_scenes, tmp_path, monkeypatch):
    kept = []
    monkeypatch.setattr(pictures, "write", lambda figure, path: kept.append(figure))
    draw_correlation(tmp_path / "a.png", evaluate_held_out(small_model(), held_out_scenes, None), V2)
    for axes, mean, std in zip(kept[0].axes, V2.mean_db, V2.std_db, strict=False):
        assert axes.dataLim.intervalx == pytest.approx((mean - 3 * std, mean + 3 * std))


def test_loss_curve_with_and_without_validation(tmp_path, texts):
    train = [{"epoch": step / 10, "loss": float(np.exp(-step))} for step in range(10)]
    draw_loss(tmp_path / "a.png", train, [], None)
    draw_loss(tmp_path / "b.png", train, train[::3], 0.5)
    assert (tmp_path / "a.png").read_bytes() != (tmp_path / "b.png").read_bytes()
    assert "weighted loss" in texts


def test_short_names_distinguish_checkpoints():
    assert short_names(["runs/a", "runs/b/"]) == ["a", "b"]
    assert short_names(["x/checkpoints/4", "y/checkpoints/4"]) == ["x/checkpoints/4", "y/checkpoints/4"]
    with pytest.raises(UserError, match="the same checkpoint twice"):
        short_names(["runs/a", "runs/a"])
