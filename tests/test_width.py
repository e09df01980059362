"""How wide a blur is, by held-out pixels: what edges tell, and what nothing tells."""

import numpy as np
import pytest

from ssi_cupy import degrade, psf
from ssi_cupy.classical import width_profile
from ssi_cupy.physics import LearnedPSF
from ssi_cupy.psf.resampling import widened
from ssi_cupy.training.bracket import LOST, bracketed

THIRDS = 2.0 ** (np.arange(-3, 4) / 3)


def boxes(shape=(96, 90), sigma=2.0, noise=0.05, seed=3):
    """Boxes with sharp edges, blurred and noisy; along Z, of a volume, by half as much."""
    rng = np.random.default_rng(seed)
    image = np.zeros(shape)
    for _ in range(40):
        corner = [rng.integers(0, n) for n in shape]
        sizes = [rng.integers(3, max(n // 4, 5)) for n in shape]
        image[tuple(slice(c, c + s) for c, s in zip(corner, sizes, strict=True))] = rng.random()
    sigmas = (sigma,) * 2 if len(shape) == 2 else (sigma / 2, sigma, sigma)
    blurred = degrade.blur(image, psf.gaussian(sigmas), mode="mirror")
    return blurred + noise * rng.normal(size=shape)


def profile(image, start=2.0, noise=0.05, **options):
    return width_profile(image, lambda r: psf.gaussian(start * r), THIRDS, noise, **options)


@pytest.mark.parametrize("start", [1.3, 2.0, 3.2])
def test_edges_tell_the_width(start):
    found = profile(boxes(), start)
    assert found.best * start == pytest.approx(2, rel=0.15)
    low, high = found.interval()
    assert 0.7 < low * start / 2 < 1.05 and 0.95 < high * start / 2 < 1.4
    assert 0.8 < found.errors.min() < 1.3
    assert found.apart.min() == 0 and found.apart[[0, -1]].max() > 3


def test_noise_tells_nothing():
    found = profile(0.05 * np.random.default_rng(0).normal(size=(64, 64)))
    low, high = found.interval()
    assert low == 0 or high == np.inf


def test_what_is_masked_changes_nothing_and_the_same_seed_gives_the_same():
    image = boxes()
    masked = np.zeros(image.shape, bool)
    masked[10:20, 30:40] = True
    first, again = (
        profile(np.where(masked, value, image), masked=masked, seed=1) for value in (0.0, 50.0)
    )
    np.testing.assert_allclose(first.errors, again.errors, rtol=1e-6)
    np.testing.assert_array_equal(profile(image).errors, profile(image).errors)
    assert not np.array_equal(profile(image).errors, profile(image, seed=1).errors)


@pytest.mark.parametrize("shape", [(9, 8), (1, 9, 9), (7, 9, 9)])
def test_a_widened_psf(shape):
    sigmas = [1.2 if n > 1 else 1e-3 for n in shape]
    narrow = psf.gaussian(sigmas, size=[n // 2 * 2 + 5 if n > 1 else 1 for n in shape])
    wide = widened(narrow, 1.5)
    expected = psf.gaussian([1.5 * s if n > 1 else s for s, n in zip(sigmas, shape, strict=True)],
                            size=wide.shape)  # fmt: skip
    assert wide.sum() == pytest.approx(1) and abs(wide - expected).max() < 0.03 * expected.max()


@pytest.mark.parametrize("start", [0.6, 1.6])
def test_a_training_starts_near_the_width_whatever_the_guess(start):
    image = boxes()[None, None, None]
    found, error = bracketed(LearnedPSF(2 * start), image, None, 0)
    assert np.exp(found.guess[1]) == pytest.approx(2, rel=0.12)
    assert abs(found.guess[1] - np.log(2)) < 2 * error < 0.5


def test_a_training_starts_near_both_widths_of_a_volume():
    image = boxes((10, 30, 28), noise=0.02)[None, None]
    found, _ = bracketed(LearnedPSF((1.5, 1.5)), image, None, 0)
    assert np.exp(found.guess[:2]) == pytest.approx([1, 2], rel=0.2)


def test_where_nothing_is_told_the_guess_stays():
    image = np.random.default_rng(0).normal(size=(1, 1, 1, 64, 64))
    found, error = bracketed(LearnedPSF(1.7), image, None, 0)
    assert error == LOST and not found.found(found.parameters, error).told
    assert np.exp(found.guess[1]) == pytest.approx(1.7)
    frozen = LearnedPSF(1.7, learn=("shift",))
    assert bracketed(frozen, image, None, 0)[0] is frozen
