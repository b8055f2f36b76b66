import numpy as np
import pytest
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.image import imread

from sarwmix_jax.errors import UserError
from sarwmix_jax.evaluation import pictures
from sarwmix_jax.evaluation.held_out import evaluate_held_out
from sarwmix_jax.evaluation.pictures import draw_correlation, draw_loss, draw_reconstructions, draw_row
from sarwmix_jax.evaluation.reconstruction import reconstruct_samples, short_names
from tests.evaluation.conftest import small_model


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


def test_reconstructions_of_two_checkpoints_side_by_side(held_out_scenes, tmp_path, texts):
    models = {"one": small_model(), "two": small_model(seed=0, norm_pix=True)}
    samples = reconstruct_samples(models, held_out_scenes, 5)
    assert [sample.name for sample in samples] == [f"synthetic_validation_{n:06d}" for n in range(5)]
    assert samples[4].original.shape == (2, 64, 64)
    assert set(samples[0].reconstructions) == {"one", "two"}
    draw_reconstructions(tmp_path / "new" / "a.png", samples, borrowed=True)
    image = imread(tmp_path / "new" / "a.png")
    assert image.shape[0] > 1000
    assert image[..., :3].std() > 0.1
    assert {"original", "mixed input", "weight", "one\nreconstruction", "two\nreconstruction", "error"} <= set(texts)
    assert {"VH backscatter, dB", "VV backscatter, dB", "error, dB"} <= set(texts)
    assert any("taken from the truth (norm_pix)" in text for text in texts)


def test_every_row_has_the_scale_of_its_original(held_out_scenes):
    sample = reconstruct_samples({"m": small_model()}, held_out_scenes, 1)[0]
    row = Figure().subplots(1, 5)
    for band in range(2):
        drawn = draw_row(row, sample, band)
        low, high = np.percentile(sample.original[band], (1, 99))
        assert drawn["db"].get_clim() == (low, high)
        for column in (1, 3):  # mixed input and reconstruction
            assert row[column].images[-1].get_clim() == (low, high)


def test_no_note_on_the_truth_where_nothing_is_borrowed(held_out_scenes, tmp_path, texts):
    draw_reconstructions(
        tmp_path / "a.png", reconstruct_samples({"m": small_model()}, held_out_scenes, 1), borrowed=False
    )
    assert not any("truth" in text for text in texts)


def test_correlation_stands_in_the_titles(held_out_scenes, tmp_path, texts):
    result = evaluate_held_out(small_model(norm_pix=True), held_out_scenes, None)
    draw_correlation(tmp_path / "a.png", result, standardised_per_cell=True)
    assert imread(tmp_path / "a.png").ndim == 3
    for name, value in zip(("VH", "VV"), result.correlations, strict=True):
        assert f"{name}: correlation {value:.3f}" in texts
    assert "truth, standardised per cell" in texts


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
