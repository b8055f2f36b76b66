import numpy as np
import pytest

from sarwmix_jax.evaluation.inpainting import harmonic_inpainting

ROWS, COLUMNS = np.indices((24, 24)).astype(np.float64)


def block(rows, columns):
    hidden = np.zeros((1, 24, 24), bool)
    hidden[0, rows, columns] = True
    return hidden


@pytest.mark.parametrize(
    "image",
    [
        ROWS + 2 * COLUMNS,
        ROWS * COLUMNS,
        ROWS**2 - COLUMNS**2,
        np.sin(0.3 * ROWS) * np.exp(np.arccosh(2 - np.cos(0.3)) * COLUMNS),
    ],
    ids=["plane", "saddle", "squares", "exponential"],
)
def test_discrete_harmonic_functions_are_found_exactly(image):
    """Functions whose value is everywhere the mean of the four neighbours: the solution is known."""
    hidden = block(slice(5, 19), slice(4, 17))
    image = image / np.abs(image).max()
    given = np.where(hidden[0], np.nan, image)[None, None]
    np.testing.assert_allclose(harmonic_inpainting(given, hidden)[0, 0], image, atol=1e-6)


def test_no_slope_across_the_edge_of_the_image():
    """Between columns 3 and 13 a straight line in every row, and beyond the last visible column a constant."""
    image = np.tile(np.where(COLUMNS[0] <= 3, 1.0, 6.0), (24, 1))[None, None]
    filled = harmonic_inpainting(image, block(slice(None), slice(4, 13)))[0, 0]
    np.testing.assert_allclose(filled[:, 3:14], np.tile(np.linspace(1, 6, 11), (24, 1)), atol=1e-5)
    beyond = harmonic_inpainting(image, block(slice(None), slice(14, None)))[0, 0]
    np.testing.assert_allclose(beyond[:, 14:], 6.0, atol=1e-5)


def test_every_image_and_band_has_its_own_pixels():
    rng = np.random.default_rng(0)
    images = rng.normal(size=(3, 2, 24, 24)).astype(np.float32)
    hidden = np.concatenate([block(slice(0, 8), slice(0, 8)), block(slice(8, 24), slice(0, 12))])[[0, 1, 0]]
    filled = harmonic_inpainting(images, hidden)
    for image, mask, together in zip(images, hidden, filled, strict=True):
        for band in range(2):
            alone = harmonic_inpainting(image[None, band : band + 1], mask[None])[0, 0]
            np.testing.assert_allclose(alone, together[band], atol=1e-6)
            np.testing.assert_array_equal(together[band][~mask], image[band][~mask])
            assert image[band].min() <= alone.min() and alone.max() <= image[band].max()


def test_nothing_and_everything_hidden():
    image = np.ones((1, 1, 24, 24), np.float32)
    np.testing.assert_array_equal(harmonic_inpainting(image, np.zeros((1, 24, 24), bool)), image)
    np.testing.assert_array_equal(harmonic_inpainting(image, np.ones((1, 24, 24), bool)), 0 * image)
